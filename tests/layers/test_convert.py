"""Putting AN into networks and taking it out again."""

import copy
import logging
import pickle

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.testing import assert_close

from attnorm import (
    AttentiveBatchNorm1d,
    AttentiveBatchNorm2d,
    AttentiveBatchNorm3d,
    AttentiveBatchNormAct2d,
    AttentiveGroupNorm,
    freeze_norm,
    norm_report,
    replace_norm,
    restore_norm,
)
from attnorm.layers.attentive import AttentiveNorm


def attentive(model: nn.Module) -> dict[str, int]:
    """Names of the AN layers and their K."""
    return {name: m.num_components for name, m in model.named_modules() if isinstance(m, AttentiveNorm)}


def stirred(model: nn.Module) -> nn.Module:
    """Norms as after training: scales, shifts and running statistics that are not 1 and 0."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.GroupNorm)):
            for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
                if tensor.is_floating_point():
                    low = 0.5 if name in ("weight", "running_var") else -0.3
                    tensor.data.uniform_(low, low + 1, generator=generator)
    return model


# Reference 2.1 and 8: how many AN layers with which K, and the parameters of the whole network.
RELEASED = [
    ("resnet50", timm.create_model, {10: 7, 20: 9}, 25_755_420),
    ("resnet34", timm.create_model, {10: 7, 20: 9}, 21_996_060),
    ("densenet121", timm.create_model, {10: 18, 20: 40}, 8_342_288),
    ("mobilenetv2_100", timm.create_model, {5: 10, 10: 7}, 3_672_760),
    ("resnet50", torchvision.models.get_model, {10: 7, 20: 9}, 25_755_420),
    ("resnet34", torchvision.models.get_model, {10: 7, 20: 9}, 21_996_060),
    ("densenet121", torchvision.models.get_model, {10: 18, 20: 40}, 8_342_288),
    ("mobilenet_v2", torchvision.models.get_model, {5: 10, 10: 7}, 3_672_760),
]


@pytest.mark.parametrize(("name", "create", "components", "parameters"), RELEASED)
def test_auto_finds_the_released_places(name, create, components, parameters):
    model = replace_norm(create(name))
    found = list(attentive(model).values())
    assert {k: found.count(k) for k in set(found)} == components
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize(
    ("placement", "layers", "parameters"),
    [
        ("resnet_bn2", 16, 25_755_420),
        ("resnet_bn3", 16, 26_349_084),
        ("resnet_bn123", 48, 26_745_860),
        ("resnet_all", 53, 26_947_472),
    ],
)
def test_named_placements_have_the_published_counts(placement, layers, parameters):
    model = replace_norm(timm.create_model("resnet50"), placement)
    assert len(attentive(model)) == layers
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_auto_in_an_unknown_network():
    """The first norm behind a spatial convolution in every repeated block; 20 components from 4 times the width on."""

    class Block(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.reduce, self.norm_a = nn.Conv2d(width, width, 1), nn.BatchNorm2d(width)
            self.spatial, self.norm_b = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
            self.again, self.norm_c = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)

    stages = [nn.Sequential(Block(width), Block(width)) for width in (8, 16, 32)]
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), *stages)
    expected = {f"{stage}.{block}.norm_b": k for stage, k in ((2, 10), (3, 10), (4, 20)) for block in (0, 1)}
    assert attentive(replace_norm(model)) == expected


def test_what_was_replaced_is_said(caplog):
    with caplog.at_level(logging.INFO, "attnorm"):
        model = replace_norm(timm.create_model("resnet18"))
    assert "replaced 8 of 20 norms: layer1.0.bn1" in caplog.text
    assert "kept: bn1, layer1.0.bn2" in caplog.text
    report = norm_report(model)
    assert "layer1.0.bn1: AttentiveBatchNorm2d, 64 channels, K = 10" in report
    assert len(report.splitlines()) == 20


def test_a_mapping_names_any_place():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
    assert attentive(replace_norm(model, {"1": 4, r"[3-9]": 7})) == {"1": 4, "3": 7}


def test_number_of_components():
    assert set(attentive(replace_norm(timm.create_model("resnet18"), num_components=3)).values()) == {3}
    per_stage = attentive(replace_norm(timm.create_model("resnet18"), num_components=(2, 3, 4, 5)))
    assert per_stage["layer1.0.bn1"] == 2
    assert per_stage["layer4.1.bn1"] == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"placement": "resnet_bn7"}, "placement must be 'auto', a mapping, or one of resnet_bn1.*got 'resnet_bn7'"),
        ({"placement": "densenet"}, "must match at least one norm; the network has 20 .bn1,"),
        ({"num_components": (10, 20)}, r"one number for each of the 4 stages; got \(10, 20\)"),
    ],
)
def test_wrong_placements_are_refused_and_change_nothing(arguments, message):
    model = timm.create_model("resnet18")
    with pytest.raises(ValueError, match=message):
        replace_norm(model, **arguments)
    assert not attentive(model)


class FrozenBatchNorm2d(nn.Module):
    """As detectron2 and torchvision have it: buffers, no parameters."""

    def __init__(self, channels, eps=1e-5):
        super().__init__()
        self.eps = eps
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((channels,), value))

    def forward(self, x):
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return x * scale[:, None, None] + (self.bias - self.running_mean * scale)[:, None, None]


@pytest.mark.parametrize(
    ("norm", "kind", "shape"),
    [
        (nn.BatchNorm1d(8), AttentiveBatchNorm1d, (6, 8, 5)),
        (nn.BatchNorm1d(8), AttentiveBatchNorm1d, (6, 8)),
        (nn.BatchNorm2d(8, eps=1e-3, momentum=0.01), AttentiveBatchNorm2d, (6, 8, 5, 4)),
        (nn.BatchNorm2d(8, momentum=None), AttentiveBatchNorm2d, (6, 8, 5, 4)),
        (nn.BatchNorm2d(8, affine=False), AttentiveBatchNorm2d, (6, 8, 5, 4)),
        (nn.BatchNorm2d(8, track_running_stats=False), AttentiveBatchNorm2d, (6, 8, 5, 4)),
        (nn.BatchNorm3d(8), AttentiveBatchNorm3d, (6, 8, 3, 4, 2)),
        (nn.GroupNorm(4, 8), AttentiveGroupNorm, (6, 8, 5, 4)),
        (nn.InstanceNorm2d(8, affine=True), AttentiveGroupNorm, (6, 8, 5, 4)),
        (FrozenBatchNorm2d(8), AttentiveBatchNorm2d, (6, 8, 5, 4)),
        (torchvision.ops.FrozenBatchNorm2d(8), AttentiveBatchNorm2d, (6, 8, 5, 4)),
        (timm.layers.BatchNormAct2d(8, act_layer=nn.SiLU), AttentiveBatchNormAct2d, (6, 8, 5, 4)),
        (timm.layers.FrozenBatchNormAct2d(8), AttentiveBatchNormAct2d, (6, 8, 5, 4)),
        (timm.layers.GroupNormAct(8, num_groups=4), AttentiveGroupNorm, (6, 8, 5, 4)),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else None,
)
@pytest.mark.parametrize("gate", ["hard_sigmoid", "sigmoid", "softmax"])
def test_every_norm_keeps_its_function(norm, kind, shape, gate):
    """User ask 1. Equal in training, in the running statistics that it leaves, and in evaluation."""
    norm = copy.deepcopy(norm)
    torch.manual_seed(2)
    for name, tensor in norm.state_dict().items():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5) if name in ("weight", "running_var") else tensor.uniform_(-1, 1)
    model = nn.Sequential(nn.Conv2d(8, 8, 1), copy.deepcopy(norm))  # the neighbour tells frozen norms their rank
    layer = replace_norm(model, {"1": 5}, preserve_function=True, layer_options={"gate": gate})[1]
    assert isinstance(layer, kind)
    x = torch.randn(shape) * 2 + 0.5
    for training in (True, False):
        norm.train(training)
        layer.train(training)
        assert_close(layer(x), norm(x), rtol=1e-5, atol=1e-5)
    for name, buffer in layer.named_buffers(recurse=False):
        if hasattr(norm, name):
            assert_close(buffer, getattr(norm, name), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "create"),
    [
        ("resnet18", timm.create_model),
        ("resnet26d", timm.create_model),
        ("densenet121", timm.create_model),
        ("mobilenetv2_050", timm.create_model),
        ("efficientnet_lite0", timm.create_model),
        ("regnetx_002", timm.create_model),
        ("shufflenet_v2_x0_5", torchvision.models.get_model),
    ],
)
def test_a_pretrained_network_keeps_its_function(name, create):
    """design.md 7.2: relative error below 1e-5 in evaluation; in training both feel one rounding of every norm."""
    model = stirred(create(name))
    twin = replace_norm(copy.deepcopy(model), preserve_function=True)
    assert attentive(twin)
    x = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        truth, ours = model.eval()(x), twin.eval()(x)
        assert (ours - truth).norm() / truth.norm() < 1e-5
        # Double precision: networks that normalise few values amplify roundings in training mode.
        truth, ours = model.double().train()(x.double()), twin.double().train()(x.double())
        assert (ours - truth).norm() / truth.norm() < 1e-5


def test_preserved_function_still_tells_the_components_apart():
    """Every component has a gradient of its own, in the mixture and in the attention."""
    layer = replace_norm(nn.BatchNorm2d(8), num_components=4, preserve_function=True)
    x, dy = torch.randn(2, 6, 8, 5, 5)
    layer(x).backward(dy)
    for name in ("weight", "bias", "attention.logits.norm.weight", "attention.logits.norm.bias"):
        rows = layer.get_parameter(name).grad.flatten(1) if layer.get_parameter(name).ndim > 1 else None
        rows = layer.get_parameter(name).grad[:, None] if rows is None else rows
        assert (rows.norm(dim=1) > 0).all(), name
        distances = torch.cdist(rows, rows) + torch.eye(4)
        assert (distances > 1e-6).all(), name


def test_running_statistics_are_kept():
    model = stirred(timm.create_model("resnet18"))
    twin = replace_norm(copy.deepcopy(model))
    for name, buffer in model.named_buffers():
        assert torch.equal(twin.get_buffer(name), buffer), name


def test_a_zero_initialised_scale_stays_zero():
    """Reference 2.3: an AN layer that ends a residual branch starts with W and bias 0."""
    model = replace_norm(timm.create_model("resnet34"), "resnet_bn2")
    for name, module in model.named_modules():
        if isinstance(module, AttentiveNorm):
            assert not module.weight.any(), name
            assert not module.bias.any(), name
    layer = model.get_submodule("layer1.0.bn2")
    model(torch.randn(2, 3, 64, 64)).square().sum().backward()
    assert layer.weight.grad.any()
    assert layer.bias.grad.any()
    assert not layer.attention.logits.weight.grad.any()


def test_drop_and_activation_are_kept():
    """User ask 6's cousin: timm's norm-act layers lose them in torch's own converters."""
    norm = timm.layers.BatchNormAct2d(8, act_layer=nn.SiLU, drop_layer=nn.Dropout)
    layer = replace_norm(norm)
    assert layer.act is norm.act
    assert layer.drop is norm.drop


