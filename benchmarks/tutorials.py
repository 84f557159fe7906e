"""The tutorials in docs/tutorials/: their outputs and figures, and each as a notebook.

    python -m benchmarks.tutorials run     # run both pages; renew the outputs below their code, figures and notebooks
    python -m benchmarks.tutorials check   # exit 1 where a notebook is not the page's

A page is Markdown. What a block of Python prints stands in the block of text right below it, if there is one.
"""

import argparse
import contextlib
import io
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attnorm.files import write_text_atomic
from benchmarks.record import ROOT

FOLDER = ROOT / "docs" / "tutorials"
PAGES = ("an_in_ten_minutes.md", "read_the_mixture.md")
CODE = re.compile(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```\n)?", re.DOTALL)
PICTURE = re.compile(r"^!\[.*\]\(.*\)\n\n?", re.MULTILINE)
LINK = re.compile(r"\[([^\]]+)\]\((?!https?:)([^)]+)\)", re.DOTALL)


def run(page: str) -> Iterator[str]:
    """Run a page's code in the current folder, block by block in one session; what each block prints."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, block in enumerate(CODE.finditer(page), start=1):
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(compile(block[1], f"block {number}", "exec"), names)
        yield said.getvalue()


def with_outputs(page: str, outputs: list[str]) -> str:
    """The page with other outputs below its code; a block that prints must have a place for it."""
    remaining = iter(outputs)

    def renewed(block: re.Match[str]) -> str:
        output = next(remaining)
        if (block[2] is None) != (not output):
            raise SystemExit(f"this block prints {output!r}, and what stands below it is {block[2]!r}:\n{block[1]}")
        below = f"\n```text\n{output}```\n" if output else ""
        return f"```python\n{block[1]}```\n{below}"

    return CODE.sub(renewed, page)


def notebook(page: str) -> dict[str, Any]:
    """A page as a notebook, in the format of Jupyter's version 4.5.

    Pictures are left out, since running the notebook makes them, and links to other pages are names of files: a
    notebook is read where those pages are not.
    """
    cells: list[dict[str, Any]] = []
    end = 0

    def add(kind: str, text: str, **more: Any) -> None:
        lines = text.strip("\n").splitlines(keepends=True)
        if lines:
            cells.append({"cell_type": kind, "id": f"cell-{len(cells)}", "metadata": {}, "source": lines, **more})

    for block in CODE.finditer(page):
        add("markdown", _prose(page[end : block.start()]))
        text = (block[2] or "").splitlines(keepends=True)
        outputs = [{"output_type": "stream", "name": "stdout", "text": text}] if text else []
        add("code", block[1], execution_count=None, outputs=outputs)
        end = block.end()
    add("markdown", _prose(page[end:]))
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}


def _prose(text: str) -> str:
    text = re.sub(r"^\[Download it as a notebook\]\(\S+\); it needs", "This needs", text, flags=re.MULTILINE)
    return LINK.sub(
        lambda link: f"{link[1]} (docs/{_place(link[2])})" if _place(link[2]) else link[1], PICTURE.sub("", text)
    )


def _place(target: str) -> str:
    """Where a link leads, from docs/; nothing within the page."""
    path = target.partition("#")[0]
    return path.removeprefix("../") if path.startswith("../") else f"tutorials/{path}" if path else ""


def notebook_text(page: str) -> str:
    """The content of the notebook's file."""
    return json.dumps(notebook(page), indent=1, ensure_ascii=False) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("action", choices=("run", "check"))
    action = parser.parse_args().action
    stale: list[str] = []
    for name in PAGES:
        file, made = FOLDER / name, (FOLDER / name).with_suffix(".ipynb")
        page = file.read_text(encoding="utf-8")
        if action == "run":
            with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
                page = with_outputs(page, list(run(page)))
                for picture in Path(folder).glob("*.png"):
                    shutil.copy(picture, FOLDER)
            write_text_atomic(file, page)
            write_text_atomic(made, notebook_text(page))
        elif not made.is_file() or made.read_text(encoding="utf-8") != notebook_text(page):
            stale.append(made.name)
    if stale:
        print(f"out of date: {', '.join(stale)}; run: python -m benchmarks.tutorials run", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
