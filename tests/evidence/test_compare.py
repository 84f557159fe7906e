"""Whole comparisons on the digits: what they write, that they go on where they stopped, and what they refuse."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from attnorm.errors import ConfigError, DivergedError, JobError
from attnorm.evidence import compare_runs as module
from attnorm.evidence.compare import compare
from attnorm.evidence.config import CompareConfig
from attnorm.evidence.table import headings, table_rows
from tests.training.narrow_detectors import shrink, tiny_config

SRC = Path(__file__).parents[2] / "src"
MODELS, SEEDS = ("resnet8_cifar", "resnet8_cifar_an"), (0, 1)


def settings(output: Path, **changes: Any) -> CompareConfig:
    small = {"models": ",".join(MODELS), "seeds": "0,1", "epochs": 1, "batch_size": 100, "progress": "plain"}
    return CompareConfig(output=str(output), **{**small, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """One comparison of two networks, two seeds, one epoch."""
    output = tmp_path_factory.mktemp("comparison") / "out"
    return output, compare(settings(output), command="attnorm compare --as-typed")


def test_everything_is_written(finished: tuple[Path, dict[str, Any]]):
    output, result = finished
    assert {path.name for path in output.iterdir()} == {
        "accuracy.png", "compare.json", "curves.png", "report.html", "runs", "settings.json"
    }  # fmt: skip
    assert json.loads((output / "compare.json").read_text()) == json.loads(json.dumps(result))
    assert "attnorm compare --as-typed" in (output / "report.html").read_text()
    assert "shows that the machinery works" in (output / "report.html").read_text()


def test_schema(finished: tuple[Path, dict[str, Any]]):
    """The names that readers of compare.json rely on."""
    _, result = finished
    assert set(result) == {
        "format", "format_version", "finished", "seconds", "command", "config", "data", "metric", "baseline",
        "models", "measured", "cautions", "notes", "environment", "runs",
    }  # fmt: skip
    assert (result["format"], result["format_version"]) == ("attnorm-compare", 1)
    assert result["metric"] == "top1"
    assert result["data"] == {
        "name": "digits", "classes": 10, "in_chans": 1, "image_size": 8, "train_images": 1000, "test_images": 797
    }  # fmt: skip
    for entry in result["models"]:
        assert set(entry) == {
            "name", "parameters", "macs", "seeds", "values", "top1", "failed", "paired_seeds", "differences",
            "difference", "conclusion", "verdict", "joint", "elementwise", "saved_bytes_per_image",
            "train_ms_per_image", "train_ratio", "train_peak_bytes", "train_energy",
            "eval_ms_per_image", "eval_ratio", "eval_peak_bytes", "eval_energy",
        }  # fmt: skip
        for kind in ("train_ms_per_image", "eval_ms_per_image"):
            assert 0 < entry[kind]["low"] <= entry[kind]["median"] <= entry[kind]["high"]
    order = [(run["seed"], run["model"]) for run in result["runs"]]
    assert order == [(seed, model) for seed in SEEDS for model in MODELS], "seed by seed, so that pairs are whole"
    for run in result["runs"]:
        assert set(run) == {"model", "seed", "status", "why", "top1", "record"}
        assert run["record"]["config"]["model"] == run["model"]
        assert run["record"]["config"]["seed"] == run["seed"]


def test_table_is_what_the_runs_say(finished: tuple[Path, dict[str, Any]]):
    """Mean, deviation and interval recomputed from each run's own record by NumPy and SciPy."""
    output, result = finished
    top1 = np.array(
        [
            [json.loads((output / f"runs/{m}/seed{s}/record.json").read_text())["top1"] for s in SEEDS]
            for m in MODELS
        ]
    )  # fmt: skip
    for entry, values in zip(result["models"], top1, strict=True):
        assert entry["top1"]["mean"] == pytest.approx(values.mean())
        assert entry["top1"]["sd"] == pytest.approx(values.std(ddof=1))
    difference = result["models"][1]["difference"]
    assert difference["mean"] == pytest.approx((top1[1] - top1[0]).mean())
    if difference["interval"] is not None:
        assert tuple(difference["interval"]) == pytest.approx(
            tuple(stats.ttest_rel(top1[1], top1[0]).confidence_interval(0.95)), rel=1e-9
        )
    assert result["models"][0]["difference"] is None