def test_a_shared_norm_stays_shared():
    norm = nn.BatchNorm2d(8)
    model = replace_norm(nn.ModuleDict({"a": norm, "b": norm}), {".*": 3})
    assert model["a"] is model["b"]


def test_a_lazy_norm_is_refused():
    with pytest.raises(TypeError, match="lazy norm must be initialised"):
        replace_norm(nn.Sequential(nn.LazyBatchNorm2d()), {"0": 3})


def test_an_instance_norm_with_running_statistics_is_kept():
    """AN's group variant has none to evaluate with: its outputs would change silently."""
    tracked = nn.InstanceNorm2d(8, track_running_stats=True)
    model = replace_norm(nn.Sequential(nn.InstanceNorm2d(8), tracked), {".": 3})
    assert model[1] is tracked
    assert isinstance(model[0], AttentiveGroupNorm)


def test_dtype_device_and_mode_carry_over():
    layer = replace_norm(nn.BatchNorm2d(8, device="meta", dtype=torch.float16).eval())
    assert layer.weight.is_meta
    assert layer.weight.dtype == torch.float16
    assert not layer.training


def test_converted_networks_copy_and_pickle():
    model = replace_norm(timm.create_model("resnet18", num_classes=3)).eval()
    x = torch.randn(2, 3, 64, 64)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(x), model(x))
        assert twin.no_weight_decay() == model.no_weight_decay()


