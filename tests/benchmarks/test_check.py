"""The check of speed fails on a slowdown, keeps still within the noise, and does not judge another machine."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from attnorm.files import write_json_atomic
from attnorm.training.record import environment, versions
from benchmarks import check


def ratio(median: float, spread: float = 0.02) -> dict[str, float]:
    return {"median": median, "low": median * (1 - spread), "high": median * (1 + spread), "rounds": 15}


def row(**medians: float) -> dict[str, Any]:
    ratios = {key: ratio(value) for key, value in {"an_bn_train": 0.7, "released_an_train": 6.0, **medians}.items()}
    return {"shape": "64x56x56", "layout": "NCHW", "dtype": "float32", "ratios": ratios}


def test_noise_is_twice_what_two_equal_layers_differ_by():
    assert check.noise_of(row()) == check.MIN_NOISE
    assert check.noise_of(row(control_train=1.01, control_eval=0.9)) == pytest.approx(0.2)


def test_a_slowdown_beyond_the_noise_is_found_and_one_within_it_is_not():
    """Committed 0.7, high end 0.714; with 10% noise a low end above 0.785 is a slowdown: a median of 0.802."""
    committed = row()
    assert check.slowdowns(row(an_bn_train=0.79), committed, 0.1) == []
    (line,) = check.slowdowns(row(an_bn_train=0.81), committed, 0.1)
    assert line.startswith("64x56x56 NCHW float32 an_bn_train: 0.81 [0.794, 0.826], committed 0.7 [0.686, 0.714]")


def test_what_became_faster_is_no_slowdown():
    assert check.slowdowns(row(an_bn_train=0.3), row(), 0.05) == []


def test_an_uncertain_ratio_is_no_slowdown_but_shows_as_blindness():
    """An interval of +-50% says nothing; the smallest slowdown that it could have shown says that it does not."""
    fresh = row()
    fresh["ratios"]["an_bn_train"] = ratio(0.9, 0.5)
    assert check.slowdowns(fresh, row(), 0.05) == []
    (seen,) = check.visible(fresh, row(), 0.05)
    assert seen == pytest.approx(1.02 * 1.05 / 0.5 - 1)


def committed_file(folder: Path, processor: str | None = None) -> Path:
    """A record of this machine, or of one with another processor."""
    machine = environment(torch.device("cpu"))
    content = {"machine": {**machine, "processor": processor or machine["processor"]}, "versions": versions()}
    write_json_atomic(folder / "layer_cost.json", {**content, "rows": [row()]})
    return folder


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Rows that the measurement returns one after the other, the last one again and again; nothing is timed."""
    rows: list[dict[str, Any]] = []

    def next_row(*_: Any) -> dict[str, Any]:
        return copy.deepcopy(rows.pop(0) if len(rows) > 1 else rows[0])

    monkeypatch.setattr(check.layer_cost, "measure_case", next_row)
    return rows


def test_check_fails_on_a_slowdown(tmp_path: Path, measured: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]):
    measured.append(row(an_bn_train=1.4))
    assert check.main(["--short"], results=committed_file(tmp_path)) == 1
    out, err = capsys.readouterr()
    assert "judged by the committed ratios of AN to BatchNorm" in out
    assert "slower: 64x56x56 NCHW float32 an_bn_train: 1.4" in err


def test_check_passes_on_the_committed_ratio(
    tmp_path: Path, measured: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
):
    measured.append(row(an_bn_train=0.71))
    assert check.main(["--short"], results=committed_file(tmp_path)) == 0
    assert "no slowdown beyond the noise" in capsys.readouterr().out


def test_a_slowdown_that_does_not_come_again_does_not_count(tmp_path: Path, measured: list[dict[str, Any]]):
    """Something else ran on the machine for the length of one row; the second, longer look is the one that counts."""
    measured.extend([row(an_bn_train=1.4), row()])
    assert check.main(["--short"], results=committed_file(tmp_path)) == 0


def test_another_processor_is_not_judged_by_the_committed_ratios(
    tmp_path: Path, measured: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
):
    measured.append(row(an_bn_train=1.4))
    assert check.main(["--short"], results=committed_file(tmp_path, "Other CPU")) == 0
    assert "Other CPU there" in capsys.readouterr().out


def test_losing_to_the_released_formulation_fails_on_any_machine(tmp_path: Path, measured: list[dict[str, Any]]):
    measured.append(row(released_an_train=0.8))
    assert check.main(["--short"], results=committed_file(tmp_path, "Other CPU")) == 1
    assert check.main(["--short"], results=tmp_path / "nothing here") == 1