def test_finished_runs_are_not_repeated(finished: tuple[Path, dict[str, Any]], capfd: pytest.CaptureFixture[str]):
    output, result = finished
    before = {path: path.stat().st_mtime_ns for path in (output / "runs").rglob("*") if path.is_file()}
    again = compare(settings(output), command="attnorm compare --again")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert again["runs"] == json.loads(json.dumps(result["runs"]))
    said = capfd.readouterr()
    assert said.err.count("done before") == 4
    assert re.search(r"resnet8_cifar_an +\d\d", said.out)


def test_a_seed_can_be_added(finished: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    output, _ = finished
    trained: list[tuple[str, int]] = []

    def count(config: Any, **options: Any) -> Any:
        if not (Path(config.output) / "record.json").exists():
            trained.append((config.model, config.seed))
        return original(config, **options)

    original = module.fit
    monkeypatch.setattr(module, "fit", count)
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(output), str(copy)], check=True)
    result = compare(settings(copy, seeds="0,1,5", progress="none"))
    assert trained == [("resnet8_cifar", 5), ("resnet8_cifar_an", 5)]
    assert result["models"][1]["paired_seeds"] == [0, 1, 5]


def test_other_settings_are_not_mixed_in(finished: tuple[Path, dict[str, Any]]):
    output, _ = finished
    before = (output / "compare.json").read_bytes()
    with pytest.raises(ConfigError, match=r"lr: 0\.1 -> 0\.2"):
        compare(settings(output, lr=0.2))
    assert (output / "compare.json").read_bytes() == before


KILLED = """
import json, os, signal, sys
from attnorm.evidence import compare_runs as module
from attnorm.evidence.compare import compare
from attnorm.evidence.config import CompareConfig
from attnorm.options import make_settings

class KilledInTheSecondRun(module.ComparisonProgress):
    def epoch_done(self, model, seed, epoch):
        if (self.done, epoch) == (1, 2):
            os.kill(os.getpid(), signal.SIGKILL)

module.ComparisonProgress = KilledInTheSecondRun
compare(make_settings(CompareConfig, json.loads(sys.argv[1])))
"""


def test_killed_comparison_goes_on_and_ends_the_same(tmp_path: Path):
    """SIGKILL in the middle of the second run: the first is kept, the second resumes, all numbers are the same."""
    whole = compare(settings(tmp_path / "whole", epochs=3, seeds="3", progress="none"))
    config = settings(tmp_path / "killed", epochs=3, seeds="3", progress="none")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SRC), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", KILLED, json.dumps(asdict(config))]
    killed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    first, second = (Path(config.run_folder(model, 3)) for model in MODELS)
    assert list(second.glob("resume-*.ckpt"))
    assert not (second / "record.json").exists()
    assert not (tmp_path / "killed" / "compare.json").exists()
    kept = (first / "record.json").read_bytes()

    result = compare(config)
    assert (first / "record.json").read_bytes() == kept
    for ours, theirs in zip(result["runs"], whole["runs"], strict=True):
        assert ours["top1"] == theirs["top1"]
        losses = [[epoch["train_loss"] for epoch in run["record"]["history"]] for run in (ours, theirs)]
        assert losses[0] == losses[1]


def test_a_diverged_run_is_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    original = module.fit

    def fails(config: Any, **options: Any) -> Any:
        if (config.model, config.seed) == (MODELS[1], 1):
            raise DivergedError("the loss must stay finite, but it was nan at step 7")
        return original(config, **options)

    monkeypatch.setattr(module, "fit", fails)
    result = compare(settings(tmp_path))
    assert [run["status"] for run in result["runs"]] == ["done", "done", "done", "failed"]
    assert result["models"][1]["paired_seeds"] == [0]
    assert result["models"][1]["difference"]["interval"] is None
    assert "nan at step 7" in capfd.readouterr().out
    assert "nan at step 7" in (tmp_path / "report.html").read_text()


