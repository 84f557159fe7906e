"""JSON files that came from elsewhere: read whole, or refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from attnorm.errors import DataError, shown


def read_json(path: str | Path) -> Any:
    """The content of a JSON file, in UTF-8, UTF-16 or UTF-32.

    Time and memory are proportional to the file's size, 40 bytes for each of its own at most: Python's reader
    refuses lists within lists beyond its recursion limit, and numbers of more than 4300 digits. NaN, Infinity and
    1e400 are read as such floats; it is for the caller to want finite ones.

    Raises:
        DataError: there is no such file, it is not JSON, or an object has a key twice, of which JSON readers would
            take either.
    """
    try:
        return json.loads(Path(path).read_bytes(), object_pairs_hook=_with_each_key_once)
    except OSError as error:
        raise DataError(f"{path} must be a JSON file, and it cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path} must be JSON; it is not ({error}): it is damaged or cut short, fetch it again"
        ) from None


def _with_each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entry = dict(pairs)
    if len(entry) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in entry if keys.count(key) > 1)
        raise ValueError(f"the key {shown(ascii(twice))} stands in an object twice")
    return entry
