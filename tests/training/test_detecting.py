"""Detectors in the training loop: the same guarantees as for classification, on a dozen pictures of shapes."""

import csv
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from attnorm.data import load_detection, make_loader
from attnorm.detection.create import create_detector
from attnorm.errors import ConfigError
from attnorm.options import parse_settings
from attnorm.training.checkpoint import load_checkpoint
from attnorm.training.config import TrainConfig, resolve
from attnorm.training.evaluation_detection import evaluate_detector
from attnorm.training.loop import fit
from attnorm.training.record import RunRecord
from attnorm.training.schedule import learning_rate

from .narrow_detectors import shrink, tiny_config
from .runs import Stopped, assert_same_weights, stop_at, timeless, weights

LOSSES = ("loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    shrink(monkeypatch)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run that tests read and do not change."""
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        config = tiny_config(tmp_path_factory.mktemp("trained") / "run")
        return config, fit(config, quiet=True)


@pytest.fixture(scope="module")
def nearly_still(tmp_path_factory):
    """Loss of the first epoch at a rate of next to nothing."""
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        config = tiny_config(tmp_path_factory.mktemp("still") / "run", epochs=1, lr=1e-6)
        return fit(config, quiet=True).history[0]["train_loss"]


def assert_same_numbers(result, metrics):
    """COCO's numbers; those without an object are not defined in either."""
    assert any(value for value in metrics.values())
    for name, value in metrics.items():
        assert result[name] == (None if value is None else pytest.approx(value, rel=1e-6)), name


def plain_loop(config):
    """What `fit` must amount to: weights, and the means of the losses in each epoch."""
    data = load_detection(config)
    torch.manual_seed(config.seed)
    detector = create_detector(
        config.model, 5, config=config.detector, image_mean=data.mean, image_std=data.std
    ).train()
    loader = make_loader(data.train, batch_size=2, train=True, seed=config.seed)
    optimizer = torch.optim.SGD(detector.parameters(), lr=1, momentum=0.9, weight_decay=1e-4)
    means = []
    for epoch in range(config.epochs):
        loader.sampler.set_epoch(epoch)
        seen = []
        for i, (images, targets) in enumerate(loader):
            torch.manual_seed((config.seed * 1_000_003 + epoch * len(loader) + i) * 4_099)
            losses = detector(images, targets)
            optimizer.param_groups[0]["lr"] = learning_rate(
                epoch, i, len(loader), lr=config.lr, epochs=config.epochs, warmup_epochs=config.warmup
            )
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
            seen.append({name: loss.item() for name, loss in losses.items()})
        means.append({name: sum(losses[name] for losses in seen) / len(seen) for name in seen[0]})
    return detector.state_dict(), means


def test_fit_is_the_plain_loop(trained):
    config, record = trained
    expected, means = plain_loop(config)
    torch.testing.assert_close(
        weights(config), dict(expected), rtol=1e-5, atol=1e-7
    )  # losses are added in another order
    for row, mean in zip(record.history, means, strict=True):
        assert {name: row[name] for name in LOSSES} == pytest.approx(mean, rel=1e-5)
        assert row["train_loss"] == pytest.approx(sum(mean.values()), rel=1e-5)


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, monkeypatch):
    """Bit for bit, with every source of chance: order, flips, sizes, samples of proposals, stochastic depth."""
    changes = {
        "model": "cascade_mask_rcnn_test_resnet_fpn",
        "detector": {"min_size": (48, 64)},
        "model_ema": True,
        "model_ema_decay": 0.9,
        "drop_path": 0.2,
        "recovery_interval": 2,
    }
    whole, broken = (tiny_config(tmp_path / name, **changes) for name in ("whole", "broken"))
    expected = fit(whole, quiet=True)
    with monkeypatch.context() as patch:
        stop_at(patch, 1, 3)
        with pytest.raises(Stopped):
            fit(broken, quiet=True)
    record = fit(replace(broken, resume="auto"), quiet=True)
    assert [timeless(row) for row in record.history] == [timeless(row) for row in expected.history]
    assert {f"{name}_{stage}" for name in LOSSES[:3] for stage in range(3)} < record.history[0].keys()
    assert_same_weights(weights(broken), weights(whole))


