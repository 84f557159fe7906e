"""docs/performance.md says what the JSON files say."""

from pathlib import Path
from typing import Any

import pytest

from attnorm.files import write_json_atomic
from benchmarks import performance_table, tables

SAVED = {"resnet50": 1_000_000, "resnet50_an": 1_005_000, "seresnet50": 1_300_000}


def ratio(median: float) -> dict[str, float]:
    return {"median": median, "low": median - 0.01, "high": median + 0.02, "rounds": 20}


def time(median: float) -> dict[str, float]:
    return {"median": median, "low": median - 0.2, "high": median + 0.4}


def cost(scale: float) -> dict[str, Any]:
    times = {
        f"{kind}_ms": time(scale * ms) for kind, ms in (("train", 8), ("forward", 3), ("backward", 5), ("eval", 2))
    }
    return {**times, "saved_bytes": 1_010_000, "train_traffic": 5_000_000, "eval_traffic": 2_000_000}


def provenance() -> dict[str, Any]:
    return {
        "started": "2026-01-01T00:00:00+00:00",
        "finished": "2026-01-01T00:10:00+00:00",
        "command": "python -m benchmarks.layer_cost --rounds 20",
        "git": {"commit": "0123456789abcdef", "dirty": False},
        "versions": {"torch": "2.15.0"},
        "machine": {"processor": "A CPU", "cores": 2, "cuda": None},
    }


@pytest.fixture
def layers() -> dict[str, Any]:
    """One shape in both layouts: AN as fast as 0.65 and 1.2 BatchNorms."""
    rows = [
        {
            "shape": "64x56x56", "layout": layout, "dtype": "float32", "x_bytes": 1_000_000,
            "train_copy_ms": time(0.5), "notes": {"AN compiled": "no compiler"},
            "contenders": {"BN": cost(1), "AN": cost(0.65)},
            "ratios": {"an_bn_train": ratio(an), "an_bn_eval": ratio(1.5), "released_an_train": ratio(6.0)},
        }
        for layout, an in (("NCHW", 0.65), ("channels_last", 1.2))
    ]  # fmt: skip
    return {"format": "attnorm-layer-cost", **provenance(), "rows": rows}


@pytest.fixture
def networks() -> dict[str, Any]:
    rows = []
    for kind in ("train", "eval"):
        costs = {name: {f"{kind}_ms": time(100), "parameters": 25_557_032} for name in SAVED}
        if kind == "train":
            for name, saved in SAVED.items():
                costs[name]["saved_bytes"] = saved
        ratios = {f"an_bn_{kind}": ratio(1.012), f"se_an_{kind}": ratio(1.05)}
        rows.append({"kind": kind, "layout": "NCHW", "networks": costs, "ratios": ratios})
    return {"format": "attnorm-network-cost", **provenance(), "rows": rows}


def test_a_ratio_stands_with_its_interval_and_its_target(layers: dict[str, Any]):
    """0.65 keeps 0.7 for NCHW, 1.2 misses 1.1 for channels_last; 6.0 keeps 5 and misses 7; nothing stands for ReLU."""
    lines = tables.layer_ratios(layers).splitlines()
    assert lines[2] == (
        "| 64x56x56 NCHW | 0.65 [0.64, 0.67]; ≤ 0.7: met |  | 1.50 [1.49, 1.52]; ≤ 1.8: met "
        "| 6.00 [5.99, 6.02]; ≥ 5: met |"
    )
    assert "1.20 [1.19, 1.22]; ≤ 1.1: missed" in lines[3]
    assert "6.00 [5.99, 6.02]; ≥ 7: missed" in lines[3]


def test_times_stand_with_half_the_quartile_distance_and_who_was_not_measured(layers: dict[str, Any]):
    text = tables.layer_times(layers)
    assert "| 64x56x56 NCHW | BN | 3 ± 0.3 | 5 ± 0.3 | 2 ± 0.3 |" in text
    assert "| 64x56x56 NCHW | AN compiled | no compiler | no compiler | no compiler |" in text


