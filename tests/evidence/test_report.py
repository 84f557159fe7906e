"""The report: complete in itself, true to its numbers, safe against odd names, and careful with its words."""

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from attnorm.evidence.plots import accuracies, inline_svg, learning_curves, save_png
from attnorm.evidence.report import render_report
from attnorm.evidence.table import headings, table_rows

from .conftest import TOP1, made_up_result, made_up_run


class Page(HTMLParser):
    """Tags, attributes, texts of table cells, and whether every element is closed."""

    VOID = frozenset({"meta", "br", "link", "img"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.attributes: list[tuple[str, str, str]] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.cells: list[str] = []
        self.styles: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data
        elif self.open and self.open[-1] == "style":
            self.styles.append(data)


def test_report_loads_nothing_from_outside(result: dict[str, Any]):
    page = Page(render_report(result))
    assert not page.open
    assert not set(page.tags) & {"script", "link", "img", "iframe", "object", "embed", "base", "video", "audio"}
    for tag, name, value in page.attributes:
        if name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            assert value.startswith("#"), (tag, name, value)
        elif not name.startswith("xmlns"):  # names of namespaces are not fetched
            assert "//" not in value, (tag, name, value)
            assert all(target.startswith("#") for target in re.findall(r"url\(['\"]?([^)]*)", value))
    for style in page.styles:
        assert "@import" not in style
        assert "url(" not in style.replace("url(#", "")


def test_report_shows_the_table_and_every_run(result: dict[str, Any]):
    page = Page(render_report(result))
    for text in (*headings(result), *(cell for row in table_rows(result) for cell in row)):
        assert text in page.cells
    for model, values in TOP1.items():
        for value in values:
            assert f"{value:.2f}" in page.cells, model


def test_table_cells(result: dict[str, Any]):
    baseline, same, better = table_rows(result)
    assert baseline[:3] == ["bn", "91.20 ± 0.20", "baseline"]
    assert same[1] == "91.27 ± 0.15"
    assert better[2] == "+1.00 [+0.75, +1.25]"
    assert better[3:] == ["77.8 k", "12.3 M", "0.3 ± 10%", "0.15 ± 0%"]


def test_report_says_what_was_shown_and_no_more(result: dict[str, Any]):
    text = render_report(result)
    assert "se against bn: +0.07 points" in text
    assert "no difference shown" in text
    assert "ahead, for this data set and recipe" in text
    assert "better" not in " ".join(model["verdict"] or "" for model in result["models"])


def test_digits_come_with_their_caution(result: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    from . import conftest

    monkeypatch.setitem(conftest.DATA, "name", "digits")
    assert "shows that the machinery works" in render_report(made_up_result(result["runs"]))


def test_names_are_escaped():
    name = "<script>alert(1)</script>&"
    runs = [made_up_run(model, seed, 90.0 + seed) for model in ("bn", name) for seed in (0, 1)]
    text = render_report(made_up_result(runs, ("bn", name)))
    assert "<script" not in text
    assert not Page(text).open


def test_failed_runs_are_said_and_left_out_of_the_pairs(result: dict[str, Any]):
    runs = [dict(run) for run in result["runs"]]
    lost = next(run for run in runs if (run["model"], run["seed"]) == ("an", 1))
    lost.update(status="failed", why="the loss was nan at step 7", top1=None, record=None)
    changed = made_up_result(runs)
    entry = changed["models"][2]
    assert entry["paired_seeds"] == [0, 2]
    assert entry["differences"] == pytest.approx([1.0, 1.1])
    assert entry["top1"]["n"] == 2
    text = render_report(changed)
    assert "an with seed 1 did not finish: the loss was nan at step 7" in text
    assert "(2 of 3 seeds)" in text


def test_a_network_none_of_whose_runs_finished(result: dict[str, Any]):
    runs = [
        dict(run, status="failed", why="nan", top1=None, record=None) if run["model"] == "se" else run
        for run in result["runs"]
    ]
    changed = made_up_result(runs)
    assert changed["models"][1]["top1"] is None
    assert "no run finished" in render_report(changed)


def test_pictures_follow_the_pages_colour_and_are_repeatable(result: dict[str, Any]):
    for draw in (accuracies, learning_curves):
        svg = inline_svg(draw(result), 'a title with "quotes" & <signs>')
        assert "currentColor" in svg
        assert "#010203" not in svg
        assert 'aria-label="a title with &quot;quotes&quot; &amp; &lt;signs&gt;"' in svg
        assert svg == inline_svg(draw(result), 'a title with "quotes" & <signs>')


def test_one_seed_one_network_can_be_drawn(tmp_path):
    result = made_up_result([made_up_run("bn", 0, 91.0)], ("bn",))
    render_report(result)
    save_png(accuracies(result), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
