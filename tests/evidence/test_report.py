"""The report: complete in itself, true to its numbers, safe against odd names, and careful with its words."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from attnorm.evidence.curves import learning_curves
from attnorm.evidence.plots import accuracies, inline_svg, save_png
from attnorm.evidence.report import render_report
from attnorm.evidence.spelled_out import spell_out
from attnorm.evidence.summary import headline
from attnorm.evidence.table import cost_table, outcome_table, table_rows

from .conftest import TOP1, made_up_result, made_up_run

PUBLISHED = Path(__file__).parents[2] / "benchmarks" / "results"
RESULTS = [path for path in sorted(PUBLISHED.glob("*.json")) if '"attnorm-compare"' in path.read_text()[:200]]


class Page(HTMLParser):
    """Tags, attributes, texts of table cells, and whether every element is closed."""

    VOID = frozenset({"meta", "br", "wbr", "link", "img"})

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
    for headings, rows in (outcome_table(result), cost_table(result)):
        for text in (*headings, *(cell for row in rows for cell in row)):
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


def test_corrected_intervals_stand_beside_the_others(result: dict[str, Any]):
    """t(0.9875, 2) / sqrt(3) = 3.5826 times the deviations: 0.32146 of (0.3, -0.3, 0.2), 0.1 of (1.0, 0.9, 1.1)."""
    headings, rows = outcome_table(result)
    assert headings == ["network", "top-1, %", "difference, points [95%]", "corrected for 2"]
    assert [row[3] for row in rows] == ["–", "[-1.08, +1.22] not shown", "[+0.64, +1.36] ahead"]
    one = made_up_result([run for run in result["runs"] if run["model"] != "se"], ("bn", "an"))
    assert outcome_table(one)[0] == headings[:3]
    assert one["models"][1]["joint"] is None
    assert not any("miss the truth" in line for line in one["cautions"])
    assert any("0.1 miss the truth on average" in line for line in result["cautions"])


def test_costs_that_were_measured_are_shown(result: dict[str, Any]):
    """A comparison of an earlier version has four of the columns; a machine without a meter, no energy."""
    assert cost_table(result)[0] == ["network", "parameters", "MACs", "training, ms/image", "evaluation, ms/image"]
    for model, ratio in zip(result["models"], (1.0, 1.1, 1.25), strict=True):
        told = {"median": ratio, "low": ratio - 0.02, "high": ratio + 0.03, "rounds": 11}
        model |= {
            "elementwise": 4_321_000, "saved_bytes_per_image": 1_230_000, "train_ratio": None if ratio == 1 else told,
            "train_energy": {"joules_per_image": 0.01234, "ratio": told}, "eval_energy": None,
            "train_peak_bytes": 3_250_000_000, "eval_peak_bytes": 998_000,
        }  # fmt: skip
    headings, rows = cost_table(result)
    assert headings == [
        "network", "parameters", "MACs", "other operations", "training, ms/image", "evaluation, ms/image",
        "kept for backward, per image", "peak in training (evaluation)", "training, J/image",
    ]  # fmt: skip
    assert rows[0][3:] == ["4.32 M", "0.3 ± 10%", "0.15 ± 0%", "1.23 MB", "3.25 GB\n(998 kB)", "0.0123"]
    assert rows[2][4] == "0.3 ± 10%\n× 1.25 [1.23, 1.28]"
    assert rows[2][8] == "0.0123\n× 1.25 [1.23, 1.28]"
    page = render_report(result)
    assert "0.3 ± 10%<br><small>× 1.25 [1.23, 1.28]</small>" in page


def test_many_networks_are_summed_up_first():
    """Six networks: the sum stands above, the sentences below the table; the names' options in words."""
    names = ("bn", "bn:norm=gn", *(f"an:num_components={k}:gate=softmax" for k in (2, 5, 10, 20)))
    shifts = ((0, 0, 0), (-1.0, -1.1, -0.9), (0.3, -0.2, 0.1), (1.0, 1.1, 0.9), (2.0, 2.0, 2.1), (0.1, 0.2, 0.3))
    runs = [
        made_up_run(name, seed, round(base + shift, 2))
        for name, found in zip(names, shifts, strict=True)
        for seed, (base, shift) in enumerate(zip(TOP1["bn"], found, strict=True))
    ]
    result = made_up_result(runs, names)
    # Differences over 3 seeds with t(0.975, 2) = 4.30 and t(0.995, 2) = 9.92: half-widths 0.25 and 0.57 where the
    # deviation is 0.1, so that +0.20 +- 0.25 does not show; 0.14 and 0.33 for (2.0, 2.0, 2.1).
    sentence = (
        "5 networks against bn, each by itself: 2 ahead, 1 behind, 2 without a difference shown. "
        "Corrected for 5 comparisons: 2 ahead, 1 behind, 2 without a difference shown."
    )
    assert headline(result) == sentence
    page = render_report(result)
    assert "<h1>5 networks against bn</h1>" in page
    assert page.index(sentence) < page.index("<table") < page.index("bn:norm=gn against bn: -1.00 points")
    assert "K = 2; softmax gate" in page
    assert "GroupNorm in place of each BatchNorm" in page


def test_options_in_words():
    assert spell_out("resnet50") == ""
    assert spell_out("mask_rcnn_resnet50_fpn:norm=an_gn:num_components=10-10-20-20:logit_norm=none:init_gain=0.5") == (
        "GroupNorm in place of each BatchNorm, with Attentive Normalization (AN) on some of them; "
        "K = 10, 10, 20, 20 stage by stage; attention logits not normalised; init gain 0.5"
    )
    assert spell_out("x_an:placement=resnet_bn2:head=mlp:statistic=mean") == (
        "AN at resnet_bn2; attention of two linear layers; attention that sees each channel's mean"
    )


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_published_comparisons_render(path: Path):
    """Whatever version wrote them."""
    result = json.loads(path.read_text())
    page = Page(render_report(result))
    assert not page.open
    assert all(cell in page.cells for row in table_rows(result) for cell in row[:3])


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
