"""Members of tar files that a stranger made: sizes are believed only as far as the file reaches.

tarfile takes a header at its word: one of 512 bytes may ask for 8 exabytes to be read at once, or lead back to itself.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO

# What tarfile raises for damaged files, some of it in Python's words.
TAR_ERRORS = (OSError, EOFError, ValueError, OverflowError, RecursionError, tarfile.TarError)
_HEADER = 1 << 20  # bytes read at once; long names and tables of extensions have some hundred


class Bounded(io.RawIOBase):
    """A stream that reads so much at once, and so far, and no more.

    Args:
        file: the stream, from its beginning.
        at_once: bytes.
        in_all: bytes.

    Raises:
        tarfile.ReadError: when more is asked for and there.
    """

    def __init__(self, file: IO[bytes], at_once: int, in_all: int) -> None:
        self._file, self._at_once, self._in_all = file, at_once, in_all

    def read(self, size: int = -1) -> bytes:
        """Read so many bytes, or to the end."""
        content = self._file.read(min(size, self._at_once + 1) if size >= 0 else self._at_once + 1)
        if len(content) > self._at_once or self._file.tell() > self._in_all:
            raise tarfile.ReadError("it is larger than it can be meant to be")
        return content

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a place, counted from the beginning."""
        if whence != io.SEEK_SET or not 0 <= offset <= self._in_all:
            raise tarfile.ReadError(f"a member reaches to byte {offset}, beyond its end")
        return self._file.seek(offset)

    def tell(self) -> int:
        """The place."""
        return self._file.tell()


@contextmanager
def open_tar(path: Path) -> Iterator[tarfile.TarFile]:
    """Open an uncompressed tar to read its headers and small members.

    Raises:
        OSError: it is no file: a pipe would wait for ever.
        tarfile.TarError: it is no tar, or one of its sizes cannot be.
    """
    if not path.is_file():
        raise OSError("there is no such file")
    with path.open("rb") as file:
        bounded = Bounded(file, _HEADER, os.fstat(file.fileno()).st_size)
        with tarfile.open(fileobj=bounded, mode="r:") as tar:
            yield tar


def files_in(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The ordinary files among the members; links, devices and folders are passed over.

    Raises:
        ValueError: a member has no size that can be, or its bytes do not lie in a row.
    """
    for member in tar:
        if member.size < 0 or member.issparse():
            raise ValueError(f"its member {member.name[:80]!r} is sparse or of a size below 0")
        if member.isfile():
            yield member


def check_end(tar: tarfile.TarFile) -> None:
    """Raises ReadError unless the members end as a tar does, with blocks of zeros to the end of the file.

    tarfile takes a damaged header, or a file that was cut off between two members, for the end: the images that follow
    would be missing without a word.
    """
    file = tar.fileobj
    assert file is not None
    file.seek(tar.offset)
    if len(file.read(tarfile.BLOCKSIZE)) < tarfile.BLOCKSIZE:
        raise tarfile.ReadError(f"it ends at byte {tar.offset} without the mark of its end: it was cut off")
    file.seek(tar.offset)
    if any(chunk.strip(b"\0") for chunk in iter(partial(file.read, 1 << 20), b"")):
        raise tarfile.ReadError(f"it is damaged at byte {tar.offset}, where no member begins")
