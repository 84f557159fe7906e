"""The idx files of Fashion-MNIST (and of every MNIST-like set), checked while they are read.

An idx file is: two zero bytes, a type code (8: unsigned byte), the number of dimensions, each dimension as a big-endian
32-bit number, then the bytes.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import IO, cast

import numpy as np
import torch
from torch import Tensor

from attnorm.errors import DataError

_UBYTE = 8
_PREFIX = {"train": "train", "test": "t10k"}
_FOLDERS = ("", "FashionMNIST/raw", "raw", "fashion_mnist")


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """Read an idx file of unsigned bytes, plain or .gz.

    Args:
        path: the file.
        ndim: how many dimensions it must have (3 for images, 1 for labels).

    Raises:
        DataError: it is not such a file, or it is shorter or longer than its header says.
    """
    header = 4 + 4 * ndim
    magic = bytes([0, 0, _UBYTE, ndim])
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            start = file.read(header)
            if start[:4] != magic or len(start) < header:
                raise DataError(
                    f"{path} must be an idx file that begins with {magic.hex()}; it begins with {start[:4].hex()}"
                )
            shape = tuple(int(n) for n in np.frombuffer(start, ">u4", ndim, 4))
            content = _up_to(cast(IO[bytes], file), math.prod(shape) + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} must be a complete file: {error}; download it again") from error
    if len(content) != math.prod(shape):
        held = f"{len(content)} or more" if len(content) > math.prod(shape) else str(len(content))
        raise DataError(
            f"{path} must hold {math.prod(shape)} bytes after its header ({'x'.join(map(str, shape))}); "
            f"it holds {held}: download it again"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


def _up_to(file: IO[bytes], limit: int) -> bytes:
    """The next bytes, so many at most: what a header claims or an archive unfolds to is not taken on trust."""
    pieces: list[bytes] = []
    while limit > 0 and (piece := file.read(min(limit, 1 << 20))):
        pieces.append(piece)
        limit -= len(piece)
    return b"".join(pieces)


def _find(root: Path, name: str) -> Path:
    for folder in _FOLDERS:
        for suffix in ("", ".gz"):
            path = root / folder / (name + suffix)
            if path.is_file():
                return path
    raise DataError(
        f"{name} (or {name}.gz) must be in {root}, {root / 'raw'} or {root / 'FashionMNIST' / 'raw'}; it is in none: "
        "put Fashion-MNIST's four idx files there"
    )


def read_fashion_mnist(root: Path, part: str) -> tuple[Tensor, Tensor]:
    """Read a part ("train" or "test").

    Returns:
        images, uint8 (N, 1, 28, 28), and labels, int64 (N,), not yet checked for their range.

    Raises:
        DataError: a file is missing or damaged, or the two do not belong together.
    """
    prefix = _PREFIX[part]
    image_file, label_file = _find(root, f"{prefix}-images-idx3-ubyte"), _find(root, f"{prefix}-labels-idx1-ubyte")
    images, labels = read_idx(image_file, 3), read_idx(label_file, 1)
    if images.shape[1:] != (28, 28):
        raise DataError(f"{image_file} must hold images of 28x28; they are {images.shape[1]}x{images.shape[2]}")
    if len(images) != len(labels):
        raise DataError(f"{image_file} and {label_file} must have equal counts; got {len(images)} and {len(labels)}")
    return torch.from_numpy(images.copy())[:, None], torch.from_numpy(labels.astype(np.int64))
