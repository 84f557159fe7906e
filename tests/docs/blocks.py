"""The code blocks of the README and of docs/, and the commands in them.

A block of Python or of commands that cannot be run here stands under a comment that says why:

    <!-- excused: needs ImageNet -->
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    ["README.md", *(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))],
)
SHELL = ("bash", "console", "sh", "shell")
# What a line of an indented block starts with where it is a command, after the prompt if there is one.
PROGRAMS = ("attnorm", "torchrun", "make", "python", "pip", "sbatch")
FENCE = re.compile(r"^ {0,3}(```+)([\w+-]*)(?: +title=\"([^\"]+)\")? *$")
EXCUSE = re.compile(r"<!-- excused: (.+?) -->")


@dataclass(frozen=True)
class Block:
    """A fenced block, or an indented one that holds commands.

    Attributes:
        page: The file, from the root of the repository.
        line: Of the page, the first of the block's content.
        language: "python", "bash", ...; "indented".
        text: The content, without the indentation.
        title: The name of the file that the reader is to write, if there is one.
        excuse: Why the block cannot be run here; None: it can.
    """

    page: str
    line: int
    language: str
    text: str
    title: str | None
    excuse: str | None

    @property
    def is_script(self) -> bool:
        """Whether it is a program for a shell, not a few commands for a person."""
        return self.text.startswith("#!")

    @property
    def commands(self) -> list[list[str]]:
        """The commands, taken apart; continued lines are joined, prompts and comments left out."""
        if self.language not in (*SHELL, "indented") or self.is_script:
            return []
        lines = [line.removeprefix("$ ") for line in self.text.replace("\\\n", " ").splitlines()]
        if self.language != "indented":
            return [words for line in lines if (words := shlex.split(line, comments=True))]
        return [shlex.split(line, comments=True) for line in lines if line.partition(" ")[0] in PROGRAMS]


def blocks(page: str) -> list[Block]:
    """All of a page, in order."""
    return list(blocks_of((ROOT / page).read_text(encoding="utf-8"), page))


def blocks_of(text: str, page: str = "") -> Iterator[Block]:
    """All of a text, in order."""
    lines = text.splitlines()
    excuse: str | None = None
    index = 0
    while index < len(lines):
        fence, start = FENCE.match(lines[index]), index + 1
        if fence:
            index = next(i for i in range(start, len(lines)) if lines[i].strip() == fence[1])
            yield Block(page, start + 1, fence[2], "\n".join(lines[start:index]), fence[3], excuse)
            index += 1
        elif lines[index].startswith("    ") and index and not lines[index - 1].strip():
            while index < len(lines) and (lines[index].startswith("    ") or not lines[index].strip()):
                index += 1
            text = "\n".join(line[4:] for line in lines[start - 1 : index])
            yield Block(page, start, "indented", text.rstrip(), None, excuse)
        else:
            found = EXCUSE.fullmatch(lines[index].strip())
            # An excuse holds for the block that follows it, with nothing but empty lines between.
            excuse = found[1] if found else excuse if not lines[index].strip() else None
            index += 1
            continue
        excuse = None
