"""Writes the reference of the commands from what each one says to `--help`."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

from attnorm.cli import COMMANDS

PLACE = "<!-- commands -->"
# A flag of argparse's help, with what stands for its value; the text follows on the same line or on those below.
FLAG = re.compile(r"^  (--?\w\S*(?: \S+)*?)(?:  +(\S.*))?$")
CODE = re.compile(r"(`[^`]*`)")


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the flags of every command where the page asks for them."""
    return markdown.replace(PLACE, "\n".join(map(section, COMMANDS))) if PLACE in markdown else markdown


def section(command: str) -> str:
    """A heading, what the command is for, and its flags."""
    return f"## attnorm {command}\n\n" + "\n".join(as_list(help_of(command))) + "\n"


def help_of(command: str) -> str:
    """What `attnorm COMMAND --help` shows on a terminal, where a backspace takes a letter back."""
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "attnorm.cli", command, "--help"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return re.sub(".\b", "", done.stdout)


def as_list(text: str) -> Iterator[str]:
    """A help text as Markdown: its paragraphs, and an entry for each flag. The usage, flags alone, is left out."""
    _, _, text = text.partition("\n\n")
    for entry in re.split(r"\n(?!   )", text):  # deeper lines continue a flag's
        first, *more = entry.splitlines() or [""]
        flag = FLAG.match(first)
        if flag and flag[1] != "-h, --help":
            words = " ".join([flag[2] or "", *(line.strip() for line in more)])
            yield f"- `{flag[1]}`  \n    {prose(words.strip())}"
        elif first and not flag and first != "options:":  # argparse's title over its own --help
            yield f"\n{prose(first)}\n"


def prose(text: str) -> str:
    """Words of help in which Markdown sees no emphasis or HTML; what stands between backticks stays code."""
    parts = CODE.split(text)
    return "".join(part if part.startswith("`") else part.replace("*", r"\*").replace("<", "&lt;") for part in parts)
