"""Where a step's time goes: the parts are timed without being changed, and the table adds up."""

from unittest.mock import patch

import torch

from attnorm import AttentiveBatchNorm2d
from attnorm.layers import attentive
from benchmarks import step_cost, tables
from benchmarks.contenders import Case


def test_timed_kernels_compute_the_same():
    layer, x = AttentiveBatchNorm2d(4, 3), torch.randn(4, 4, 5, 5, requires_grad=True)
    expected = torch.autograd.grad(layer(x).square().sum(), x)[0]
    kernels = step_cost.TimedKernels()
    with patch.object(attentive, "kernels_for", lambda _: kernels):
        found = torch.autograd.grad(layer(x).square().sum(), x)[0]
    assert torch.equal(found, expected)
    assert {name: len(times) for name, times in kernels.times.items()} == dict.fromkeys(kernels.times, 1)


def test_operations_are_counted_without_views():
    x = torch.randn(2, 3)
    with step_cost.Operations() as operations:
        (x.view(6).unsqueeze(0) + 1).sum()
    assert operations.count == 2


def test_a_case_is_measured_whole():
    row = step_cost.measure_case(Case(channels=4, side=3, components=2, layout="NCHW", batch=2), rounds=6)
    assert set(row["parts_ms"]) == {*step_cost.FORWARD, *step_cost.BACKWARD}
    assert all(milliseconds > 0 for milliseconds in row["parts_ms"].values())
    assert row["operations"]["forward"] > 20
    assert tables.step_parts({"rows": [row]}).count("4x3x3 NCHW") == 1


def test_the_rest_is_what_the_parts_leave():
    """AN's forward pass of 3 ms holds parts of 0.5, 0.25 and 1 ms; 8 passes are 4 copies of 0.4 ms."""
    parts = dict.fromkeys(step_cost.BACKWARD, 1.0) | {"measure": 0.5, "coefficients": 0.25, "apply": 1.0}
    times = {"BN_forward": 2.0, "BN_backward": 2.5, "AN_forward": 3.0, "AN_backward": 4.0, "copy": 0.4}
    row = {
        "shape": "4x3x3", "layout": "NCHW", "parts_ms": parts, "operations": {"forward": 30, "backward": 40},
        **{f"{name}_ms": {"median": value} for name, value in times.items()},
    }  # fmt: skip
    line = tables.step_parts({"rows": [row]}).splitlines()[-1]
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        "4x3x3 NCHW", "2.00", "3.00", "0.50", "0.25", "1.00", "1.25",
        "2.50", "4.00", "1.00", "1.00", "1.00", "1.00", "1.60", "30 + 40",
    ]  # fmt: skip
