"""Every code block of the README and of docs/ runs, or is taken by the parser that it is for, or says why not."""

import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.docs.blocks import PAGES, ROOT, SHELL, Block, blocks
from tests.docs.commands import check_command
from tests.docs.sessions import ELSEWHERE, ONLY_PARSED, PYTHON_ONLY, SESSIONS, read_through

ALL = [block for page in PAGES for block in blocks(page)]
COMMANDS = [(block, command) for block in ALL for command in block.commands]
# Kinds of blocks that show something and are not run.
SHOWN = ("text", "yaml", "json", "indented")

INSTALLS = ("pip",)


def place(block: Block) -> str:
    return f"{block.page}:{block.line}"


def runs(page: str) -> bool:
    has_python = any(block.language == "python" and block.excuse is None for block in blocks(page))
    return page in SESSIONS or (has_python and page not in ELSEWHERE)


@pytest.mark.parametrize("page", [page for page in PAGES if runs(page)])
def test_a_page_reads_as_one_session(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Blocks of Python and the commands of `SESSIONS`, in order, in one folder; assertions on the page hold."""
    read_through(page, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page, session in SESSIONS.items() if session.long])
def test_a_page_reads_as_one_long_session(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With the commands that take longer."""
    read_through(page, tmp_path, monkeypatch, long=True)


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_understood(page: str):
    """By the parser of the command itself, or of torchrun; targets of make, modules and extras are there."""
    for block, command in COMMANDS:
        if block.page == page:
            try:
                check_command(command)
            except Exception as error:
                pytest.fail(f"{place(block)}: {' '.join(command)}\n{type(error).__name__}: {error}")


@pytest.mark.parametrize("block", [b for b in ALL if b.language in SHELL and b.is_script], ids=place)
def test_scripts_are_scripts(block: Block):
    assert subprocess.run(["bash", "-n"], input=block.text, text=True, check=False).returncode == 0


def test_every_block_is_accounted_for(tally: Counter[str]):
    """Blocks that are fenced are found, all of them; each is run, parsed, shown or excused, with a reason."""
    fences = sum((ROOT / page).read_text("utf-8").count("\n```") for page in PAGES)
    assert 2 * sum(block.language != "indented" for block in ALL) == fences
    for block in ALL:
        assert block.language in (*SHOWN, *SHELL, "python"), place(block)
        if block.excuse is not None:
            assert len(block.excuse.split()) > 1, f"{place(block)}: the reason must be in words"
            assert block.language != "python" or compile(block.text, place(block), "exec")
            tally["blocks excused"] += 1
        elif block.language == "python":
            assert runs(block.page) or block.page in ELSEWHERE, place(block)
            tally["blocks of Python run"] += 1
    for block, (program, *arguments) in COMMANDS:
        session = SESSIONS.get(block.page, PYTHON_ONLY)
        if program == "attnorm" and arguments[0] in {**session.flags, **session.long} and block.excuse is None:
            tally["commands run"] += 1
        else:
            assert program in INSTALLS or block.excuse or block.page in ONLY_PARSED, f"{place(block)}: {program}"
            tally["commands parsed"] += 1


def test_pages_that_run_elsewhere_do():
    for page, test in ELSEWHERE.items():
        assert page in PAGES
        assert f'"{Path(page).name}"' in (ROOT / test).read_text("utf-8")
    assert SESSIONS.keys() <= set(PAGES)


def test_blocks_are_taken_apart():
    """Continued lines, prompts, comments; an excuse holds for one block alone."""
    page = ROOT / "tests" / "docs" / "example.md"
    excused, fenced, shown, commands = blocks(str(page.relative_to(ROOT)))
    assert (excused.excuse, excused.language, excused.line) == ("needs a machine that we lack", "python", 6)
    assert fenced.commands == [["attnorm", "train", "--model", "m", "--output", "a b"], ["make", "test"]]
    assert (fenced.excuse, fenced.title) == (None, None)
    assert shown.commands == []
    assert shown.text == "top-1 91.2 %"
    assert commands.commands == [["attnorm", "models"], ["torchrun", "-m", "attnorm.cli", "train"]]