def test_what_a_run_leaves_behind(trained):
    config, record = trained
    output = Path(config.output)
    names = {"best.safetensors", "config.yaml", "last.safetensors", "log.jsonl", "metrics.csv", "record.json"}
    assert {item.name for item in output.iterdir() if item.suffix != ".ckpt"} == names
    assert json.loads((output / "record.json").read_text()) == asdict(record)
    assert RunRecord.from_dict(asdict(record)) == record
    rows = list(csv.DictReader((output / "metrics.csv").read_text().splitlines()))
    for name in ("train_loss", *LOSSES, "box_AP", "mask_AP50"):
        assert [float(row[name]) for row in rows] == [row[name] for row in record.history]
    assert record.metric == "mask_AP"
    assert record.metrics["mask_AP"] == record.history[-1]["mask_AP"]
    assert len(record.metrics) == 24
    assert record.best == max(row["mask_AP"] for row in record.history)
    assert (record.top1, record.best_top1) == (None, None)
    assert record.data["classes"] == ["ellipse", "triangle", "rectangle", "star"]
    assert (record.data["train_images"], record.data["val_images"]) == (8, 5)
    arguments = ["--config", str(output / "config.yaml"), "--output", config.output]
    assert parse_settings(TrainConfig, arguments, command="attnorm train", recipe=True) == resolve(config)


def test_saved_weights_score_what_the_record_says(trained):
    config, record = trained
    detector, meta = load_checkpoint(Path(config.output) / "last.safetensors")
    assert (meta.num_classes, meta.classes, meta.category_ids) == (5, tuple(record.data["classes"]), (1, 2, 3, 4))
    assert detector.config == resolve(config).detector
    assert not detector.training
    data = load_detection(config)
    result = evaluate_detector(
        detector,
        make_loader(data.val, batch_size=1, train=False),
        data.val.ground_truth(),
        device="cpu",
        categories=data.categories,
    )
    assert meta.metrics == {name: value for name, value in record.metrics.items() if value is not None}
    assert_same_numbers(result, record.metrics)


def test_a_finished_run_is_not_repeated_and_other_settings_are_named(trained):
    config, record = trained
    again = fit(replace(config, resume="auto"), quiet=True, on_epoch=lambda row: pytest.fail("an epoch was trained"))
    assert asdict(again) == asdict(record)
    other = replace(config, resume="auto", detector=replace(config.detector, min_size=(48, 64)))
    with pytest.raises(ConfigError, match=r"differ in detector\.min_size: 64 -> \[48, 64\];"):
        fit(other, quiet=True)


@pytest.mark.parametrize(
    "changes",
    [{"amp": True}, {"channels_last": True}, {"workers": 1}, {"grad_accum_steps": 2, "clip_grad": 1.0}],
    ids=lambda changes: "-".join(changes),
)
def test_options_leave_the_losses_as_they_are(nearly_still, tmp_path, changes):
    """At a rate of next to nothing, other arithmetic shows in the third digit only."""
    record = fit(tiny_config(tmp_path / "run", epochs=1, lr=1e-6, **changes), quiet=True)
    assert record.history[0]["train_loss"] == pytest.approx(nearly_still, rel=2e-2)


def test_faster_rcnn_is_judged_by_its_boxes(tmp_path, capfd):
    record = fit(tiny_config(tmp_path / "run", model="faster_rcnn_test_resnet_fpn", epochs=1, progress="plain"))
    assert record.metric == "box_AP"
    assert not [name for name in (*record.metrics, *record.history[0]) if "mask" in name]
    out, err = capfd.readouterr()
    assert out == ""
    line = err.splitlines()[-1]
    assert line.startswith("epoch 1/1  train loss ")
    assert f"box AP {100 * record.metrics['box_AP']:.1f} (AP50 {100 * record.metrics['box_AP50']:.1f})  " in line


TWO = """
import sys
from pathlib import Path
import pytest
from attnorm.training.loop import fit
from tests.training.narrow_detectors import shrink, tiny_config

with pytest.MonkeyPatch.context() as patch:
    shrink(patch)
    fit(tiny_config(Path(sys.argv[1]), detector={"norm_policy": "sync"}, epochs=1), quiet=True)
"""


def test_two_processes(tmp_path):
    """Every parameter gets its gradient, and the numbers of the epoch are those of the one network that is saved."""
    script, output = tmp_path / "two.py", tmp_path / "run"
    script.write_text(TWO)
    root = Path(__file__).parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{root / 'src'}:{root}"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run([*command, str(output)], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    record = RunRecord.from_dict(json.loads((output / "record.json").read_text()))
    assert record.processes == 2
    assert (record.history[0]["step"], record.history[0]["val_count"]) == (2, 5)
    detector, _ = load_checkpoint(output / "last.safetensors")
    data = load_detection(tiny_config(output))
    result = evaluate_detector(
        detector,
        make_loader(data.val, batch_size=2, train=False),
        data.val.ground_truth(),
        device="cpu",
        categories=data.categories,
    )
    assert_same_numbers(result, record.metrics)
