"""docs/profile.md: the example runs, the rules are the code's, the output is its kind."""

import io
import re
from typing import Any

import pytest
from rich.console import Console

from attnorm.evidence import operations
from attnorm.evidence.profile_table import print_profile
from tests.docs.blocks import ROOT

PAGE = (ROOT / "docs" / "profile.md").read_text(encoding="utf-8")


def words(text: str) -> str:
    return " ".join(text.split())


def test_the_rules_are_those_of_the_code():
    rules = words((operations.__doc__ or "").split("evaluation mode:")[1])
    assert rules in words(PAGE)


def test_the_example_runs_and_prints_what_the_page_shows(capsys: pytest.CaptureFixture[str]):
    """Titles and headings of the page's output are those of a run; its numbers are of another machine."""
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    scope: dict[str, Any] = {}
    exec(compile(example, "profile.md", "exec"), scope)
    assert len(capsys.readouterr().out.splitlines()) == 4  # two modes, two networks
    file = io.StringIO()
    print_profile(scope["result"], Console(file=file))
    printed = [template(line) for line in file.getvalue().splitlines() if "resnet" not in line and "energy" not in line]
    assert len(set(printed)) == 11  # the titles and headings of three tables, the case, an empty line
    shown = set(map(template, PAGE.splitlines()))
    assert [line for line in printed if line not in shown] == []


def template(line: str) -> str:
    """A line without its numbers, spaces and the processor."""
    return words(re.sub(r"\d+(\.\d+)?", "#", line.partition(" pixels, ")[0]))
