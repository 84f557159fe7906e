"""JSON with something wrong in it: every place of a sound file, and what may stand there instead."""

import copy
import math
from collections.abc import Iterator
from typing import Any

Path = tuple[str | int, ...]

WRONG: list[Any] = [
    None, True, 0, -1, 1, 0.5, 2**31, 2**63, 10**400, 1e300, math.nan, math.inf, -math.inf, "", "7", "x" * 5000,
    "a\nline\x1b[31m", "\ud800", [], [[]], [[[1]]], {}, {"size": [16, 20], "counts": "0"},
]  # fmt: skip
RAW = (
    b"", b" ", b"\0" * 64, b"null", b"NaN", b"1e400", b'"', b"\xff\xfe", b"\xef\xbb\xbf[]", b"[1,]", b"{'a':1}",
    "[]".encode("utf-16-le"), "[é]".encode("latin-1"), b"[1]" * 100,
    b"9" * 10**6, b"-" + b"9" * 4300, b"[1." + b"9" * 10**6 + b"]",
    b"[" * 10**6, b"[" * 10**5 + b"]" * 10**5, b'{"images":' * 10**5,
    b"[" + b"[]," * 10**6 + b"[]]", b"[" + b"{}," * 10**6 + b"{}]",
    b'["' + b"a" * 10**7 + b'"]', b'["' + b"\\ud800" * 10**6 + b'"]', b'{"' + b"k" * 10**6 + b'":1}',
    b'{"images":[],"annotations":[],"categories":[],"images":[]}',
)  # fmt: skip


def places(content: Any, path: Path = ()) -> Iterator[Path]:
    """The way to each value, outermost first, the whole included."""
    yield path
    if isinstance(content, dict | list):
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            yield from places(value, (*path, key))


def replaced(content: Any, path: Path, value: Any) -> Any:
    """A copy with another value in a place."""
    if not path:
        return value
    content = copy.deepcopy(content)
    parent(content, path)[path[-1]] = value
    return content


def without(content: Any, path: Path) -> Any:
    """A copy in which something is missing."""
    content = copy.deepcopy(content)
    del parent(content, path)[path[-1]]
    return content


def parent(content: Any, path: Path) -> Any:
    for key in path[:-1]:
        content = content[key]
    return content
