"""Frozen norms, weight decay, and norms that are synchronised over processes."""

import copy

import pytest
import timm
import timm.optim
import torch
from torch import nn
from torch.testing import assert_close

from attnorm import AttentiveBatchNorm2d, freeze_norm, replace_norm, sync_norm, weight_decay_groups
from attnorm.layers.plain import BatchNorm
from tests.layers.synchronised import network


def test_the_own_batch_norm_equals_torchs():
    """Values, gradients and running statistics, in both modes, with and without momentum."""
    x = torch.randn(5, 8, 4, 3, dtype=torch.float64) * 2 + 1
    for options in ({}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}):
        theirs, ours = nn.BatchNorm2d(8, **options).double(), BatchNorm(8, **options).double()
        for training in (True, False):
            a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
            ya, yb = theirs.train(training)(a), ours.train(training)(b)
            assert_close(yb, ya, rtol=1e-11, atol=1e-11)
            (ya.square() * x).sum().backward()
            (yb.square() * x).sum().backward()
            assert_close(b.grad, a.grad, rtol=1e-9, atol=1e-9)
        assert list(ours.state_dict()) == list(theirs.state_dict())
        for name, value in theirs.state_dict().items():
            assert_close(ours.state_dict()[name], value, rtol=1e-11, atol=1e-11)


def test_frozen_norms_train_with_a_batch_of_one():
    """User asks 5 and 12: statistics stay, outputs are those of evaluation, everything else gets gradients."""
    model = replace_norm(timm.create_model("resnet18", num_classes=5))
    expected = copy.deepcopy(model).eval()
    before = {name: value.clone() for name, value in model.named_buffers()}
    freeze_norm(model.train())
    x = torch.randn(1, 3, 64, 64)
    y = model(x)
    assert_close(y, expected(x), rtol=1e-4, atol=1e-4)
    y.sum().backward()
    for name, value in model.named_buffers():
        assert torch.equal(value, before[name]), name
    for name, parameter in model.named_parameters():
        norm = any(part.startswith("bn") for part in name.split(".")) or "downsample.1" in name
        assert parameter.requires_grad is not norm, name
        assert norm or parameter.grad is not None, name
    model.eval().train()
    assert_close(model(x), y)


def test_freezing_only_the_statistics_keeps_the_mixture_training():
    layer = freeze_norm(AttentiveBatchNorm2d(8, 3), parameters=False)
    layer(torch.randn(1, 8, 5, 5)).sum().backward()
    assert layer.weight.grad is not None


def test_frozen_norms_keep_drop_and_activation():
    model = nn.Sequential(timm.layers.BatchNormAct2d(8, act_layer=nn.SiLU))
    x = torch.randn(2, 8, 4, 4)
    expected = copy.deepcopy(model).eval()(x)
    names = list(model.state_dict())
    freeze_norm(model)
    assert_close(model.train()(x), expected, rtol=1e-5, atol=1e-6)
    assert list(model.state_dict()) == names


def test_networks_without_counters_load():
    """Frozen norms of other libraries save no num_batches_tracked."""
    layer = copy.deepcopy(AttentiveBatchNorm2d(8, 3))
    layer.num_batches_tracked.fill_(7)
    state = {k: v for k, v in layer.state_dict().items() if not k.endswith("num_batches_tracked")}
    layer.load_state_dict(state)
    assert layer.num_batches_tracked == 0


NETWORK_NORMS = ("weight", "bias", "attention.logits.norm.weight", "attention.logits.norm.bias")


def decay_of(groups: list[dict], model: nn.Module) -> dict[str, float]:
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)]: group["weight_decay"] for group in groups for p in group["params"]}


def test_the_authors_decay_everything():
    """Reference 1.8."""
    model = replace_norm(timm.create_model("resnet18"))
    decays = decay_of(weight_decay_groups(model, 1e-4, "all"), model)
    assert set(decays.values()) == {1e-4}
    assert len(decays) == len(list(model.parameters()))


def test_norm_parameters_can_be_spared():
    """User ask 16: AN's (K, C) parameters are norm parameters although they have two dimensions."""
    model = replace_norm(timm.create_model("resnet18"))
    model.fc.weight.requires_grad_(False)
    decays = decay_of(weight_decay_groups(model, 1e-4, "no_norm"), model)
    spared = {name for name, decay in decays.items() if decay == 0}
    prefix = "layer1.0.bn1."
    assert {prefix + name for name in NETWORK_NORMS} <= spared
    assert {"bn1.weight", "layer1.0.bn2.bias", "fc.bias"} <= spared
    assert decays[prefix + "attention.logits.weight"] == 1e-4
    assert decays["layer1.0.conv1.weight"] == 1e-4
    assert "fc.weight" not in decays
    with pytest.raises(ValueError, match="policy must be 'all' or 'no_norm'"):
        weight_decay_groups(model, 1e-4, "norm")  # type: ignore[arg-type]


def test_timms_optimizer_factory_spares_the_mixture():
    """Timm decays what has two dimensions, unless the model names it; both of its doors agree with "no_norm"."""
    model = replace_norm(timm.create_model("resnet18"))
    ours = decay_of(weight_decay_groups(model, 1e-4, "no_norm"), model)
    default = timm.optim.create_optimizer_v2(model, "sgd", lr=0.1, weight_decay=1e-4)
    assert decay_of(default.param_groups, model) == ours
    by_function = timm.optim.create_optimizer_v2(
        model, "adamw", lr=0.1, param_group_fn=lambda m: weight_decay_groups(m, 1e-4, "no_norm")
    )
    assert decay_of(by_function.param_groups, model) == ours


def test_timms_and_torchs_converters_leave_attentive_norms_whole():
    """Traps 4 and 6: they replace BatchNorm subclasses; AN is none, and keeps its parameters."""
    model = network()
    names = list(model.state_dict())
    for convert in (nn.SyncBatchNorm.convert_sync_batchnorm, timm.layers.convert_sync_batchnorm):
        converted = convert(copy.deepcopy(model))
        assert isinstance(converted[1], AttentiveBatchNorm2d)
        assert list(converted.state_dict()) == names
    frozen = timm.layers.freeze_batch_norm_2d(copy.deepcopy(model))
    assert isinstance(frozen[1], AttentiveBatchNorm2d)


def test_sync_norm_and_an_optimizer_hold_the_same_parameters():
    model = network()
    before = [id(p) for p in model.parameters()]
    assert [id(p) for p in sync_norm(model).parameters()] == before
