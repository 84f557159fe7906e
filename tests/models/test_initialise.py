"""Weights drawn as the authors' trainers drew them, by their moments, and where that differs from timm's."""

import math

import pytest
import torch
from torch import nn

from attnorm.errors import ConfigError
from attnorm.layers.attentive import AttentiveNorm
from attnorm.models import create_model
from attnorm.models.initialise import initialise_as_released


def released(name: str, **kwargs) -> nn.Module:
    torch.manual_seed(0)
    return initialise_as_released(create_model(name, **kwargs))


def assert_drawn(values: torch.Tensor, mean: float, std: float) -> None:
    """Mean and spread of n normal draws: their standard errors are std / sqrt(n) and std / sqrt(2 n)."""
    n = values.numel()
    assert values.mean().item() == pytest.approx(mean, abs=5 * std / math.sqrt(n))
    assert values.std().item() == pytest.approx(std, rel=5 / math.sqrt(2 * n))


def conv(model: nn.Module, name: str) -> torch.Tensor:
    return model.get_submodule(name).weight.detach()


# One convolution of each kind, with out * k * k worked out from the network's table.
CONVOLUTIONS = [
    ("resnet34_an", "conv1", 64 * 49),
    ("resnet34_an", "layer2.1.conv2", 128 * 9),
    ("mobilenetv2_100_an", "conv_stem", 32 * 9),
    ("mobilenetv2_100_an", "blocks.6.0.conv_dw", 960 * 9),  # depthwise: PyTorch's fan-out ignores the 960 groups
    ("mobilenetv2_100_an", "conv_head", 1280),
    ("densenet121_an", "features.conv0", 64 * 49),
    ("densenet121_an", "features.denseblock3.denselayer5.conv1", 128),
    ("densenet121_an", "features.denseblock3.denselayer5.conv2", 32 * 9),
]


@pytest.fixture(scope="module")
def networks():
    names = {name for name, _, _ in CONVOLUTIONS}
    return {name: released(name) for name in sorted(names)}


@pytest.mark.parametrize(("name", "layer", "fan_out"), CONVOLUTIONS)
def test_convolutions_are_normal_over_the_fan_out(networks, name, layer, fan_out):
    assert_drawn(conv(networks[name], layer), 0, math.sqrt(2 / fan_out))


def test_depthwise_and_dense_convolutions_differ_from_timms():
    """Why there is a choice: timm divides the fan-out by the 960 groups, and takes DenseNet's fan-in, 128 * 9."""
    timms = create_model("mobilenetv2_100_an"), create_model("densenet121_an")
    assert_drawn(conv(timms[0], "blocks.6.0.conv_dw"), 0, math.sqrt(2 / 9))
    assert_drawn(conv(timms[1], "features.denseblock3.denselayer5.conv2"), 0, math.sqrt(2 / (128 * 9)))


@pytest.mark.parametrize("name", ["mobilenetv2_100", "mobilenetv2_100_an"])
def test_classifier_of_mobilenetv2(name):
    """Normal; timm's own is uniform in +-1 / sqrt(1000), with a standard deviation of 0.018."""
    model = released(name)
    assert_drawn(model.classifier.weight.detach(), 0, 0.01)
    assert not model.classifier.bias.any()


@pytest.mark.parametrize(("name", "inputs"), [("densenet121_an", 1024), ("resnet34_an", 512)])
def test_other_classifiers_are_pytorchs_default(networks, name, inputs):
    """Uniform in +-1 / sqrt(inputs), weight and bias; timm's DenseNet starts with bias 0."""
    for values in networks[name].get_classifier().parameters():
        bound = 1 / math.sqrt(inputs)
        assert values.abs().max() <= bound
        assert values.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.06)


@pytest.mark.parametrize("name", ["resnet34_an", "mobilenetv2_100_an", "densenet121_an"])
def test_norms(networks, name):
    """AN's mixture N(1, 0.1^2) and N(0, 0.1^2), its projection N(0, 2 / K), its norm and BatchNorm 1 and 0."""
    layers = [module for module in networks[name].modules() if isinstance(module, AttentiveNorm)]
    assert_drawn(torch.cat([m.weight.detach().flatten() for m in layers]), 1, 0.1)
    assert_drawn(torch.cat([m.bias.detach().flatten() for m in layers]), 0, 0.1)
    for k in {m.num_components for m in layers}:
        projections = [m.attention.logits for m in layers if m.num_components == k]
        assert_drawn(torch.cat([p.weight.detach().flatten() for p in projections]), 0, math.sqrt(2 / k))
        assert all(p.norm.weight.eq(1).all() and not p.norm.bias.any() for p in projections)
    last = "bn2" if name == "resnet34_an" else None
    for path, module in networks[name].named_modules():
        if isinstance(module, nn.BatchNorm2d):
            weight = 0 if last and path.endswith(last) else 1
            assert module.weight.eq(weight).all(), path
            assert not module.bias.any()


def test_last_norms_of_a_resnet_stay_zero_where_they_are_attentive():
    """Both the scales and the shifts; the attention's projection is drawn all the same."""
    model = released("resnet34_an_bn12")
    for stage in (model.layer1, model.layer4):
        assert not stage[1].bn2.weight.any()
        assert not stage[1].bn2.bias.any()
        assert_drawn(stage[1].bn1.weight.detach(), 1, 0.1)
        assert stage[1].bn2.attention.logits.weight.std() > 0.2


def test_squeeze_and_excitation_keeps_the_default_of_linear_layers():
    """Theirs are linear layers, uniform in +-1 / sqrt(inputs): 64 -> 16 and back in the first stage."""
    se = released("resnet50_se_bn2").layer1[0].bn2.se
    assert 0.9 / 8 < se.fc1.weight.abs().max() <= 1 / 8
    assert 0.9 / 4 < se.fc2.weight.abs().max() <= 1 / 4


@pytest.mark.parametrize("model", ["resnet34_an", "aognet_1m_cifar_an"])
def test_resnets_and_aognets_have_that_distribution_anyway(model):
    """Mean and spread agree, parameter by parameter: timm's ResNets and the AOGNets here start as the authors' do."""
    torch.manual_seed(1)
    own = dict(create_model(model).named_parameters())
    for name, parameter in released(model).named_parameters():
        ours, theirs = parameter.detach(), own[name].detach()
        error = 7 / math.sqrt(theirs.numel())
        assert ours.mean().item() == pytest.approx(theirs.mean().item(), abs=error * theirs.std().item()), name
        assert ours.std().item() == pytest.approx(theirs.std().item(), rel=error), name


def test_seed_decides_and_running_statistics_start_anew():
    model = create_model("resnet8_cifar_an")
    model(torch.randn(4, 3, 32, 32))
    initialise_as_released(model)
    assert not model.bn1.running_mean.any()
    assert not model.layer1[0].bn1.running_mean.any()
    a, b = released("resnet8_cifar_an"), released("resnet8_cifar_an")
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_a_network_with_other_parts_is_refused_unchanged():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.LayerNorm(4))
    before = model[0].weight.clone()
    with pytest.raises(ConfigError, match=r"also has 1\.weight \(one of 2\): use init timm"):
        initialise_as_released(model)
    assert torch.equal(model[0].weight, before)
