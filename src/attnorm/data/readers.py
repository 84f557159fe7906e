"""Images in tar files, WebDataset shards and Hugging Face data sets: "tar:", "wds:" and "hfds:NAME".

tar and hfds are indexed by timm's readers, shards in `attnorm.data.shards`. All three are random access: the order of
an epoch, resuming and evaluation over several processes are as exact as for a folder.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from attnorm.data.config import DataConfig, data_root
from attnorm.data.filedata import Source
from attnorm.data.folder import VAL_SPLITS, assemble
from attnorm.data.image_data import ImageData
from attnorm.data.shards import MissingSplitError, read_wds
from attnorm.errors import ConfigError, DataError


@dataclass(frozen=True, kw_only=True)
class _Extents:
    """Files inside other files: where each begins and how long it is, all arrays (N,)."""

    containers: tuple[str, ...]
    container: np.ndarray
    offset: np.ndarray
    size: np.ndarray

    def open(self, index: int) -> IO[bytes]:
        with open(self.containers[self.container[index]], "rb") as file:
            file.seek(int(self.offset[index]))
            return io.BytesIO(file.read(int(self.size[index])))


def _extents(rows: Sequence[tuple[str, int, int]]) -> _Extents:
    containers = tuple(dict.fromkeys(row[0] for row in rows))
    number = {name: i for i, name in enumerate(containers)}
    return _Extents(
        containers=containers,
        container=np.array([number[row[0]] for row in rows], dtype=np.int32),
        offset=np.array([row[1] for row in rows], dtype=np.int64),
        size=np.array([row[2] for row in rows], dtype=np.int64),
    )


def read_tar(root: Path, split: str) -> Source:
    """Index root/<split>.tar, or the tars of the folder root/<split>, by timm's reader; the class is the folder's name.

    Raises:
        DataError: there is none, or it is not an uncompressed tar of images in class folders.
    """
    place = next((p for p in (root / f"{split}.tar", root / split) if p.exists()), None)
    if place is None:
        raise MissingSplitError(f"{root} must hold {split}.tar or a folder {split} of tar files; it holds neither")
    from timm.data.readers.reader_image_in_tar import ReaderImageInTar

    try:
        reader: Any = ReaderImageInTar(str(place))
    except (AssertionError, ValueError, OSError, tarfile.TarError) as error:
        raise DataError(
            f"{place} must be an uncompressed tar of <class>/<image>, or a folder of such: {error}"
        ) from error
    if "" in reader.class_name_to_idx:
        raise DataError(f"{place} must hold its images in one folder per class; some are in none")
    found: list[tuple[str, str, str, tuple[str, int, int]]] = []
    for (member, parent, child), target in zip(reader.samples, reader.targets, strict=True):
        file = str(place if parent is None else place / parent)
        # a tar within a tar: its members are counted from its own beginning
        start = member.offset_data + (child.offset_data if child else 0)
        label = reader.class_idx_to_name[int(target)]
        found.append((label, f"{file}:{child.name}" if child else file, member.name, (file, start, member.size)))
    # timm leaves the order of several tars to the file system; as in a folder it is by class, then by name
    found.sort()
    classes = tuple(sorted(reader.class_name_to_idx))
    number = {name: i for i, name in enumerate(classes)}
    return Source(
        classes=classes,
        labels=torch.tensor([number[f[0]] for f in found]),
        names=[f"{f[1]}:{f[2]}" for f in found],
        open=_extents([f[3] for f in found]).open,
    )


def _open_hfds(reader: Any, index: int) -> IO[bytes]:
    with reader[index][0] as file:
        return io.BytesIO(file.read())


def read_hfds(name: str, cache: str | None, split: str) -> Source:
    """Read a Hugging Face data set (columns "image" and "label") by timm's reader; data_dir is its cache.

    Raises:
        ConfigError: the package `datasets` is not installed.
        DataError: the data set or its split is not there, or its columns are others.
    """
    try:
        import datasets as _  # pyright: ignore[reportMissingImports]  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"dataset hfds:{name} needs the package datasets: pip install datasets") from error
    from timm.data.readers.reader_factory import create_reader

    try:
        reader: Any = create_reader(f"hfds/{name}", root=cache, split=split)
        labels = torch.tensor(list(reader.iter_targets()), dtype=torch.int64)
    except Exception as error:  # the package raises a great many kinds
        kind = MissingSplitError if "split" in str(error).lower() else DataError
        raise kind(f"hfds:{name} must have a split {split} with columns image and label: {_line(error)}") from error
    numbers = {v: k for k, v in reader.class_to_idx.items()} or {i: str(i) for i in range(int(labels.max()) + 1)}
    classes = tuple(str(numbers[i]) for i in range(len(numbers)))
    names = [f"hfds:{name} {split} image {i}" for i in range(len(labels))]
    return Source(classes=classes, labels=labels, names=names, open=partial(_open_hfds, reader))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def load_reader(config: DataConfig, parts: Sequence[str], classes: Sequence[str] | None = None) -> ImageData:
    """Read "tar:", "wds:" or "hfds:NAME"; see `load_data`. What follows "tar:" or "wds:" is a folder in data_dir."""
    assert config.reader is not None
    kind, name = config.reader
    if kind == "hfds":
        read = partial(read_hfds, name, config.data_dir)
    else:
        read = partial(read_tar if kind == "tar" else read_wds, data_root(config) / name)

    def read_val() -> Source:
        for split in VAL_SPLITS if config.val_split is None else ():
            try:
                return read(split)
            except MissingSplitError:
                continue
        return read(config.val_split or VAL_SPLITS[0])

    def name_classes() -> Sequence[str]:
        try:
            return read(config.train_split).classes
        except MissingSplitError:
            return read_val().classes

    return assemble(config, parts, classes, {"train": partial(read, config.train_split), "val": read_val}, name_classes)
