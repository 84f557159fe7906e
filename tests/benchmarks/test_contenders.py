"""What is timed is what it claims to be: the released formulation is AN, and wrong values stop the measurement."""

import dataclasses

import pytest
import torch
from torch import nn

import attnorm
from attnorm.layers.attention import hard_sigmoid
from attnorm.layers.reference import attentive_norm
from benchmarks.authors import ReleasedFormulation
from benchmarks.contenders import CONTENDERS, Case, checked, layer_steps
from benchmarks.layer_cost import measure_case

CASE = Case(channels=32, side=5, components=3, layout="channels_last", batch=4)


def float64_pair() -> tuple[attnorm.AttentiveBatchNorm2d, ReleasedFormulation, torch.Tensor]:
    torch.manual_seed(0)
    layer = attnorm.AttentiveBatchNorm2d(6, 4, dtype=torch.float64)
    norm = layer.attention.logits.norm
    assert norm is not None
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return layer, ReleasedFormulation.like(layer), torch.randn(5, 6, 4, 3, dtype=torch.float64) * 3 + 1


def definition(layer: attnorm.AttentiveBatchNorm2d, x: torch.Tensor) -> torch.Tensor:
    """The reference function with the layer's parameters, the attention written out: the truth of these tests."""
    logits, norm = layer.attention.logits, layer.attention.logits.norm
    assert norm is not None

    def attend(statistic: torch.Tensor) -> torch.Tensor:
        z = statistic @ logits.weight.T
        z = (z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt()
        return hard_sigmoid(z * norm.weight + norm.bias)

    return attentive_norm(x, layer.weight, layer.bias, attend)


def test_released_formulation_equals_the_definition_in_float64():
    """Output and gradients; the yardstick would mean nothing if it computed another function."""
    layer, released, x = float64_pair()
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected, got = definition(layer, mine), released(theirs)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    dy = torch.randn_like(x)
    expected.backward(dy)
    got.backward(dy)
    torch.testing.assert_close(theirs.grad, mine.grad, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(released.weight.grad, layer.weight.grad, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(released.bias.grad, layer.bias.grad, rtol=1e-10, atol=1e-11)
    expected_projection = layer.attention.logits.weight.grad
    assert released.project.weight.grad is not None
    torch.testing.assert_close(released.project.weight.grad[:, :, 0, 0], expected_projection, rtol=1e-10, atol=1e-11)


def test_released_formulation_keeps_running_statistics_as_batch_norm_does():
    _, released, x = float64_pair()
    plain = nn.BatchNorm2d(6, dtype=torch.float64)
    for _ in range(3):
        released(x)
        plain(x)
    torch.testing.assert_close(released.running_mean, plain.running_mean)
    torch.testing.assert_close(released.running_var, plain.running_var)
    layer, again, _ = float64_pair()
    for model in (layer, again):
        model(x)
        model.eval()
    torch.testing.assert_close(again(x), layer(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", [name for name, contender in CONTENDERS.items() if not contender.compiled])
def test_every_contender_passes_its_check(name: str, training: bool):
    x = CASE.tensor().requires_grad_(training)
    module = checked(CONTENDERS[name], CASE, training, x, CASE.tensor())
    assert module.training == training
    assert x.grad is None


def test_wrong_values_are_not_timed():
    """A contender one part in a thousand off: beyond float32's rounding, far below what a look at outputs shows."""
    off = dataclasses.replace(
        CONTENDERS["BN"], make=lambda case: nn.Sequential(nn.BatchNorm2d(case.channels, eps=2e-3))
    )
    with pytest.raises(RuntimeError, match=r"BN on 32x5x5 channels_last float32, training: .* not timed"):
        checked(off, CASE, True, CASE.tensor().requires_grad_(), CASE.tensor())


def test_a_training_step_computes_the_gradients_that_it_is_timed_for():
    """Forward and backward are what autograd does; the step leaves no gradient behind for the next to add to."""
    x, dy = CASE.tensor().requires_grad_(), CASE.tensor()
    layer = nn.BatchNorm2d(32)
    seen: list[float] = []
    assert layer.weight is not None
    layer.weight.register_post_accumulate_grad_hook(lambda p: seen.append(float(p.grad.norm())))
    step = layer_steps(layer, CASE, x, dy)
    assert list(step()) == ["forward", "backward"]
    assert list(step()) == ["forward", "backward"]
    assert seen[0] == pytest.approx(seen[1])
    assert x.grad is None
    assert layer.weight.grad is None
    assert list(layer_steps(layer.eval(), CASE, x, dy)()) == ["eval"]


def test_a_row_has_everything_that_the_tables_quote(monkeypatch: pytest.MonkeyPatch):
    """One small case through the whole measurement, on a machine without a compiler."""
    monkeypatch.setattr("benchmarks.layer_cost.compiler", lambda: None)
    row = measure_case(CASE, ("BN", "AN", "released AN", "AN compiled"), rounds=6)
    assert row["notes"] == {"AN compiled": "no compiler"}
    assert set(row["ratios"]) == {
        "an_bn_train", "released_an_train", "control_train", "an_bn_eval", "released_an_eval", "control_eval"
    }  # fmt: skip
    bn = row["contenders"]["BN"]
    assert bn["saved_bytes"] == row["x_bytes"] + 2 * 4 * 32
    assert set(bn) == {
        "saved_bytes", "train_traffic", "eval_traffic", "train_ms", "forward_ms", "backward_ms", "eval_ms"
    }  # fmt: skip
    assert bn["forward_ms"]["median"] < bn["train_ms"]["median"]
