"""CIFAR-10 and CIFAR-100: the official python archives, extracted or not, or folders of images."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from attnorm.data.bad_images import LONGEST
from attnorm.data.cifar_files import ARCHIVE, FOLDER, SIZE, find_files, read_part
from attnorm.data.config import DataConfig, shortened
from attnorm.data.folder import scan_folder
from attnorm.data.image_files import read_image
from attnorm.data.images import eval_transform
from attnorm.errors import DataError, shown
from attnorm.files import replacing

log = logging.getLogger("attnorm.data")


def read_cifar(root: Path, config: DataConfig, classes: tuple[str, ...], split: str) -> tuple[Tensor, Tensor]:
    """Read a part ("train", "test", or "val" where `has_val_folder`).

    Args:
        root: the folder with the extracted archive, with the archive, or with train/<class>/<image> and test/...; or
            the archive itself.
        config: dataset (cifar10 or cifar100), interpolation and max_bad_images are used.
        classes: the class names, which folders of images must be called by.
        split: the part.

    Returns:
        images, uint8 (N, 3, 32, 32), and labels, int64 (N,), not yet checked for their range.
    """
    read = find_files(root, config.dataset)
    if read is None:
        return _read_folder(root, config, classes, split)
    images, labels = read_part(root, config.dataset, split, read)
    return torch.from_numpy(images), torch.from_numpy(labels)


def has_val_folder(root: Path) -> bool:
    """Whether the data are image folders that come with a validation part of their own beside the test part."""
    return all((root / split).is_dir() for split in ("train", "val", "test"))


def _read_folder(root: Path, config: DataConfig, classes: tuple[str, ...], split: str) -> tuple[Tensor, Tensor]:
    name = config.dataset
    if not (root / "train").is_dir():
        raise DataError(
            f"{root} must hold {FOLDER[name]}, {ARCHIVE[name]} or the folders train/<class> and test/<class>; "
            "it holds none of them"
        )
    folder = next((root / s for s in (split, "val") if (root / s).is_dir()), root / split)
    source = scan_folder(folder)
    if source.classes != classes:
        wrong = shortened(sorted(set(source.classes) ^ set(classes)))
        raise DataError(f"{folder} must hold the {len(classes)} class folders of {name}; wrong or missing: {wrong}")
    return _decode(list(source.names), source.labels, config, folder)


def _decode(paths: list[str], labels: Tensor, config: DataConfig, folder: Path) -> tuple[Tensor, Tensor]:
    """Decode all files into one tensor, or take it from the cache; unreadable ones are named and left out."""
    cache = _cache_file(paths, config.interpolation)
    if cache.is_file():
        return torch.from_numpy(np.load(cache)), labels
    log.info("decoding %d images of %s, once; kept in %s", len(paths), folder, cache)
    transform = eval_transform(SIZE, 1.0, config.interpolation)
    images: list[Tensor] = []
    bad: list[int] = []
    for i, path in enumerate(paths):
        try:
            images.append(transform(read_image(path)))
        except DataError as error:
            log.warning("skipped %s: %s", shown(path, LONGEST), error)
            bad.append(i)
            if len(bad) > config.max_bad_images:
                raise DataError(
                    f"{folder}: at most {config.max_bad_images} images may be unreadable (max_bad_images); found more: "
                    f"{shortened([shown(paths[i], LONGEST) for i in bad], 20)}; mend or remove them"
                ) from error
    stacked = torch.stack(images) if images else torch.empty(0, 3, SIZE, SIZE, dtype=torch.uint8)
    if bad:
        keep = torch.ones(len(paths), dtype=torch.bool)
        keep[bad] = False
        return stacked, labels[keep]
    _save(cache, stacked)
    return stacked, labels


def _cache_file(paths: list[str], interpolation: str) -> Path:
    """The cache's name depends on every file's path, size and time of change, and on how it is decoded."""
    digest = hashlib.sha256(f"1 {SIZE} {interpolation}".encode())
    for path in paths:
        stat = os.stat(path)
        digest.update(f"\0{os.path.abspath(path)} {stat.st_size} {stat.st_mtime_ns}".encode())
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "attnorm" / f"cifar-{digest.hexdigest()[:24]}.npy"


def _save(cache: Path, images: Tensor) -> None:
    try:
        with replacing(cache) as temporary, temporary.open("wb") as file:
            np.save(file, images.numpy())
    except OSError as error:  # a home that cannot be written to: decode again next time
        log.info("not kept: %s", error)
