"""Images in tar files, WebDataset shards and Hugging Face data sets: "tar:", "wds:" and "hfds:NAME".

hfds is indexed by timm's reader, the others in `attnorm.data.tars` and `attnorm.data.shards`. All three are random
access: the order of an epoch, resuming and evaluation over several processes are as exact as for a folder.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import partial
from typing import IO, Any

import torch

from attnorm.data.config import DataConfig, data_root
from attnorm.data.filedata import Source
from attnorm.data.folder import VAL_SPLITS, assemble
from attnorm.data.image_data import ImageData
from attnorm.data.shards import MissingSplitError, read_wds
from attnorm.data.tars import read_tar
from attnorm.errors import ConfigError, DataError


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
