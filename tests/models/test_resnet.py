"""The networks keep timm's contract and have the published sizes."""

import fnmatch

import pytest
import timm
import torch
from torch import nn
from torch.testing import assert_close

from attnorm.errors import ConfigError
from attnorm.layers.attentive import AttentiveNorm
from attnorm.models import create_model, model_names


def added(*layers: tuple[int, int]) -> int:
    """What AN layers of K components and C channels have more than BatchNorm: 3KC + 2K instead of 2C."""
    return sum(3 * k * c + 2 * k - 2 * c for k, c in layers)


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
    "resnet50_se_bn2": 26_185_768,
    "resnet50_se_bn3": 28_071_976,
    "resnet50_se_bn123": 29_329_448,
    # By hand: 11,689,512 + 2 * sum over the stages.
    "resnet18_an": 11_689_512
    + 2 * sum(3 * k * c + 2 * k - 2 * c for k, c in ((10, 64), (10, 128), (20, 256), (20, 512))),
    # He et al. print 0.27 M in their table 6.
    "resnet20_cifar": 272_474,
    "resnet20_cifar_an": 272_474 + 3 * added((10, 16), (10, 32), (20, 64)),
    "resnet20_cifar_se": 272_474 + 3 * sum(2 * c * (c // 4) for c in (16, 32, 64)),
    "resnet56_cifar": 855_770,
    "resnet110_cifar": 1_730_714,
}
SMALL = ["resnet8_cifar", "resnet8_cifar_an", "resnet8_cifar_se", "resnet18_an", "resnet34_se_bn2"]
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
        assert_close(model(x), model.fc(pooled))


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
        assert_close(maps[-1], model.forward_features(x))
    for fmap, channels, reduction in zip(
        maps, features.feature_info.channels(), features.feature_info.reduction(), strict=True
    ):
        assert fmap.shape == (2, channels, 64 // reduction, 64 // reduction)


@pytest.mark.parametrize("name", ["resnet8_cifar_an", "resnet18_an"])
def test_traced_features(name):
    """Feature maps by torch.fx, one of timm's two roads, equal those by modules."""
    maps = []
    for road in ("list", "fx"):
        torch.manual_seed(0)
        model = timm.create_model(name, features_only=True, feature_cls=road).eval()
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
    torch.manual_seed(0)
    model = create_model(name).eval()
    x = small_input(model)
    with torch.no_grad():
        expected = model(x)
        last = model.to(memory_format=torch.channels_last)
        features = last.forward_features(x.to(memory_format=torch.channels_last))
        assert features.is_contiguous(memory_format=torch.channels_last)
        assert_close(last.forward_head(features), expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


@pytest.mark.parametrize("name", SMALL)
def test_group_matcher_covers_every_parameter(name):
    """Layer-wise learning rates need it: stem first, head last."""
    groups = timm.models.group_parameters(create_model(name), create_model(name).group_matcher(coarse=False))
    model = create_model(name)
    assert {name for group in groups.values() for name in group} == {name for name, _ in model.named_parameters()}
    last = max(groups)
    assert set(groups[last]) == {"fc.weight", "fc.bias"}


def test_the_authors_v1d_stem_halves_twice_without_padding():
    """Reference 3 and trap 20: a 2x2 max pool, unlike every other v1d."""
    ours, timms = create_model("resnetv1d50").eval(), timm.create_model("resnet50d").eval()
    assert list(ours.state_dict()) == list(timms.state_dict())
    x = torch.randn(1, 64, 8, 8)
    expected = x.unflatten(2, (4, 2)).unflatten(4, (4, 2)).amax((3, 5))
    assert torch.equal(ours.maxpool(x), expected)


def test_squeeze_excitation_acts_between_norm_and_activation():
    """Reference 2.2: global mean, C -> C/4 -> C without biases, sigmoid, before the ReLU."""
    pair = create_model("resnet50_se_bn2").get_submodule("layer1.0.bn2").eval()
    x = torch.randn(2, 64, 5, 5)
    weights = dict(pair.se.named_parameters())
    assert {name: tuple(w.shape) for name, w in weights.items()} == {
        "fc1.weight": (16, 64, 1, 1),
        "fc2.weight": (64, 16, 1, 1),
    }
    with torch.no_grad():
        y = pair.norm(x)
        hidden = (y.mean((2, 3)) @ weights["fc1.weight"].flatten(1).T).relu()
        gate = (hidden @ weights["fc2.weight"].flatten(1).T).sigmoid()
        assert_close(pair(x), y * gate[:, :, None, None])


def test_initialisation():
    """Reference 2.3 and 2.4: the last norm of a block starts at zero, convolutions by their fan-out."""
    torch.manual_seed(0)
    model = create_model("resnet50_an_bn3")
    last = model.get_submodule("layer2.0.bn3")
    assert isinstance(last, AttentiveNorm)
    assert not last.weight.any()
    assert not last.bias.any()
    assert not create_model("resnet50_an").get_submodule("layer2.0.bn3").weight.any()
    kernel = model.get_submodule("layer3.0.conv2").weight
    assert abs(kernel.std() / (2 / (256 * 9)) ** 0.5 - 1) < 0.01
    stem = create_model("resnet20_cifar").conv1.weight
    assert abs(stem.std() / (2 / (16 * 9)) ** 0.5 - 1) < 0.2


@pytest.mark.parametrize("name", ["resnet8_cifar_an", "resnet18_an"])
def test_exports(name):
    model = create_model(name).eval()
    x = small_input(model)
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: batch},))
    wider = torch.randn(3, *x.shape[1:])
    with torch.no_grad():
        assert_close(program.module()(wider), model(wider), rtol=1e-4, atol=1e-4)
