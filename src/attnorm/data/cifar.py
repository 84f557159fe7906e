"""CIFAR-10 and CIFAR-100: the official python archives, extracted or not, or folders of images."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import pickle
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnorm.data.bad_images import LONGEST
from attnorm.data.config import DataConfig, shortened
from attnorm.data.folder import scan_folder
from attnorm.data.image_files import read_image
from attnorm.data.images import eval_transform
from attnorm.errors import DataError, shown
from attnorm.files import replacing

log = logging.getLogger("attnorm.data")

SIZE = 32
_FILES = {
    ("cifar10", "train"): tuple(f"data_batch_{i}" for i in range(1, 6)),
    ("cifar10", "test"): ("test_batch",),
    ("cifar100", "train"): ("train",),
    ("cifar100", "test"): ("test",),
}
_FOLDER = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
_ARCHIVE = {"cifar10": "cifar-10-python.tar.gz", "cifar100": "cifar-100-python.tar.gz"}
_LABELS = {"cifar10": "labels", "cifar100": "fine_labels"}


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes encoded as {encoding}")
    return text.encode("latin1")


def _allowed() -> dict[tuple[str, str], Any]:
    from numpy._core.multiarray import _reconstruct  # pyright: ignore[reportAttributeAccessIssue]

    return {
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _latin1,  # how Python 3 writes bytes in an old protocol
    }


class _ArrayUnpickler(pickle.Unpickler):
    """Reads plain containers, numbers, text and numpy arrays; everything else could run code and is refused."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        try:
            return _allowed()[module_name, global_name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}") from None


def read_batch(content: bytes, label_key: str, source: str) -> tuple[np.ndarray, np.ndarray]:
    """Read one file of the archives: a pickled dict with "data", uint8 (N, 3072), and a list of labels.

    Returns:
        images, uint8 (N, 3, 32, 32), and labels, int64 (N,).

    Raises:
        DataError: it is damaged, has other contents, or asks for anything but arrays and plain values.
    """
    try:
        batch = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
        batch = {k.decode() if isinstance(k, bytes) else k: v for k, v in batch.items()}
        data, labels = np.asarray(batch["data"]), np.asarray(batch[label_key], dtype=np.int64)
    except Exception as error:  # a damaged pickle raises nearly anything
        raise DataError(f"{source} must be a CIFAR batch, a pickle of arrays and plain values only: {error}") from error
    if data.dtype != np.uint8 or data.shape != (len(labels), 3 * SIZE * SIZE):
        raise DataError(f"{source} must hold uint8 data of {len(labels)} x 3072; got {data.dtype} {data.shape}")
    return data.reshape(-1, 3, SIZE, SIZE), labels


def _batches(root: Path, name: str) -> Callable[[str], bytes] | None:
    """A function from a batch file's name to its content; None when neither folder nor archive is there."""
    for folder in (root / _FOLDER[name], root):
        if (folder / _FILES[name, "test"][0]).is_file():
            return lambda file: (folder / file).read_bytes()
    archive = root / _ARCHIVE[name] if root.is_dir() else root
    if not archive.is_file():
        return None

    def read_member(file: str) -> bytes:
        with tarfile.open(archive) as tar:
            member = tar.extractfile(f"{_FOLDER[name]}/{file}")
            if member is None:
                raise KeyError(file)
            return member.read()

    return read_member


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
    name = config.dataset
    read = _batches(root, name)
    if read is None:
        return _read_folder(root, config, classes, split)
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    for file in _FILES[name, split]:
        try:
            content = read(file)
        except (OSError, KeyError, EOFError, zlib.error, tarfile.TarError) as error:
            raise DataError(f"{root} must hold {_FOLDER[name]}/{file}: {error}; download the archive again") from error
        parts.append(read_batch(content, _LABELS[name], f"{root}: {file}"))
    images, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
    return torch.from_numpy(images), torch.from_numpy(labels)


def has_val_folder(root: Path) -> bool:
    """Whether the data are image folders that come with a validation part of their own beside the test part."""
    return all((root / split).is_dir() for split in ("train", "val", "test"))


def _read_folder(root: Path, config: DataConfig, classes: tuple[str, ...], split: str) -> tuple[Tensor, Tensor]:
    name = config.dataset
    if not (root / "train").is_dir():
        raise DataError(
            f"{root} must hold {_FOLDER[name]}, {_ARCHIVE[name]} or the folders train/<class> and test/<class>; "
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
