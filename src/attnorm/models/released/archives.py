"""Checkpoint files of every kind that torch wrote since 2017, and safetensors, opened without running their pickles.

| kind | written by | what it is |
|---|---|---|
| "legacy" | torch before 1.6 (the released weights are of 2019) | five pickles one after another, then the storages |
| "zip" | torch from 1.6 on | an uncompressed zip: data.pkl and one file per storage |
| "safetensors" | safetensors | named tensors |

All sizes are checked against the file's before memory is taken.
"""

import io
import math
import mmap
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor

from attnorm.errors import CheckpointError, shown
from attnorm.inert_pickle import UnreadableError, text_of
from attnorm.models.released import pickles
from attnorm.models.released.described import Storage, TensorEntry, count_of

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_LEGACY = b"\x80\x02\x8a\x0a" + _MAGIC.to_bytes(10, "little") + b"."
MAX_PICKLE = 256 << 20  # bytes; a checkpoint's holds names and shapes, some 1 MB
_AGAIN = "download or copy it again"


@dataclass(frozen=True)
class Archive:
    """An open checkpoint.

    Attributes:
        kind: "legacy", "zip" or "safetensors".
        content: What was saved; see :func:`attnorm.models.released.pickles.load`. Tensors are described, not read.
        size: Of the file, in bytes.
        numbers: Gives the bytes of a storage, from its beginning.
    """

    kind: str
    content: Any
    size: int
    numbers: Callable[[Storage], bytes]

    def read(self, entries: Mapping[str, TensorEntry | Tensor]) -> dict[str, Tensor]:
        """Read the values of tensors; those of one storage share memory.

        Raises:
            UnreadableError: If a tensor reaches beyond its storage, or they hold more together than the file.
        """
        cache: dict[tuple[str, torch.dtype], Tensor] = {}
        needed = {(e.storage.key, e.dtype): e.storage for e in entries.values() if isinstance(e, TensorEntry)}
        if sum((s.offset + s.numel) * s.dtype.itemsize for s in needed.values()) > self.size:
            raise UnreadableError("its tensors are larger than the file")
        for key, storage in needed.items():
            content = bytearray(self.numbers(storage))  # writable: torch takes no other memory
            cache[key] = torch.frombuffer(content, dtype=storage.dtype) if content else torch.empty(0, dtype=key[1])
        return {
            name: _view(entry, cache[entry.storage.key, entry.dtype]) if isinstance(entry, TensorEntry) else entry
            for name, entry in entries.items()
        }


