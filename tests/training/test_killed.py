"""Runs that are killed again and again, at any point, end as the run that nobody touched, bit for bit."""

import csv
import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from attnorm.training.config import TrainConfig
from tests.fuzz import NIGHTLY

from .dying import Runs
from .narrow_detectors import shrink, tiny_config
from .runs import assert_same_weights, timeless, weights

CHANCE = {"mixup": 0.2, "smoothing": 0.1, "drop": 0.2, "model_ema": True, "model_ema_decay": 0.9}


def classifying(folder, **changes):
    settings = {"model": "resnet8_cifar_an", "dataset": "digits", "epochs": 2, "batch_size": 100, "lr": 0.05, **CHANCE}
    settings |= {"recovery_interval": 3, "log_interval": 4, "output": str(folder / "run")}
    return TrainConfig(**{**settings, **changes})


def detecting(folder):
    changes = {"detector": {"min_size": (48, 64)}, "model_ema": True, "model_ema_decay": 0.9, "drop_path": 0.2}
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        return tiny_config(folder / "run", model="cascade_mask_rcnn_test_resnet_fpn", recovery_interval=2, **changes)


def results(config):
    """Everything that a run leaves and that is not a time."""
    output = Path(config.output)
    record = json.loads((output / "record.json").read_text())
    rows = list(csv.DictReader((output / "metrics.csv").read_text().splitlines()))
    files = {path.name for path in output.iterdir()}
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    lines = [line for line in lines if line["event"] in ("batches", "epoch")]
    return [[timeless(row) for row in each] for each in (record["history"], rows, lines)], record["metrics"], files


@pytest.mark.parametrize(
    ("make", "processes", "kills"),
    [
        pytest.param(classifying, 1, (12, 200), id="classification"),
        pytest.param(detecting, 1, (4, 50), id="detection"),
        pytest.param(lambda folder: classifying(folder, batch_size=50, sync_bn=True), 2, (4, 50), id="two processes"),
    ],
)
def test_a_run_killed_at_any_point_ends_as_if_nobody_had(tmp_path, tally, make, processes, kills):
    """SIGKILL before, between and after batches, in evaluations, in the middle of every write, before every rename."""
    draw = random.Random() if NIGHTLY else random.Random(20)
    config = make(tmp_path / "whole")
    runs = Runs(detects=config.detects, processes=processes)
    points = runs.start(config)
    expected, number, survived = results(config), 0, 0
    while survived < kills[NIGHTLY]:
        number += 1
        broken = replace(config, output=str(tmp_path / str(number) / "run"), resume="auto")
        while survived < kills[NIGHTLY]:
            # From anywhere in the rest of the run, so that some get far and some are killed over and over.
            if runs.start(broken, last=draw.randint(1, points), rank=draw.randrange(processes)) is not None:
                break
            survived += 1
        if not (Path(broken.output) / "record.json").exists():
            runs.start(broken)
        assert results(broken) == expected
        for name in ("last", "best"):
            assert_same_weights(weights(broken, name), weights(config, name))
    runs.close()
    tally["kills"] += survived
    tally["runs"] += number
