"""The networks of all families keep timm's contract and have the published sizes."""

import fnmatch

import pytest
import timm
import torch
from torch import nn
from torch.testing import assert_close

from attnorm.errors import ConfigError
from attnorm.models import create_model, model_names


def added(*layers: tuple[int, int]) -> int:
    """What AN layers of K components and C channels have more than BatchNorm: 3KC + 2K instead of 2C."""
    return sum(3 * k * c + 2 * k - 2 * c for k, c in layers)


RESNET10_SMALL = (
    9 * (3 * 12 + 12 * 12 + 12 * 24)
    + 2 * (12 + 12 + 24)
    + sum(9 * (i * o + o * o) + 4 * o + (i * o + 2 * o if i != o else 0) for i, o in ((24, 24), (24, 48), (48, 96)))
    + 9 * (96 * 192 + 192 * 192) + 4 * 192 + 96 * 192 + 2 * 192
    + 192 * 1000 + 1000
)  # fmt: skip

# Reference 8; below the line, networks that nobody published, counted by hand.
PARAMETERS = {
    "resnet34_an": 21_996_060,
    "resnet34_an_bn2": 21_996_060,
    "resnet34_an_bn12": 22_194_448,
    "resnet50_an": 25_755_420,
    "resnet50_an_bn3": 26_349_084,
    "resnet50_an_bn123": 26_745_860,
    "resnet50_an_all": 26_947_472,
    "resnet101_an": 45_000_644,
    "resnetv1d50": 25_576_264,
    "resnetv1d50_an": 25_774_652,
    "resnetv1d101": 44_568_392,
    "resnetv1d101_an": 45_019_876,
    "resnet101_gn": 44_549_160,  # torchvision's resnet101
    "resnet50_se_bn2": 26_185_768,
    "resnet50_se_bn3": 28_071_976,
    "resnet50_se_bn123": 29_329_448,
    "densenet121_an": 8_342_288,
    "mobilenetv2_100_an": 3_672_760,
    # The networks with BN have 11,689,512, 28,681,000, 14,149,480 and 20,013,928 parameters in torchvision.
    "resnet18_an": 11_689_512 + 2 * added((10, 64), (10, 128), (20, 256), (20, 512)),
    "densenet161_an": 28_681_000 + 18 * added((10, 192)) + 60 * added((20, 192)),
    "densenet169_an": 14_149_480 + 18 * added((10, 128)) + 64 * added((20, 128)),
    "densenet201_an": 20_013_928 + 18 * added((10, 128)) + 80 * added((20, 128)),
    # He et al. print 0.27 M in their table 6.
    "resnet20_cifar": 272_474,
    "resnet20_cifar_an": 272_474 + 3 * added((10, 16), (10, 32), (20, 64)),
    "resnet20_cifar_se": 272_474 + 3 * sum(2 * c * (c // 4) for c in (16, 32, 64)),
    # Stem 3 convolutions and norms; then per stage a block of two 3x3 convolutions, from the second on with a shortcut.
    "resnet10_small": RESNET10_SMALL,
    "resnet10_small_an": RESNET10_SMALL + added((10, 24), (10, 48), (20, 96), (20, 192)),
    "resnet56_cifar": 855_770,
    "resnet110_cifar": 1_730_714,
}
RESNETS = ["resnet8_cifar", "resnet8_cifar_an", "resnet8_cifar_se", "resnet18_an", "resnet34_se_bn2"]
SMALL = [*RESNETS, "resnet10_small_an", "mobilenetv2_100_an", "densenet121_an", "aognet_1m_cifar_an"]
CONTRACT = [*SMALL, "resnetv1d50_an", "resnext50_32x4d_an"]


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS.items())
def test_parameter_counts(name, parameters):
    with torch.device("meta"):
        model = create_model(name)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_every_promised_name_is_registered():
    """design.md 5."""
    promised = [
        *(f"resnet{depth}_an" for depth in (18, 34, 50, 101, 152)),
        *(f"resnet{depth}_cifar{an}" for depth in (8, 20, 56, 110) for an in ("", "_an")),
        *("resnet50_an_bn3", "resnet50_an_bn123", "resnet50_an_all", "resnet34_an_bn2", "resnet34_an_bn12"),
        *("resnet50_se_bn2", "resnet50_se_bn3", "resnet50_se_bn123", "resnet34_se_bn2", "resnext50_32x4d_an"),
        *("resnetv1d50", "resnetv1d50_an", "resnetv1d101", "resnetv1d101_an"),
        *(f"densenet{depth}_an" for depth in (121, 161, 169, 201)),
        "mobilenetv2_100_an",
        *("aognet_12m", "aognet_12m_an", "aognet_40m", "aognet_40m_an"),
    ]
    assert set(promised) <= set(model_names())
    assert set(model_names()) <= set(timm.list_models())
    assert "resnet50_an" in fnmatch.filter(timm.list_models("resnet50*"), "*_an")


def test_an_unknown_name_suggests_near_ones():
    with pytest.raises(ConfigError, match=r"got 'resnet50_na': did you mean .*resnet50"):
        create_model("resnet50_na")


def small_input(model: nn.Module, samples: int = 2) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(samples, *model.pretrained_cfg["input_size"][:1], 64, 64)


@pytest.mark.parametrize("name", CONTRACT)
def test_forward_backward_and_head(name):
    """Every parameter gets a gradient; features, head and a change of the classifier fit together."""
    torch.manual_seed(0)
    model = create_model(name, num_classes=7)
    x = small_input(model, 3)
    for module in model.modules():  # a zero-initialised branch has no gradient inside, on purpose
        for name in ("weight", "bias"):
            tensor = getattr(module, name, None)
            if isinstance(tensor, nn.Parameter) and not tensor.any():
                nn.init.uniform_(tensor, 0.1, 0.5)
    model(x).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    model.eval()
    with torch.no_grad():
        features = model.forward_features(x)
        assert_close(model.forward_head(features), model(x))
        pooled = model.forward_head(features, pre_logits=True)
        assert_close(pooled, features.mean((2, 3)))
        assert pooled.shape[1] == model.num_features == model.head_hidden_size
        model.reset_classifier(0)
        assert_close(model(x), pooled)
        model.reset_classifier(0, "")
        assert_close(model(x), features)
        model.reset_classifier(5, "avg")
        assert_close(model(x), model.get_classifier()(pooled))


@pytest.mark.parametrize("name", CONTRACT)
def test_features_only(name):
    """Channels and reductions that feature_info promises; values of the whole network's stages."""
    torch.manual_seed(0)
    model = create_model(name).eval()
    torch.manual_seed(0)
    features = timm.create_model(name, features_only=True).eval()
    x = small_input(model)
    with torch.no_grad():
        maps = features(x)
        if hasattr(model, "forward_intermediates"):
            last = model.forward_intermediates(x, 1, intermediates_only=True)[0]
        else:  # timm's DenseNet before 1.0.27, where it is what the classifier gets
            last = model.forward_features(x)
        assert_close(maps[-1], last)
    for fmap, channels, reduction in zip(
        maps, features.feature_info.channels(), features.feature_info.reduction(), strict=True
    ):
        assert fmap.shape == (2, channels, 64 // reduction, 64 // reduction)


TRACED = ["resnet8_cifar_an", "resnet18_an", "mobilenetv2_100_an", "densenet121_an", "aognet_1m_cifar_an"]


@pytest.mark.parametrize("name", TRACED)
def test_traced_features(name):
    """Feature maps by torch.fx, one of timm's roads, equal those by the family's own."""
    maps = []
    for road in ({}, {"feature_cls": "fx"}):
        torch.manual_seed(0)
        model = timm.create_model(name, features_only=True, **road).eval()
        maps.append(model(small_input(timm.create_model(name))))
    for by_modules, by_graph in zip(*maps, strict=True):
        assert_close(by_graph, by_modules)


@pytest.mark.parametrize("name", SMALL)
def test_gradient_checkpointing(name):
    """The same gradients with recomputed activations. In evaluation mode: recomputing updates statistics twice."""
    torch.manual_seed(0)
    model = create_model(name).eval()
    x = small_input(model)
    gradients = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(x).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for a, b in zip(*gradients, strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("name", SMALL)
def test_constructor_options(name):
    model = create_model(name, in_chans=1, num_classes=3, global_pool="max", drop_rate=0.1)
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 3)
    assert model.get_classifier().out_features == 3
    assert model.pretrained_cfg["first_conv"] in dict(model.named_modules())


@pytest.mark.parametrize("name", SMALL)
def test_channels_last(name):
    """In float64: with unit running statistics an untrained network magnifies rounding without bound."""
    torch.manual_seed(0)
    model = create_model(name).eval().double()
    x = small_input(model).double()
    with torch.no_grad():
        expected = model(x)
        last = model.to(memory_format=torch.channels_last)
        features = last.forward_features(x.to(memory_format=torch.channels_last))
        assert features.is_contiguous(memory_format=torch.channels_last)
        assert_close(last.forward_head(features), expected, rtol=1e-6, atol=1e-6 * expected.abs().max().item())


@pytest.mark.parametrize("name", SMALL)
def test_group_matcher_covers_every_parameter(name):
    """Layer-wise learning rates need it: stem first, head last."""
    groups = timm.models.group_parameters(create_model(name), create_model(name).group_matcher(coarse=False))
    model = create_model(name)
    assert {name for group in groups.values() for name in group} == {name for name, _ in model.named_parameters()}
    last = max(groups)
    head = model.pretrained_cfg["classifier"]
    assert {f"{head}.weight", f"{head}.bias"} <= set(groups[last])


@pytest.mark.parametrize("name", ["resnet8_cifar_an", "resnet18_an", "mobilenetv2_100_an", "densenet121_an"])
def test_exports(name):
    """torch.export with any batch size; in float64 as above."""
    model = create_model(name).eval().double()
    x = small_input(model).double()
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: batch},))
    wider = torch.randn(3, *x.shape[1:], dtype=torch.float64)
    with torch.no_grad():
        expected = model(wider)
        assert_close(program.module()(wider), expected, rtol=1e-6, atol=1e-6 * expected.abs().max().item())
