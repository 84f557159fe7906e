"""Shards of small files for tests, written by tarfile alone, and what several processes make of them."""

import io
import tarfile
from pathlib import Path

import numpy as np
import torch.distributed as dist
from PIL import Image

from attnorm.data.shards import read_wds
from attnorm.errors import DataError


def write_shard(path: Path, samples: list[dict[str, bytes]], first: int = 0, key: str = "{:06d}") -> None:
    """One sample is a dict from extension to content; its name comes of its number."""
    with tarfile.open(path, "w") as tar:
        for number, sample in enumerate(samples, start=first):
            for extension, content in sample.items():
                member = tarfile.TarInfo(f"{key.format(number)}.{extension}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def png(number: int) -> bytes:
    """A grey image of one pixel more than nothing, whose level is the number."""
    file = io.BytesIO()
    Image.new("L", (4, 4), number).save(file, format="png")
    return file.getvalue()


def write_image_shards(root: Path, sizes: list[int], split: str = "train") -> None:
    """Shards of so many images each; the label of an image, and its grey level, is its number."""
    starts = np.cumsum([0, *sizes])
    for number, (start, size) in enumerate(zip(starts, sizes, strict=False)):
        samples = [{"png": png(i), "cls": str(i).encode()} for i in range(start, start + size)]
        write_shard(root / f"{split}-{number:04d}.tar", samples, int(start))


def index_in_process(rank: int, count: int, meeting: str, root: str, output: str) -> None:
    """Index the shards of "train" and of "damaged" as one of several processes; save or write down what comes."""
    dist.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=count)
    source = read_wds(Path(root), "train")
    contents = [source.open(i).read() for i in range(len(source.labels))]
    np.savez(f"{output}/{rank}.npz", labels=source.labels, starts=source.shards, contents=np.array(contents, object))
    try:
        read_wds(Path(root), "damaged")
    except DataError as error:
        Path(f"{output}/{rank}.txt").write_text(str(error))
    dist.destroy_process_group()
