"""What the layers must satisfy whatever their parameters: limits, symmetries, initialisation."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from attnorm import (
    AttentiveBatchNorm2d,
    AttentiveBatchNormAct2d,
    AttentiveGroupNorm,
    AttentiveGroupNormAct,
    backend,
)
from tests.layers.small import KINDS, make


@pytest.mark.parametrize("kind", KINDS)
def test_parameter_count(kind):
    """Reference 1.10: 3KC + 2K for the batch variant, 3KC + K for the heads' group variant."""
    count = sum(p.numel() for p in make(kind).parameters())
    assert count == 3 * 3 * 8 + (6 if kind is AttentiveBatchNorm2d else 3)


def test_initialisation_is_the_released_one():
    """Reference 1.7: W ~ N(1, 0.1^2), bias ~ N(0, 0.1^2), attention N(0, 2/K) in front of a norm."""
    torch.manual_seed(0)
    layer = AttentiveBatchNorm2d(4096, 16)
    error = 5 / (4096 * 16) ** 0.5  # five standard errors of a mean
    assert abs(layer.weight.mean() - 1) < 0.1 * error
    assert abs(layer.weight.std() - 0.1) < 0.1 * error
    assert abs(layer.bias.mean()) < 0.1 * error
    assert abs(layer.bias.std() - 0.1) < 0.1 * error
    assert abs(layer.attention.logits.weight.std() - (2 / 16) ** 0.5) < (2 / 16) ** 0.5 * error
    head = AttentiveGroupNorm(4096, 32, 16)
    bound = 1 / 4096**0.5
    for parameter in (head.attention.logits.weight, head.attention.logits.bias):
        assert parameter.abs().max() <= bound
    assert abs(head.attention.logits.weight.std() - bound / 3**0.5) < bound * error


@pytest.mark.parametrize("gate", ["hard_sigmoid", "sigmoid", "softmax"])
@pytest.mark.parametrize("kind", KINDS)
def test_initial_gain(kind, gate):
    """With weights at gate(0) the mean scale is `init_gain`; the paper's is K/2 (K * 1/K for the softmax)."""
    for gain, expected in ((None, 1.0 if gate == "softmax" else 1.5), (1.0, 1.0), (0.5, 0.5)):
        layer = make(kind, channels=4096, gate=gate, init_gain=gain)
        start = 1 / 3 if gate == "softmax" else 1 / 2
        gamma = start * layer.weight.sum(0)
        assert abs(gamma.mean() - expected) < 0.01
        assert abs(gamma.std() / expected - 0.1 / 3**0.5) < 0.005
    assert "init_gain=0.5" in repr(layer)


@pytest.mark.parametrize("gate", ["hard_sigmoid", "sigmoid"])
@pytest.mark.parametrize("kind", KINDS)
def test_constant_gates_make_the_plain_norm(kind, gate):
    """With lambda pinned to one component, AN is the plain norm with that component's affine transform."""
    layer = make(kind, gate=gate, logit_norm=None)
    attention = layer.attention.logits
    with torch.no_grad():
        attention.weight.zero_()
        attention.bias.copy_(torch.tensor([-50.0, 50.0, -50.0]))
    plain = nn.BatchNorm2d(8) if kind is AttentiveBatchNorm2d else nn.GroupNorm(4, 8)
    with torch.no_grad():
        plain.weight.copy_(layer.weight[1])
        plain.bias.copy_(layer.bias[1])
    x = torch.randn(4, 8, 6, 5) * 2 + 1
    for training in (True, False):
        assert_close(layer.train(training)(x), plain.train(training)(x), rtol=1e-5, atol=1e-5)


def test_group_variant_ends_are_instance_and_layer_norm():
    x = torch.randn(4, 8, 6, 5, dtype=torch.float64) * 2 + 1
    for groups, plain in ((8, nn.InstanceNorm2d(8)), (1, nn.LayerNorm((8, 6, 5), elementwise_affine=False))):
        layer = AttentiveGroupNorm(8, groups, 3, dtype=torch.float64)
        weights = layer.mixture_weights(x)
        gamma, beta = weights @ layer.weight, weights @ layer.bias
        expected = gamma[..., None, None] * plain(x) + beta[..., None, None]
        assert_close(layer(x), expected, rtol=1e-10, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 6), st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**31))
def test_permuting_the_batch_permutes_the_output(samples, height, width, seed):
    layer = make(AttentiveBatchNorm2d).double()
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 8, height, width, dtype=torch.float64, generator=generator)
    order = torch.randperm(samples, generator=generator)
    assert_close(layer(x)[order], layer(x[order]), rtol=1e-9, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31))
def test_permuting_channels_with_their_parameters_permutes_the_output(seed):
    generator = torch.Generator().manual_seed(seed)
    layer = make(AttentiveBatchNorm2d).double()
    order = torch.randperm(8, generator=generator)
    permuted = copy.deepcopy(layer)
    with torch.no_grad():
        for ours in (permuted.weight, permuted.bias, permuted.attention.logits.weight):
            ours.copy_(ours[:, order])
    x = torch.randn(4, 8, 5, 3, dtype=torch.float64, generator=generator)
    assert_close(permuted(x[:, order]), layer(x)[:, order], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(2, 1, 7, 3), (5, 16, 1, 1), (3, 6, 13, 1), (2, 33, 5, 5)])
def test_odd_shapes_agree_between_the_paths(kind, shape):
    groups = {"num_groups": 1} if kind is AttentiveGroupNorm else {}
    torch.manual_seed(0)
    layer = kind(shape[1], num_components=3, **groups)
    x = torch.randn(shape)
    fast = layer(x)
    with backend("reference"):
        assert_close(layer(x), fast, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("kind", [AttentiveBatchNormAct2d, AttentiveGroupNormAct])
@pytest.mark.parametrize(
    ("options", "function"),
    [
        ({}, torch.relu),
        ({"act_layer": "silu"}, nn.functional.silu),
        (
            {"act_layer": nn.LeakyReLU, "act_kwargs": {"negative_slope": 0.3}},
            lambda y: nn.functional.leaky_relu(y, 0.3),
        ),
        ({"act_layer": nn.Sigmoid}, torch.sigmoid),
        ({"apply_act": False}, lambda y: y),
    ],
)
def test_norm_act_convention(kind, options, function):
    """The act version is the plain layer, then the activation, with timm's arguments."""
    layer, plain = make(kind, **options), make(kind.__bases__[0])
    x = torch.randn(4, 8, 5, 5)
    assert_close(layer(x), function(plain(x)))
    with pytest.raises(ValueError, match="act_layer must be"):
        make(kind, act_layer="no_such")