def test_nothing_finished_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fails(config: Any, **options: Any) -> Any:
        raise DivergedError("the loss was nan")

    monkeypatch.setattr(module, "fit", fails)
    with pytest.raises(JobError, match="not one of 4 runs finished"):
        compare(settings(tmp_path))
    assert not (tmp_path / "compare.json").exists()
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": ""}, "models must name at least one"),
        ({"models": "resnet8_cifar,resnet8_cifar"}, "resnet8_cifar more than once"),
        ({"seeds": "0,x"}, "seeds must be whole numbers"),
        ({"seeds": "0,-1"}, "seeds must be whole numbers"),
        ({"seeds": "1,01"}, "1 more than once"),
        ({"output": " "}, "output must name a folder"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"jobs": 0}, "jobs must be at least 1"),
        ({"models": "resnet8_cifar,resnet8_cifer_an"}, "resnet8_cifer_an"),
        ({"models": "resnet8_cifar,mask_rcnn_resnet18_fpn"}, "detectors and other networks cannot be compared"),
    ],
)
def test_wrong_settings_stop_before_anything_is_written(tmp_path: Path, changes: dict[str, Any], message: str):
    output = tmp_path / "out"
    with pytest.raises(ConfigError, match=message):
        compare(replace(settings(output), **changes))
    assert not output.exists()


def test_demo_recipe_is_understood():
    """The recipe of `make demo` has only known fields, and trains BatchNorm, SE and AN with three seeds."""
    import yaml

    content = yaml.safe_load((SRC.parent / "configs" / "quickstart" / "demo.yaml").read_text())
    config = CompareConfig(**content)
    assert len(config.model_names()) == 3
    assert len(config.seed_numbers()) == 3
    assert config.dataset == "digits"


def test_detectors_are_compared_by_their_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Tables in percent, records as COCO has the numbers; box AP beside mask AP."""
    shrink(monkeypatch)
    one = tiny_config(tmp_path, epochs=1)
    shared = {name: getattr(one, name) for name in ("dataset", "image_size", "epochs", "lr", "detector")}
    models = ("mask_rcnn_test_resnet_fpn", "cascade_mask_rcnn_test_resnet_fpn")
    config = CompareConfig(
        models=",".join(models), seeds="0,1", output=str(tmp_path / "out"), progress="none", **shared
    )
    result = compare(config)
    assert result["metric"] == "mask_AP"
    assert result["data"] == {
        "name": "shapes", "classes": 4, "in_chans": 3, "image_size": None, "train_images": 8, "test_images": 5
    }  # fmt: skip
    for entry in result["models"]:
        records = [run["record"] for run in result["runs"] if run["model"] == entry["name"]]
        for name, values in (("mask_AP", entry["values"]), ("box_AP", None)):
            raw = np.array([record["metrics"][name] for record in records])
            assert entry[name]["mean"] == pytest.approx(100 * raw.mean())
            if values is not None:
                assert values == pytest.approx(100 * raw)
        assert entry["macs"] > 0
    # A cascade has three heads of each sort, class-agnostic ones, where Mask R-CNN has one.
    heads = (49 * 16 + 1) * 32 + 33 * 5 + 4 * (9 * 16 * 16 + 16) + (4 * 16 * 16 + 16) + 17 * 5
    boxes = 3 * 33 * 4 - 33 * 20
    assert result["models"][1]["parameters"] - result["models"][0]["parameters"] == 2 * heads + 2 * 33 * 32 + boxes
    report = (tmp_path / "out" / "report.html").read_text()
    assert "top-1" not in report
    assert "mask AP, %" in report
    assert headings(result)[:4] == ["network", "mask AP, %", "difference, points [95%]", "box AP, %"]
    rows = table_rows(result)
    assert rows[0][3].startswith(f"{result['models'][0]['box_AP']['mean']:.2f}")
    again = compare(replace(config, models=f"{models[0]},faster_rcnn_test_resnet_fpn"))
    assert again["metric"] == "box_AP", "which all of them have"


def test_each_network_has_weights_of_its_own():
    """A path with a name in it: the classification network's, or that of a detector's backbone."""
    config = CompareConfig(models="a", output="o", initial_checkpoint="weights/{backbone}.safetensors")
    assert config.run_config("resnet18_an", 0).initial_checkpoint == "weights/resnet18_an.safetensors"
    assert config.run_config("mask_rcnn_resnet18_an_fpn", 0).initial_checkpoint == "weights/resnet18_an.safetensors"
    config = replace(config, initial_checkpoint="{model}/best.safetensors")
    assert config.run_config("resnet18", 0).initial_checkpoint == "resnet18/best.safetensors"
    assert replace(config, initial_checkpoint=None).run_config("resnet18", 0).initial_checkpoint is None
