"""The layers behave as their torch.nn siblings: shapes, layouts, states, errors."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from attnorm import (
    AttentiveBatchNorm2d,
    AttentiveGroupNorm,
    freeze_norm,
)
from tests.layers.small import KINDS, make


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [True, False])
def test_channels_last_is_kept(kind, training):
    """User ask 8: values as for the contiguous tensor, output and gradient in channels_last."""
    layer = make(kind).train(training)
    x = torch.randn(4, 8, 6, 5)
    expected = copy.deepcopy(layer)(x)
    last = x.to(memory_format=torch.channels_last).requires_grad_()
    y = layer(last)
    y.square().sum().backward()
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert last.grad is not None
    assert last.grad.is_contiguous(memory_format=torch.channels_last)
    assert_close(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_strided_input_and_gradient(kind):
    layer = make(kind)
    wide = torch.randn(4, 16, 5, 12)
    strided, dense = wide[:, ::2, :, ::3], wide[:, ::2, :, ::3].contiguous()
    results = []
    for x in (strided, dense):
        x = x.detach().requires_grad_()
        dy = torch.arange(4.0 * 5 * 8).reshape(4, 5, 8, 1).permute(0, 2, 1, 3).expand(4, 8, 5, 4)
        results.append(torch.autograd.grad(copy.deepcopy(layer)(x), x, dy)[0])
    assert_close(results[0], results[1], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_empty_batch(kind):
    """Detection has images without boxes (user ask 20): an empty output, zero gradients, statistics left alone."""
    layer = make(kind)
    before = copy.deepcopy(layer.state_dict())
    x = torch.randn(0, 8, 5, 5, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert y.shape == x.shape
    for name, parameter in layer.named_parameters():
        assert parameter.grad is None or not parameter.grad.any(), name
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_batch_of_one_names_the_ways_out():
    """User ask 5: the attention's norm has one value per component; the message names what can be done instead."""
    layer = make(AttentiveBatchNorm2d)
    before = copy.deepcopy(layer.state_dict())
    x = torch.randn(1, 8, 4, 4)
    with pytest.raises(ValueError, match=r"batch of 1: use model.eval\(\), attnorm.freeze_norm\(model\), or .*'layer'"):
        layer(x)
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name]), f"{name} changed although the layer refused the input"
    assert layer.eval()(x).isfinite().all()
    assert freeze_norm(layer.train())(x).isfinite().all()
    for norm in ("layer", None):
        assert make(AttentiveBatchNorm2d, logit_norm=norm)(x).isfinite().all()


def test_one_value_per_channel_is_refused():
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        make(AttentiveBatchNorm2d, logit_norm=None)(torch.randn(1, 8, 1, 1))
    with pytest.raises(ValueError, match="more than 1 value per group"):
        AttentiveGroupNorm(8, 8, 3)(torch.randn(2, 8, 1, 1))


def test_wrong_input_says_what_came():
    with pytest.raises(ValueError, match=r"4-D input; got shape \(4, 8, 5\)"):
        make(AttentiveBatchNorm2d)(torch.randn(4, 8, 5))
    with pytest.raises(ValueError, match=r"8 channels in dimension 1; got shape \(4, 5, 2, 2\)"):
        make(AttentiveGroupNorm)(torch.randn(4, 5, 2, 2))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: AttentiveBatchNorm2d(8, 0), "num_components must be at least 1; got 0"),
        (lambda: AttentiveBatchNorm2d(0), "channels must be at least 1; got 0"),
        (lambda: AttentiveBatchNorm2d(8, gate="relu"), "gate must be one of .*'softmax'; got 'relu'"),
        (lambda: AttentiveBatchNorm2d(8, logit_norm="batchnorm"), "logit_norm must be one of"),
        (lambda: AttentiveGroupNorm(30), "num_groups must divide the 30 channels; got 32"),
        (lambda: AttentiveGroupNorm(8, 4, 3, logit_norm="group", logit_groups=2), "must divide the 3 logits; got 2"),
    ],
)
def test_wrong_arguments_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_an_unknown_option_is_refused():
    with pytest.raises(TypeError, match="temperature"):
        AttentiveBatchNorm2d(8, temperature=3)  # type: ignore[call-arg]


@pytest.mark.parametrize("kind", KINDS)
def test_state_dict_round_trip(kind):
    layer, other = make(kind), make(kind)
    layer(torch.randn(4, 8, 5, 5))
    other.load_state_dict(layer.state_dict())
    x = torch.randn(4, 8, 5, 5)
    assert torch.equal(layer.eval()(x), other.eval()(x))


def test_state_dict_names_are_a_promise():
    assert list(make(AttentiveBatchNorm2d).state_dict()) == [
        "weight",
        "bias",
        "running_mean",
        "running_var",
        "num_batches_tracked",
        "attention.logits.weight",
        "attention.logits.norm.weight",
        "attention.logits.norm.bias",
        "attention.logits.norm.running_mean",
        "attention.logits.norm.running_var",
        "attention.logits.norm.num_batches_tracked",
    ]
    heads = ["weight", "bias", "attention.logits.weight", "attention.logits.bias"]
    assert list(make(AttentiveGroupNorm).state_dict()) == heads


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"])
def test_copies_are_independent(kind, clone):
    layer = make(kind)
    x = torch.randn(4, 8, 5, 5, requires_grad=True)
    layer(x).sum().backward()
    twin = clone(layer)
    assert torch.equal(twin(x), layer(x))
    with torch.no_grad():
        twin.weight.zero_()
    assert layer.weight.any()


def test_reset_parameters_resets_everything():
    layer = make(AttentiveBatchNorm2d)
    layer(torch.randn(4, 8, 5, 5))
    torch.manual_seed(0)
    layer.reset_parameters()
    for name, value in make(AttentiveBatchNorm2d).state_dict().items():
        if not name.endswith("weight") and not name.endswith("bias"):
            assert torch.equal(layer.state_dict()[name], value), name


def test_device_and_dtype_arguments():
    layer = make(AttentiveBatchNorm2d, device="meta", dtype=torch.float16)
    for name, value in layer.state_dict().items():
        assert value.is_meta, name
        assert value.dtype in (torch.float16, torch.long), name
    assert layer(torch.empty(4, 8, 5, 5, device="meta")).shape == (4, 8, 5, 5)


def test_repr_names_every_argument():
    text = repr(make(AttentiveBatchNorm2d, momentum=0.2, gate="sigmoid", var_eps=0.5))
    for part in ("8, num_components=3, eps=1e-05, momentum=0.2", "gate='sigmoid'", "logit_norm='batch'", "var_eps=0.5"):
        assert part in text
    assert "8, 4, num_components=3" in repr(make(AttentiveGroupNorm))


def test_a_layer_is_no_batch_norm():
    """Converters and initialisers that look for BatchNorm, Linear or Conv2d must pass AN by (traps 4 and 5)."""
    searched = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.Linear, nn.Conv2d)
    assert not any(isinstance(m, searched) for m in make(AttentiveBatchNorm2d).modules())
    network = nn.Sequential(make(AttentiveBatchNorm2d), nn.BatchNorm2d(8))
    before = list(network.state_dict())
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    assert isinstance(converted[0], AttentiveBatchNorm2d)
    assert list(converted.state_dict()) == before