def _view(entry: TensorEntry, numbers: Tensor) -> Tensor:
    storage = entry.storage
    last = entry.offset + sum((n - 1) * step for n, step in zip(entry.shape, entry.stride, strict=True))
    # The product too: with strides of 0 one number could stand for any size.
    if 0 in entry.shape or last >= storage.numel or math.prod(entry.shape) > storage.numel:
        raise UnreadableError("a tensor is empty or reaches beyond its storage")
    return numbers.as_strided(entry.shape, entry.stride, storage.offset + entry.offset)


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open a checkpoint of any kind.

    Raises:
        CheckpointError: If it is missing, no checkpoint, damaged, cut short or means something that none needs; also
            for what is found while the file is open.
    """
    if not path.is_file():
        what = "a folder" if path.is_dir() else "nothing"
        raise CheckpointError(f"a checkpoint must be a file, and there is {what} at {path}")
    with path.open("rb") as file:
        opener = _opener(path, file.read(512))
        file.seek(0)
        try:
            with opener(file) as archive:
                yield archive
        except UnreadableError as error:
            cause = shown(str(error), 200)
            raise CheckpointError(
                f"{path} must be a whole checkpoint, but it is damaged or cut short ({cause}); {_AGAIN}"
            ) from None


def _opener(path: Path, start: bytes) -> Callable[[IO[bytes]], Any]:
    """What opens a file that starts so, or a word about what it is instead."""
    if start.startswith(b"PK\x03\x04"):
        return _zip
    if start.startswith(_LEGACY):
        return _legacy
    if len(start) > 9 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
        return _safetensors
    raise CheckpointError(f"{path} must be a checkpoint of torch or safetensors, but it is {_instead(start)}")


def _instead(start: bytes) -> str:
    if not start:
        return f"empty: {_AGAIN}"
    if start.lstrip()[:9].lower().startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return (
            "a web page, such as Google Drive's question before a large download: open the link in a browser, "
            "confirm, and give the file that comes"
        )
    if start[257:262] == b"ustar":
        return "a tar archive: unpack it (tar -xf) and give the checkpoint that is in it"
    if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!")):
        return "compressed: unpack it and give the checkpoint that is in it"
    if start.startswith(b"\x80"):
        return "a pickle that torch.save did not write: its weights cannot be told"
    return f"something else (it starts with {start[:8]!r}): {_AGAIN}"


@contextmanager
def _zip(file: IO[bytes]) -> Iterator[Archive]:
    with _entries(file) as archive:
        records = {info.filename.partition("/")[2]: info for info in archive.infolist()}
        if "constants.pkl" in records:
            raise UnreadableError("it is a TorchScript program, not weights")
        if "data.pkl" not in records:
            raise UnreadableError("a zip without data.pkl, which torch.save writes")
        size = file.seek(0, io.SEEK_END)

        def record(name: str, limit: int) -> bytes:
            info = records.get(name)
            # Compressed records could unfold to any size; torch writes none.
            if info is None or info.compress_type != zipfile.ZIP_STORED or not info.file_size <= limit:
                raise UnreadableError(f"its record {name!r} is missing, compressed or too large")
            try:
                return archive.read(info)
            except _ZIP_ERRORS as error:
                raise UnreadableError(f"its record {name!r} cannot be read: {error}") from None

        if "byteorder" in records and record("byteorder", 16) != b"little":
            raise UnreadableError("its numbers are big-endian")

        def numbers(storage: Storage) -> bytes:
            content = record(f"data/{storage.key}", size)
            end = (storage.offset + storage.numel) * storage.dtype.itemsize
            if end > len(content):
                raise UnreadableError(f"storage {storage.key!r} is shorter than its tensors")
            return content[:end]

        content, _ = pickles.load(io.BytesIO(record("data.pkl", MAX_PICKLE)))
        yield Archive("zip", content, size, numbers)


# What Python's zipfile raises for damaged ones: offsets outside the file, wrong sums, names in no encoding, passwords.
_ZIP_ERRORS = (zipfile.BadZipFile, OSError, ValueError, RuntimeError, EOFError, struct.error)


def _entries(file: IO[bytes]) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except _ZIP_ERRORS as error:
        raise UnreadableError(f"not a whole zip: {error}") from None


@contextmanager
def _legacy(file: IO[bytes]) -> Iterator[Archive]:
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
        stream = cast(IO[bytes], memory)  # and its read, unlike a file's, takes no more memory than there are bytes
        if pickles.load(stream)[0] != _MAGIC or pickles.load(stream)[0] != _PROTOCOL:
            raise UnreadableError("a version of torch's format that was never released")
        system = pickles.load(stream)[0]
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise UnreadableError("its numbers are big-endian")
        content, storages = pickles.load(stream)
        places = _places(memory, pickles.load(stream)[0], storages)

        def numbers(storage: Storage) -> bytes:
            start, end = places.get(storage.key, (0, 0))
            length = (storage.offset + storage.numel) * storage.dtype.itemsize
            if start + length > end:
                raise UnreadableError(f"storage {storage.key!r} is missing or shorter than its tensors")
            return memory[start : start + length]

        yield Archive("legacy", content, len(memory), numbers)


def _places(memory: mmap.mmap, keys: Any, storages: dict[str, Storage]) -> dict[str, tuple[int, int]]:
    """Where each storage's numbers begin and end: one after another in the order of the keys, behind their count."""
    places: dict[str, tuple[int, int]] = {}
    position = memory.tell()
    for key in map(text_of, keys if isinstance(keys, list) else ()):
        if key not in storages or key in places:
            raise UnreadableError("its list of storages is not that of its tensors")
        if position + 8 > len(memory):
            raise UnreadableError("it ends before its last storage")
        start = position + 8
        numel = count_of(*struct.unpack_from("<q", memory, position))
        position = start + numel * storages[key].dtype.itemsize
        if position > len(memory):
            raise UnreadableError(f"it ends at byte {len(memory)}, before its storage {key!r} does, at {position}")
        places[key] = start, position
    return places


@contextmanager
def _safetensors(file: IO[bytes]) -> Iterator[Archive]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file.name, framework="pt") as opened:
            content = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UnreadableError(str(error)) from None
    yield Archive("safetensors", content, file.seek(0, io.SEEK_END), lambda _: b"")
