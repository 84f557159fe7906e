"""The files of the official CIFAR archives, extracted or not: pickles, read as data, in a tar, never unpacked.

Each holds a dict with the images and their labels. No more is read than such a file can have, so neither an archive
that unfolds to any size nor a number that claims one takes more memory.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zlib
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from attnorm import inert_pickle
from attnorm.data.tar_members import TAR_ERRORS, Bounded, files_in
from attnorm.errors import DataError, shown
from attnorm.inert_pickle import UnreadableError

SIZE = 32
FILES = {
    ("cifar10", "train"): tuple(f"data_batch_{i}" for i in range(1, 6)),
    ("cifar10", "test"): ("test_batch",),
    ("cifar100", "train"): ("train",),
    ("cifar100", "test"): ("test",),
}
FOLDER = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
ARCHIVE = {"cifar10": "cifar-10-python.tar.gz", "cifar100": "cifar-100-python.tar.gz"}
_LABELS = {"cifar10": "labels", "cifar100": "fine_labels"}
MAX_FILE = 256 << 20  # bytes; the largest, CIFAR-100's training part, has 156 MB
MAX_MEMBERS = 100  # the archives have 9 and 5
MAX_UNPACKED = 1 << 30  # bytes; the archives have 187 MB
_ARCHIVE_ERRORS = (*TAR_ERRORS, zlib.error, lzma.LZMAError)


class _Array:
    """A numpy array as a pickle makes it: empty at first, then given its state."""

    content: bytes = b""
    shape: Any = ()

    def set_state(self, state: Any) -> None:
        """From (version, shape, dtype, whether it is in Fortran's order, bytes)."""
        _, shape, dtype, fortran, content = state
        content = content.encode("latin-1") if isinstance(content, str) else content  # Python 2's bytes
        if dtype != "u1" or fortran or not isinstance(content, bytes):
            raise UnreadableError("an array that is not of unsigned bytes in C's order")
        if not isinstance(shape, tuple) or not all(type(n) is int and 0 <= n < 1 << 63 for n in shape):
            raise UnreadableError("an array whose shape is no row of numbers")
        self.shape, self.content = shape, content


_CALLS: dict[str, Callable[..., Any]] = {
    "numpy.core.multiarray._reconstruct": lambda *_: _Array(),
    "numpy._core.multiarray._reconstruct": lambda *_: _Array(),
    "numpy.dtype": lambda code=None, *_: inert_pickle.text_of(code),
    "_codecs.encode": inert_pickle.encoded,
}


def read_batch(content: bytes, label_key: str, source: str) -> tuple[np.ndarray, np.ndarray]:
    """Read one file of the archives: a pickled dict with "data", uint8 (N, 3072), and a list of labels.

    Returns:
        images, uint8 (N, 3, 32, 32), and labels, int64 (N,).

    Raises:
        DataError: it is damaged or has other contents. What else it asks for is not done.
    """
    try:
        batch = inert_pickle.load(io.BytesIO(content), _CALLS)
        batch = {inert_pickle.text_of(key): value for key, value in batch.items()}
        data, labels = batch["data"], batch[label_key]
    except (UnreadableError, AttributeError, KeyError) as error:
        raise DataError(
            f"{source} must be a CIFAR batch, a pickled dict of images and labels: {_line(error)}"
        ) from None
    if not isinstance(data, _Array) or not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise DataError(f"{source} must hold data, an array of unsigned bytes, and {label_key}, a list of numbers")
    if data.shape != (len(labels), 3 * SIZE * SIZE) or len(data.content) != len(labels) * 3 * SIZE * SIZE:
        got = f"uint8 {shown(repr(data.shape))} in {len(data.content)} bytes"
        raise DataError(f"{source} must hold uint8 data of {len(labels)} x 3072; got {got}")
    if not all(-1 << 63 <= label < 1 << 63 for label in labels):
        raise DataError(f"{source} must hold labels from 0; some have more than 64 bits")
    return np.frombuffer(data.content, np.uint8).reshape(-1, 3, SIZE, SIZE), np.array(labels, dtype=np.int64)


def find_files(root: Path, name: str) -> Callable[[str], bytes] | None:
    """A function from a file's name to its content; None when neither folder nor archive is there."""
    for folder in (root / FOLDER[name], root):
        if (folder / FILES[name, "test"][0]).is_file():
            return lambda file: _read_file(folder / file)
    archive = root / ARCHIVE[name] if root.is_dir() else root
    return (lambda file: _read_member(archive, f"{FOLDER[name]}/{file}")) if archive.is_file() else None


def read_part(root: Path, name: str, split: str, read: Callable[[str], bytes]) -> tuple[np.ndarray, np.ndarray]:
    """The images and labels of a part, see `read_batch`.

    Args:
        root: where the files are, for messages.
        name: "cifar10" or "cifar100".
        split: "train" or "test".
        read: from `find_files`.
    """
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    for file in FILES[name, split]:
        try:
            content = read(file)
        except _ARCHIVE_ERRORS as error:
            raise DataError(
                f"{root} must hold {FOLDER[name]}/{file}: {_line(error)}; download the archive again"
            ) from error
        parts.append(read_batch(content, _LABELS[name], f"{root}: {file}"))
    images, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
    return images, labels


def _read_file(path: Path) -> bytes:
    if not path.is_file():
        raise OSError(f"there is no file {path}")
    with path.open("rb") as file:
        return Bounded(file, MAX_FILE, MAX_FILE).read()


def _read_member(archive: Path, name: str) -> bytes:
    with archive.open("rb") as packed:
        start = packed.read(3)
    unpackers: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b\x08": gzip.open, b"BZh": bz2.open, b"\xfd7z": lzma.open}
    with (
        unpackers.get(start, open)(archive, "rb") as file,
        tarfile.open(fileobj=Bounded(file, MAX_FILE, MAX_UNPACKED), mode="r:") as tar,
    ):
        for member in islice(files_in(tar), MAX_MEMBERS):
            if member.name == name:
                content = tar.extractfile(member)
                return content.read() if content is not None else b""
    raise tarfile.ReadError(f"the archive does not have it among its first {MAX_MEMBERS} members")


def _line(error: Exception) -> str:
    return shown(" ".join(str(error).split()), 200)
