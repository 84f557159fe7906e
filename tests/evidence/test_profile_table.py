"""The tables and the picture of a profile that nobody measured: numbers chosen by hand."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from attnorm.errors import ConfigError
from attnorm.evidence.plots import save_png
from attnorm.evidence.profile_config import Case, ProfileConfig, cases, plain, read_accuracies
from attnorm.evidence.profile_plot import picture
from attnorm.evidence.profile_table import (
    count_rows,
    energy_rows,
    layer_rows,
    print_profile,
    sentences,
    time_headings,
    time_rows,
)
from attnorm.files import write_json_atomic

TIMES = {"resnet50": 1.0, "resnet50_an": 1.04}
NAMES = tuple(TIMES)


def row(case: Case, times: float) -> dict[str, Any]:
    """12.5 ms for each image, times a factor."""
    batch = case.batch_size
    milliseconds = 12.5 * batch * times
    measured: dict[str, Any] = {
        "latency_ms": {"median": milliseconds, "p95": 1.1 * milliseconds, "low": 0.95 * milliseconds,
                       "high": 1.05 * milliseconds},
        "images_per_second": 1000 * batch / milliseconds,
        "ratio": {"median": times, "low": times - 0.02, "high": times + 0.03, "rounds": 25},
        "peak_bytes": 123_456_789,
        "energy": {"joules_per_image": 0.0512, "ratio": {"median": 1.01, "low": 0.99, "high": 1.02, "rounds": 6},
                   "watts": 71.25, "watts_with_idle": 121.0},
    }  # fmt: skip
    return measured | ({"saved_bytes": 98_765_432} if case.mode == "training" else {})


@pytest.fixture
def result() -> dict[str, Any]:
    """Two networks, two batch sizes, both modes, a meter."""
    config = ProfileConfig(models=",".join(NAMES), batch_size="1,32")
    found = [
        {**vars(case), "networks": {name: row(case, times) for name, times in TIMES.items()}} for case in cases(config)
    ]
    elements = {"batch norm": 44_000_000, "relu": 9_000_000}
    models = [
        {"name": name, "parameters": 25_557_032, "macs": 4_089_000_000, "not_counted": None, "accuracy": None,
         "operations": {"elements": elements, "elementwise": 57_000_000, "paper": 4_142_000_000}}
        for name in NAMES
    ]  # fmt: skip
    return {
        "config": plain(config),
        "baseline": NAMES[0],
        "images": {"channels": 3, "size": 224, "num_classes": 1000, "detection": False},
        "models": models,
        "cases": found,
        "energy": {"meter": {"name": "RAPL", "covers": "the processor", "idle_watts": 49.75}, "why_not": None},
        "environment": {"machine": {"device": "cpu", "processor": "A Processor", "threads": 2}},
    }


def test_cells(result: dict[str, Any]):
    assert count_rows(result, "all")[0] == ["resnet50", "25.6 M", "4.09 G", "57.0 M"]
    assert count_rows(result, "paper")[0] == ["resnet50", "25.6 M", "4.09 G", "4.14 G"]
    assert time_rows(result, "inference") == [
        ["batch 1, float32, contiguous, eager"],
        ["  resnet50", "12.5", "13.8", "80.0", "1", "123 MB"],
        ["  resnet50_an", "13.0", "14.3", "76.9", "1.04 [1.02, 1.07]", "123 MB"],
        ["batch 32, float32, contiguous, eager"],
        ["  resnet50", "400", "440", "80.0", "1", "123 MB"],
        ["  resnet50_an", "416", "458", "76.9", "1.04 [1.02, 1.07]", "123 MB"],
    ]
    assert time_rows(result, "training")[1][-1] == "98.8 MB"
    assert energy_rows(result)[:3] == [
        ["inference, batch 1, float32, contiguous, eager"],
        ["  resnet50", "0.0512", "1", "71.2", "121"],
        ["  resnet50_an", "0.0512", "1.01 [0.99, 1.02]", "71.2", "121"],
    ]


def test_what_was_not_measured_is_said(result: dict[str, Any]):
    result["cases"][3]["networks"]["resnet50_an"] = {"failed": "OutOfMemoryError: so much"}
    result["models"][0] |= {"macs": None, "operations": None, "not_counted": "aten.x is not known"}
    result["energy"] = {"meter": None, "why_not": "no meter on this machine: there is none"}
    assert count_rows(result, "all")[0] == ["resnet50", "25.6 M", "not counted", "not counted"]
    assert time_rows(result, "training")[-1] == ["  resnet50_an", "–"]
    assert sentences(result) == [
        "energy: no meter on this machine: there is none",
        "resnet50: operations not counted: aten.x is not known",
        "resnet50_an, training, batch 32, float32, contiguous, eager: not measured: OutOfMemoryError: so much",
    ]


def test_one_network_alone_has_nothing_to_be_compared_with(result: dict[str, Any]):
    result["models"].pop()
    for case in result["cases"]:
        case["networks"].pop("resnet50_an")
    assert time_rows(result, "inference")[1] == ["  resnet50", "12.5", "13.8", "80.0", "123 MB"]
    assert len(time_headings(result, "inference")) == 5


def test_layers():
    layer = {"name": "", "kind": "ResNet", "parameters": 0, "macs": None, "elements": 1500, "milliseconds": 0.01234,
             "share": 0.0567}  # fmt: skip
    assert layer_rows([layer]) == [["(itself)", "ResNet", "", "–", "1.50 k", "0.0123", "5.7%"]]


def test_the_tables_read_well_at_100_columns(result: dict[str, Any]):
    """Every number stands in one line with its network, in a terminal and in a file."""
    file = io.StringIO()
    print_profile(result, Console(file=file, width=60))
    lines = file.getvalue().splitlines()
    tables = lines[: next(i for i, line in enumerate(lines) if line.startswith("energy: "))]
    assert max(map(len, tables)) <= 100
    assert sum("1.04 [1.02, 1.07]" in line and "resnet50_an" in line for line in tables) == 4
    assert "energy: RAPL, of the processor; 49.8 W at rest" in lines
    assert "Inference, images of 224x224 pixels, A Processor, 2 threads" in lines


def test_the_picture_shows_every_case_or_accuracy(result: dict[str, Any], tmp_path: Path):
    """Bars of four panels (time and energy, twice); with accuracies a point for each network in each."""
    bars = picture(result)
    assert [axis.get_title(loc="left") for axis in bars.axes] == [
        "Inference: ms per image", "Inference: joules per image",
        "Training: ms per image", "Training: joules per image",
    ]  # fmt: skip
    widths = [patch.get_width() for patch in bars.axes[0].patches]
    assert widths == pytest.approx([12.5, 12.5, 13.0, 13.0])  # both batch sizes of the first network, then the second
    for model, accuracy in zip(result["models"], (76.1, 77.9), strict=True):
        model["accuracy"] = accuracy
    points = picture(result)
    drawn = [line.get_xydata()[0].tolist() for line in points.axes[0].lines if len(line.get_xydata()) == 1]
    assert [12.5, 76.1] in [pytest.approx(point) for point in drawn]
    assert [13.0, 77.9] in [pytest.approx(point) for point in drawn]
    save_png(points, tmp_path / "points.png")
    assert (tmp_path / "points.png").read_bytes().startswith(b"\x89PNG")


def test_accuracies_as_pairs_and_from_files(tmp_path: Path):
    """A name may hold "=" itself; a comparison may hold networks that are not asked for."""
    names = ("resnet50:norm=an", "resnet50")
    assert read_accuracies("resnet50:norm=an=77.9, resnet50=76", names) == {"resnet50:norm=an": 77.9, "resnet50": 76}
    assert read_accuracies(None, names) == {}
    write_json_atomic(tmp_path / "plain.json", {"resnet50": 76.5})
    assert read_accuracies(str(tmp_path / "plain.json"), names) == {"resnet50": 76.5}
    compared = {
        "format": "attnorm-compare",
        "metric": "top1",
        "models": [{"name": "resnet50", "top1": {"mean": 70.25}}, {"name": "other", "top1": {"mean": 1.0}},
                   {"name": "resnet50:norm=an", "top1": None}],
    }  # fmt: skip
    write_json_atomic(tmp_path / "compare.json", compared)
    assert read_accuracies(str(tmp_path / "compare.json"), names) == {"resnet50": 70.25}
    (tmp_path / "broken.json").write_text("[1]")
    with pytest.raises(
        ConfigError, match=r"must be a JSON file of names and percent, or a compare.json; .*broken.json"
    ):
        read_accuracies(str(tmp_path / "broken.json"), names)