def test_bandwidth_is_the_share_of_the_copy(layers: dict[str, Any]):
    """By hand: the copy moves 2 MB in 0.5 ms, 4 GB/s; BN must move 8 MB and takes 8 ms, 1 GB/s: a quarter."""
    assert "| 64x56x56 NCHW | BN | 8 | 25% | 5.0 | 4.0 |" in tables.bandwidth(layers)


def test_sentences_quote_the_medians(layers: dict[str, Any], networks: dict[str, Any]):
    assert "takes 0.65 to 0.65 times nn.BatchNorm2d's time in NCHW and 1.20 to 1.20" in tables.layer_sentence(layers)
    assert tables.network_sentence(networks) == (
        "resnet50_an takes 1.012 [1.002, 1.032] times resnet50's time in training (NCHW) and 1.012 [1.002, 1.032] "
        "times resnet50's time in evaluation (NCHW).\n"
    )


def test_networks_show_targets_and_saved_bytes(networks: dict[str, Any]):
    assert "| NCHW | 1.012 [1.002, 1.032]; ≤ 1.02: met | 1.050 [1.040, 1.070]; ≥ 1.08: missed |" in (
        tables.network_ratios(networks)
    )
    assert "| resnet50_an, NCHW, training | 100 ± 0.3 | 25.56 | 1.0 | 1.0050 (≤ 1.01: met) |" in (
        tables.network_times(networks)
    )


def test_families_show_who_is_divided_by_whom():
    """The BN twin is measured first; AOGNet's own forward pass before the plain one."""
    rows = [
        {"kind": "train", "layout": "NCHW", "networks": {"densenet121": {}, "densenet121_an": {}},
         "ratios": {"an_bn_train": ratio(1.05)}},
        {"kind": "eval", "layout": "NCHW", "networks": {"aognet_12m_an": {}, "node by node": {}},
         "ratios": {"plain_eval": ratio(0.9)}},
    ]  # fmt: skip
    text = tables.family_ratios({"rows": rows})
    assert "| densenet121_an / densenet121, training | NCHW | 1.050 [1.040, 1.070]; ≤ 1.03: missed |" in text
    assert "| aognet_12m_an / node by node, evaluation | NCHW | 0.900 [0.890, 0.920]; ≤ 1: met |" in text


def test_an_unfinished_run_says_so(layers: dict[str, Any]):
    assert "finished 2026-01-01T00:10:00+00:00, commit 0123456789ab; torch 2.15.0" in tables.provenance(layers)
    assert "**unfinished**, begun 2026" in tables.provenance({**layers, "finished": None})


@pytest.fixture
def site(tmp_path: Path, layers: dict[str, Any]) -> Path:
    """A repository with one measured record and a page that wants two."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("# x\n")
    markers = "".join(
        f"<!-- performance {name}:begin -->\nold\n<!-- performance {name}:end -->\n" for name in ("layer_ratios", "gpu")
    )
    (tmp_path / "docs" / "performance.md").write_text(f"# y\n{markers}end\n")
    write_json_atomic(tmp_path / "benchmarks" / "results" / "layer_cost.json", layers)
    return tmp_path


def test_markers_are_filled_once_and_stay_so(site: Path):
    page = site / "docs" / "performance.md"
    assert performance_table.main(["--check"], root=site) == 1
    assert performance_table.main([], root=site) == 0
    text = page.read_text("utf-8")
    assert "old" not in text
    assert "| 64x56x56 NCHW | 0.65 [0.64, 0.67]" in text
    assert "gpu:begin -->\n\nNot measured yet.\n" in text
    assert text.endswith("end\n")
    assert performance_table.main(["--check"], root=site) == 0
    page.write_text(text.replace("0.65", "0.55"), "utf-8")
    assert performance_table.main(["--check"], root=site) == 1


def test_a_marker_that_names_no_table_is_an_error(site: Path):
    (site / "README.md").write_text("<!-- performance x:begin -->\n<!-- performance x:end -->\n")
    with pytest.raises(KeyError, match="x"):
        performance_table.main([], root=site)


def test_published_pages_are_up_to_date(capsys: pytest.CaptureFixture[str]):
    assert performance_table.main(["--check"]) == 0, capsys.readouterr().err
