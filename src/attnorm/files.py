"""Files that are complete or absent: written under another name in the same folder, then renamed.

A reader never meets half a file, and a run that is killed keeps the version before. Standard library only: every layer
of the package may use it.
"""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Gives a temporary path beside `path`; what was written there becomes `path` when the block ends well.

    Args:
        path: the file to write; its folder is made when missing.

    Yields:
        The name to write to. When the block raises, the temporary file is removed and `path` stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp gives 0600; a result is as readable as any file that the user creates.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        move_into_place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def move_into_place(temporary: Path, path: Path) -> None:
    """Renames a finished file to `path`, in the same folder, once its content is on the disk."""
    # The name must not reach the disk before the content does: a power cut would leave an empty file.
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


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