@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_and_back_again(name):
    """User ask 1: restoring a function-preserving conversion gives the first network's outputs and keys."""
    model = stirred(timm.create_model(name)).eval()
    restored = restore_norm(replace_norm(copy.deepcopy(model), preserve_function=True))
    assert not attentive(restored)
    assert list(restored.state_dict()) == list(model.state_dict())
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        truth = model(x)
        assert (restored(x) - truth).norm() / truth.norm() < 1e-5
    assert not getattr(restored, "no_weight_decay", set)()


def test_restoring_keeps_frozen_and_group_norms():
    x = torch.randn(4, 8, 5, 5)
    frozen = freeze_norm(replace_norm(nn.BatchNorm2d(8), preserve_function=True))
    expected = frozen(x)
    assert_close(restore_norm(frozen)(x), expected, rtol=1e-5, atol=1e-5)
    group = restore_norm(replace_norm(nn.GroupNorm(2, 8), preserve_function=True))
    assert type(group) is nn.GroupNorm
    assert_close(group(x), nn.GroupNorm(2, 8)(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [nn.SyncBatchNorm, timm.layers.SyncBatchNormAct])
def test_synchronised_norms_stay_synchronised(kind):
    """Their training mode needs an accelerator; evaluation, statistics and the state are compared here."""
    norm = kind(8)
    if kind is timm.layers.SyncBatchNormAct:  # timm's converter adds these after construction
        norm.drop, norm.act = nn.Identity(), nn.SiLU()
    model = stirred(nn.Sequential(nn.Conv2d(3, 8, 1), norm)).eval()
    x = torch.randn(2, 3, 4, 4)
    expected = model(x)
    layer = replace_norm(model, {"1": 4}, preserve_function=True)[1]
    assert isinstance(layer, AttentiveBatchNorm2d)
    assert layer.synchronised
    assert layer.attention.logits.norm.synchronised
    assert_close(model(x), expected, rtol=1e-5, atol=1e-5)
