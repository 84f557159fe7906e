"""The tutorials print what stands on their pages, and the notebooks are the pages."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.tutorials import CODE, FOLDER, PAGES, notebook, notebook_text, run, with_outputs

# "an_in_ten_minutes.md" and "read_the_mixture.md" are run here. What comes out of a training depends on the order of
# sums, so on processor and versions: this much a number may be off in a line with such words. Of 397 test images 12 are
# 3 points.
SLACK = {"wrong": 12, "over images, four epochs later": 0.002, "over images, from the first step": 0.05}
NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?")


def page(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def value(number: str) -> float:
    return float(number.replace(",", ""))


def tolerance(line: str, number: re.Match[str]) -> float:
    """What rounding may do, a unit and a half of the last digit, and the slack of the line; counts are exact."""
    decimals = len(number[0].partition(".")[2])
    rounded = decimals or line[number.end() :].startswith(" %")
    return max(1.5 * 10.0**-decimals if rounded else 0, *(much for words, much in SLACK.items() if words in line), 0)


def compare(printed: str, shown: str) -> None:
    """The same words; numbers equal, or as near as they may be."""
    assert NUMBER.sub("#", printed) == NUMBER.sub("#", shown)
    for one, other in zip(printed.splitlines(), shown.splitlines(), strict=True):
        for here, there in zip(NUMBER.finditer(one), NUMBER.finditer(other), strict=True):
            off = abs(value(here[0]) - value(there[0]))
            assert off <= tolerance(other, there), f"{one!r} is printed, and the page has {other!r}"


@pytest.mark.parametrize("name", PAGES)
def test_the_code_prints_what_the_page_shows(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    shown = [block[2] or "" for block in CODE.finditer(page(name))]
    printed = list(run(page(name)))
    for one, other in zip(printed, shown, strict=True):
        compare(one, other)
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", page(name)):
        here, there = (
            np.asarray(Image.open(folder / picture).convert("RGB"), dtype=float) for folder in (tmp_path, FOLDER)
        )
        assert np.abs(here - there).mean() < 3  # of 255: the edges of letters


@pytest.mark.parametrize("name", PAGES)
def test_the_notebook_is_the_page(name: str):
    """All of the code, in order, with the outputs that the page shows, and no link that leads nowhere."""
    file = (FOLDER / name).with_suffix(".ipynb")
    assert file.read_text(encoding="utf-8") == notebook_text(page(name)), "python -m benchmarks.tutorials run"
    cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert [f"{text}\n" for text in code] == [block[1] for block in CODE.finditer(page(name))]
    assert len({cell["id"] for cell in cells}) == len(cells)
    prose = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    assert re.findall(r"\]\((?!https?:)", prose) == []


def test_a_notebook_by_hand():
    text = "# A\n\nSee [the layer](../layer.md#x) and\n[here](#b).\n\n"
    text += "```python\nprint(1)\n```\n\n```text\n1\n```\n\n![p](p.svg)\n\nB\n"
    first, code, last = notebook(text)["cells"]
    assert "".join(first["source"]) == "# A\n\nSee the layer (docs/layer.md) and\nhere."
    assert (code["source"], code["outputs"][0]["text"]) == (["print(1)"], ["1\n"])
    assert last["source"] == ["B"]


def test_outputs_are_renewed_and_none_is_dropped():
    text = "```python\nprint(1)\n```\n\n```text\nold\n```\n\n```python\nx = 1\n```\n"
    assert with_outputs(text, ["1\n", ""]) == text.replace("old", "1")
    for outputs in (["", ""], ["1\n", "2\n"]):
        with pytest.raises(SystemExit, match="what stands below it"):
            with_outputs(text, outputs)


def test_a_number_that_is_off_is_found():
    with pytest.raises(AssertionError, match="the page has"):
        compare("4 layers\n20 wrong", "4 layers\n40 wrong")
    with pytest.raises(AssertionError, match="the page has"):
        compare("5 layers", "4 layers")
    with pytest.raises(AssertionError, match="the page has"):
        compare("mean 0.52", "mean 0.50")
    compare("20 wrong, mean 0.51", "25 wrong, mean 0.50")
