"""Pages with measured numbers: what stands between a pair of markers is written by a script, never by hand.

A marker is a line of its own, `<!-- KIND NAME:begin -->` with its end `<!-- KIND NAME:end -->`.
"""

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from attnorm.files import write_text_atomic


def fill(page: str, kinds: Sequence[str], content: Callable[[str, str], str]) -> str:
    """The page with what stands between its markers renewed.

    Args:
        page: Markdown.
        kinds: The kinds of markers to renew; others stay.
        content: From a marker's kind and name to the Markdown between it and its end.
    """
    marker = re.compile(
        rf"(<!-- (?P<kind>{'|'.join(kinds)}) (?P<name>[\w.-]+):begin -->\n).*?(<!-- (?P=kind) (?P=name):end -->)",
        re.DOTALL,
    )
    return marker.sub(lambda match: f"{match[1]}\n{content(match['kind'], match['name'])}\n{match[4]}", page)


def read(root: Path) -> dict[Path, str]:
    """README.md and all pages of docs/."""
    return {path: path.read_text(encoding="utf-8") for path in (root / "README.md", *sorted(root.glob("docs/**/*.md")))}


def write_changed(root: Path, before: dict[Path, str], after: dict[Path, str], *, check: str | None = None) -> int:
    """Write the pages that have changed.

    Args:
        root: The folder that names are shown from.
        before: The pages as they are.
        after: The pages as they should be.
        check: Write nothing but say which pages are out of date, and that this command renews them.

    Returns:
        1 where `check` found a page out of date, else 0.
    """
    changed = [path for path in before if after[path] != before[path]]
    for path in changed:
        if check is not None:
            print(f"{path.relative_to(root)} is out of date: run {check}", file=sys.stderr)
        else:
            write_text_atomic(path, after[path])
            print(f"wrote {path.relative_to(root)}")
    return 1 if check is not None and changed else 0
