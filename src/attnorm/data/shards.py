"""Local WebDataset shards, "wds:": an index with which every image can be read at once, of some 25 bytes per image.

timm reads shards as a stream, which cannot be resumed in mid-epoch, and repeats or drops images when several processes
evaluate. An index makes them as exact as a folder. It takes one pass over the tars' headers, a minute of a core for
ImageNet; several processes divide the shards among themselves.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import distributed

from attnorm.data.filedata import Source
from attnorm.data.tar_members import TAR_ERRORS, check_end, files_in, open_tar
from attnorm.errors import DataError

_IMAGES = ("jpg", "jpeg", "png", "webp")
_LABEL_BYTES = 32  # a .cls member is a number in decimal digits, perhaps with a line's end
_CLASSES = 1 << 20  # names are made for all numbers up to the largest: a damaged label must not fill the memory


class MissingSplitError(DataError):
    """The split is not there (as opposed to: it is damaged)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ShardIndex(Sequence[str]):
    """Where each image lies; as a sequence, the images' names, which are looked up in the shard when asked for.

    Attributes:
        shards: the paths of the S shards.
        starts: the number of each shard's first image, and at the end the number of images; int64 (S + 1,).
        offset: where in its shard an image begins, bytes; int64 (N,).
        size: its length, bytes; int64 (N,).
    """

    shards: tuple[str, ...]
    starts: np.ndarray
    offset: np.ndarray
    size: np.ndarray

    def __len__(self) -> int:
        return len(self.offset)

    def __getitem__(self, index: int) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]  # no slices
        shard, offset = self._shard(index), self.offset[index]
        try:
            with open_tar(Path(shard)) as tar:
                return f"{shard}:{next(member.name for member in tar if member.offset_data == offset)}"
        except (*TAR_ERRORS, StopIteration):  # what cannot be read any more must be named all the same
            return f"{shard}:(image at byte {offset})"

    def open(self, index: int) -> IO[bytes]:
        """The image's bytes."""
        with open(self._shard(index), "rb") as file:
            file.seek(int(self.offset[index]))
            return io.BytesIO(file.read(int(self.size[index])))

    def _shard(self, index: int) -> str:
        return self.shards[np.searchsorted(self.starts, index, side="right") - 1]


def read_wds(root: Path, split: str) -> Source:
    """Index local WebDataset shards: members NAME.jpg (jpeg, png, webp) with NAME.cls, the label as a number.

    With torch.distributed initialised each process reads its share of the shards, and all must call this.

    Raises:
        DataError: a shard is missing or damaged, or a sample has no image or no number as its label.
    """
    shards = find_shards(root, split)
    found = _on_all_processes(shards)
    offset, size, labels = np.concatenate(found, axis=1)
    starts = np.cumsum([0, *(columns.shape[1] for columns in found)])
    index = ShardIndex(shards=tuple(map(str, shards)), starts=starts, offset=offset, size=size)
    count = max(int(labels.max(initial=-1)) + 1, 0)
    return Source(
        classes=tuple(map(str, range(count))),
        labels=torch.from_numpy(labels),
        names=index,
        open=index.open,
        shards=starts,
    )


def find_shards(root: Path, split: str) -> list[Path]:
    """The shard files of a split: by _info.json, as <split>*.tar, or by a name with {000..012} in it."""
    for info in (root / "_info.json", root / "info.json"):
        if info.is_file():
            try:
                splits = json.loads(info.read_text()).get("splits", {})
                if split in splits:
                    return [root / name for name in splits[split]["filenames"]]
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise DataError(
                    f'{info} must be JSON with "splits", each with "filenames": {type(error).__name__} {error}'
                ) from error
    braces = re.fullmatch(r"(.*)\{(\d+)\.\.(\d+)\}(.*)", split)
    if braces:
        head, first, last, tail = braces.groups()
        return [root / f"{head}{i:0{len(first)}d}{tail}" for i in range(int(first), int(last) + 1)]
    shards = sorted((root / split).glob("*.tar")) or sorted(root.glob(f"{split}*.tar"))
    if not shards:
        raise MissingSplitError(f"{root} must hold shards {split}*.tar (or name them in _info.json); it holds none")
    return shards


def _on_all_processes(shards: Sequence[Path]) -> list[np.ndarray]:
    """`_index` of every shard, each made by one process; an error in one is raised in all."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [_index(shard) for shard in shards]
    rank, count = distributed.get_rank(), distributed.get_world_size()
    mine: list[np.ndarray] = []
    problem: str | None = None
    try:
        mine += [_index(shard) for shard in shards[rank::count]]
    except DataError as error:
        problem = str(error)
    answers: list[Any] = [None] * count
    distributed.all_gather_object(answers, (mine, problem))
    for _, problem in answers:
        if problem is not None:
            raise DataError(problem)
    return [answers[i % count][0][i // count] for i in range(len(shards))]


def _index(shard: Path) -> np.ndarray:
    """Offset, size and label of the images in a shard, int64 (3, images)."""
    columns = array("q"), array("q"), array("q")
    try:
        for key, fields, tar in _samples(shard):
            image = next((fields[e] for e in _IMAGES if e in fields), None)
            file = tar.extractfile(fields["cls"]) if "cls" in fields else None
            if image is None or file is None:
                raise DataError(f"{shard}: sample {key} must have an image and a .cls; it has {', '.join(fields)}")
            label = int(file.read(_LABEL_BYTES))
            if label >= _CLASSES:
                raise DataError(f"{shard}: sample {key} must have a label below {_CLASSES}; it has {label}")
            for column, value in zip(columns, (image.offset_data, image.size, label), strict=True):
                column.append(value)
    except TAR_ERRORS as error:
        raise DataError(f"{shard} must be an uncompressed tar of images with .cls labels: {error}") from error
    return np.array(columns, dtype=np.int64)


def _samples(shard: Path) -> Iterator[tuple[str, dict[str, tarfile.TarInfo], tarfile.TarFile]]:
    """The samples of a shard: consecutive members with one key (the path up to the name's first dot)."""
    with open_tar(shard) as tar:
        key, fields = "", dict[str, tarfile.TarInfo]()
        for member in files_in(tar):
            folder, _, base = member.name.rpartition("/")
            stem, _, extension = base.partition(".")
            if f"{folder}/{stem}" != key and fields:
                yield key, fields, tar
                fields = {}
            key = f"{folder}/{stem}"
            fields[extension.lower()] = member
        if fields:
            yield key, fields, tar
        check_end(tar)
