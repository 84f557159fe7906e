"""A loss that leaves the finite numbers stops the run at that step, in every precision and in every process."""

import math
from dataclasses import replace

import pytest
import torch

from attnorm.training.module import TrainModule
from tests.processes import run_together

from .diverging import diverge


@pytest.mark.parametrize(
    ("changes", "value"),
    [
        ({}, math.nan),
        ({"amp": True}, math.inf),
        ({"grad_accum_steps": 2}, math.nan),
        ({"amp": True, "grad_accum_steps": 3, "model_ema": True, "clip_grad": 1.0}, -math.inf),
    ],
    ids=str,
)
def test_the_step_of_a_bad_loss_is_named_and_nothing_is_written(tiny, changes, value, tally):
    """Also between the batches whose gradients are summed; the files are those of the last good state, byte by byte."""
    config = replace(tiny, recovery_interval=3, **changes)
    kind, message, same = diverge(config, epoch=1, batch=7, rank=0, value=value)
    assert kind == "DivergedError"
    assert "at step 17 (epoch 1, batch 7)" in message
    assert "the last good checkpoint is" in message
    assert same
    tally["runs"] += 1


def test_a_bad_loss_in_one_process_stops_all(tiny, tmp_path, tally):
    """The process whose loss it was names the step; the other does not wait for it, and says why."""
    config = replace(tiny, epochs=2, batch_size=50, output=str(tmp_path / "run"))
    (first, *_), (second, *_) = found = run_together(diverge, 2, tmp_path, config, 1, 4, 1, math.nan)
    assert second == "DivergedError", found
    assert "(epoch 1, batch 4)" in found[1][1]
    assert first in ("DivergedError", "PeerError"), found
    assert "process" in found[0][1] or "(epoch 1, batch 4)" in found[0][1], found
    assert found[0][2], "files were written"
    tally["processes"] += 2


def test_infinite_gradients_under_a_loss_scale_are_no_divergence(tiny):
    """Float16's scaler skips such a step; only the loss itself, before it is scaled, is looked at."""
    module = TrainModule(torch.nn.Linear(1, 1), tiny, task=None, iterations=10)  # type: ignore[arg-type]
    weight = module.model.weight
    loss = (weight * 3e4).sum().half()
    scaled = loss * 2.0**14
    assert scaled.isinf()
    scaled.backward()
    module._check_finite(loss.detach(), 0, 0)
    assert weight.grad is not None
