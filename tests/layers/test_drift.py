"""Running statistics and averaged weights after ten thousand updates, against the same recursions in float64."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from timm.utils.model_ema import ModelEmaV3
from torch import nn

from attnorm import AttentiveBatchNorm2d, AttentiveGroupNorm, sync_norm
from attnorm.layers.plain import BatchNorm

UPDATES = 10_000
ROUNDING = 2.0**-24  # of float32, relative

# A running statistic is r + rate (new - r): two or three roundings of numbers no larger than the largest seen. What an
# update rounds away is damped by (1 - rate) in each later one, so the sum of all stays below 3 roundings / rate. The
# plain average, momentum None, damps by 1 - 1/n: the error of update i ends up i/n as large, n/2 updates' in all, but
# each corrects by 1/n only, and rounds that: the result alone is rounded n times, by half a rounding each. What is
# random in both makes the true error far smaller; `nn.BatchNorm2d` is the yardstick for that.
BOUND = {0.1: 3 / 0.1, 0.01: 3 / 0.01, None: UPDATES / 2}


def follow(start: float, batches: np.ndarray, momentum: float | None) -> np.ndarray:
    """The recursion in float64, by NumPy."""
    running = np.full_like(batches[0], start)
    for count, new in enumerate(batches, 1):
        rate = 1 / count if momentum is None else momentum
        running = (1 - rate) * running + rate * new
    return running


def statistics(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means and unbiased variances (updates, C) of (updates, C, values)."""
    return rows.mean(2), rows.var(2, ddof=1)


def errors(norm: nn.Module, means: np.ndarray, variances: np.ndarray, momentum: float | None) -> float:
    """The largest of the running mean and variance, in roundings of the largest value seen in a channel."""
    found = 0.0
    for name, start, batches in (("running_mean", 0.0, means), ("running_var", 1.0, variances)):
        error = np.abs(norm.get_buffer(name).double().numpy() - follow(start, batches, momentum))
        found = max(found, float((error / np.abs(batches).max(0)).max() / ROUNDING))
    return found


SLOW = pytest.mark.slow
CASES = [
    (0.1, False),
    (0.01, True),
    (None, False),
    pytest.param(0.1, True, marks=SLOW),
    pytest.param(0.01, False, marks=SLOW),
    pytest.param(None, True, marks=SLOW),
]


@pytest.mark.parametrize(("momentum", "bfloat16"), CASES)
def test_running_statistics_do_not_drift(momentum, bfloat16, tally):
    """After 10,000 updates they are float64's but for a bounded number of roundings, like nn.BatchNorm2d's."""
    torch.manual_seed(0)
    layer = AttentiveBatchNorm2d(3, 2, momentum=momentum)
    plain, ours = nn.BatchNorm2d(3, momentum=momentum), sync_norm(nn.BatchNorm2d(3, momentum=momentum))
    assert isinstance(ours, BatchNorm)
    attention = layer.attention.logits
    assert attention.norm is not None
    # Maps of 2 x 2 pixels, with means of 0, 3 and 100.
    batches = torch.randn(UPDATES, 4, 3, 2, 2) + torch.tensor([0.0, 3.0, 100.0]).view(3, 1, 1)
    batches = batches.to(torch.bfloat16 if bfloat16 else torch.float32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        for x in batches:
            for norm in (layer, plain, ours):
                norm(x)
            tally["updates"] += 1
    for norm in (layer, attention.norm, plain, ours):
        assert norm.get_buffer("num_batches_tracked").item() == UPDATES
        assert norm.get_buffer("running_mean").dtype == torch.float32

    maps = batches.double().numpy().reshape(UPDATES, 4, 3, 4)
    seen = statistics(maps.swapaxes(1, 2).reshape(UPDATES, 3, -1))
    yardstick = errors(plain, *seen, momentum)
    for norm in (layer, ours):
        error = errors(norm, *seen, momentum)
        assert error < BOUND[momentum]
        assert error < 4 * max(yardstick, 4)
    logits = maps.mean(3) / np.sqrt(maps.var(3, ddof=1) + 1e-3) @ attention.weight.detach().double().numpy().T
    # A logit is a float32 sum over channels: some roundings of its own in every batch, which do not add up.
    assert errors(attention.norm, *statistics(logits.swapaxes(1, 2)), momentum) < BOUND[momentum] + 16


def test_the_average_of_weights_does_not_drift(tally):
    """The average of 10,000 steps' weights is float64's within 3 roundings / (1 - decay) of the largest weight."""
    decay, generator = 0.999, torch.Generator().manual_seed(0)
    model = AttentiveGroupNorm(4, 2, 2)
    average = ModelEmaV3(model, decay=decay)
    truth = {name: p.detach().double().numpy() for name, p in model.named_parameters()}
    for step in range(1, UPDATES + 1):
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
                new = parameter.double().numpy()
                # timm takes the first weights over as they are.
                truth[name] = truth[name] * decay + (1 - decay) * new if step > 1 else new.copy()
        average.update(model, step=step)
        tally["updates"] += 1
    for name, parameter in average.module.named_parameters():
        size = max(np.abs(truth[name]).max(), model.get_parameter(name).abs().max().item())
        error = np.abs(parameter.detach().double().numpy() - truth[name]).max()
        assert error < float(3 / (1 - Fraction(str(decay)))) * ROUNDING * size, name
