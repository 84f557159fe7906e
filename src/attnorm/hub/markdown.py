"""Text of others in Markdown: it stays text, whatever it is."""

import re
from collections.abc import Sequence

from attnorm.errors import shown

_SPECIAL = re.compile(r"([\\`*_\[\]<>|~#!$&])")


def plain(text: object, length: int = 200) -> str:
    """Text from a file as one line that Markdown shows as it is: no link, no picture, no HTML, no cell's end."""
    return _SPECIAL.sub(r"\\\1", shown(str(text), length))


def code(text: object, length: int = 200) -> str:
    """The same in the font of code."""
    return f"`{shown(str(text), length).replace('`', chr(39))}`"


def fenced(text: str, language: str) -> str:
    """A block of code, whose fence is longer than any in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows, the first one the heading."""
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
