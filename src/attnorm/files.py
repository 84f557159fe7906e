"""Files that are complete or absent: written under another name in the same folder, then renamed.

A reader never meets half a file, and a run that is killed keeps the version before. Standard library only: every layer
of the package may use it.
"""

import errno
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attnorm.errors import JobError

# No space left, quota used up, file larger than its file system or the process's limit allows.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PART = ".part"  # ends the names of files that are being written


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Gives a temporary path beside `path`; what was written there becomes `path` when the block ends well.

    Args:
        path: the file to write; its folder is made when missing.

    Yields:
        The name to write to. When the block raises, the temporary file is removed and `path` stays as it was.

    Raises:
        JobError: the disk has no room for it.
    """
    path = Path(path)
    try:
        with _replacing(path) as temporary:
            yield temporary
    except Exception as error:
        if _found_no_room(error):
            kept = f"{path.name} is the one of before" if path.exists() else f"{path.name} was not written"
            raise JobError(
                f"the disk of {path.parent} must have room for {path.name}, and has not; {kept}; free some space and "
                "start the command again"
            ) from error
        raise


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=PART, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp gives 0600; a result is as readable as any file that the user creates.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        _move_into_place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _move_into_place(temporary: Path, path: Path) -> None:
    # The name must not reach the disk before the content does: a power cut would leave an empty file.
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
    if hasattr(os, "O_DIRECTORY"):  # not on Windows, where a folder cannot be opened
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _found_no_room(error: BaseException | None) -> bool:
    """Whether a full disk is what an error comes from; libraries hide it in errors of their own kinds."""
    while error is not None:
        code = error.errno if isinstance(error, OSError) else None
        hidden = re.search(r"\(os error (\d+)\)", str(error))  # as Rust's libraries write it
        if code in NO_ROOM or (hidden is not None and int(hidden[1]) in NO_ROOM):
            return True
        error = error.__cause__ or error.__context__
    return False


def remove_parts(folder: str | Path) -> None:
    """Removes what a process that was killed has left half written in a folder."""
    for path in Path(folder).glob(f".*{PART}"):
        path.unlink(missing_ok=True)


def write_bytes_atomic(path: str | Path, content: bytes) -> None:
    """Writes `content` to `path`: all of it or nothing."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text_atomic(path: str | Path, content: str) -> None:
    """Writes `content` as UTF-8 to `path`: all of it or nothing."""
    write_bytes_atomic(path, content.encode())


def write_json_atomic(path: str | Path, content: Any) -> None:
    """Writes `content` as indented JSON to `path`: all of it or nothing.

    Raises:
        ValueError: for NaN or infinity, which JSON does not have; nothing is written.
    """
    write_text_atomic(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
