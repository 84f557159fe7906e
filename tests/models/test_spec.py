"""Names with options: each is the network that one would build by hand."""

import pytest
import timm
import torch
from timm.layers.norm_act import BatchNormAct2d, GroupNormAct
from torch import nn
from torch.testing import assert_close

import attnorm
from attnorm.detection import create_detector
from attnorm.detection.config import is_detector, split_name
from attnorm.errors import ConfigError
from attnorm.layers.attentive import AttentiveNorm
from attnorm.models import create_model
from attnorm.models.group_norm import number_of_groups, use_group_norm
from attnorm.models.spec import parse_spec


def attentive(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, AttentiveNorm)}


def count(model, kind):
    return sum(isinstance(module, kind) for module in model.modules())


def test_parse():
    spec = parse_spec("resnet50:norm=an:num_components=10-10-20-20:logit_norm=none:init_gain=1")
    assert spec.name == "resnet50"
    assert spec.options == {"norm": "an", "num_components": (10, 10, 20, 20), "logit_norm": None, "init_gain": 1.0}
    assert spec.layer_options == {"logit_norm": None, "init_gain": 1.0}
    assert parse_spec("hf-hub:timm/resnet50").name == "hf-hub:timm/resnet50"
    assert parse_spec("local-dir:/tmp/x:gate=softmax").name == "local-dir:/tmp/x"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18:k=4", "an option must be one of norm, placement, num_components, gate, "),
        ("resnet18:norm=an:gate", "got 'gate'"),
        ("resnet18:norm=an:norm=gn", "got norm twice"),
        ("resnet18:norm=an:num_components=ten", "num_components must be a number such as 10; got 'ten'"),
        ("resnet18:norm=ln", "norm must be one of bn, gn, an, an_gn; got 'ln'"),
        ("resnet18:gate=softmax", "gate is an option of AN, and resnet18 has none: add norm=an"),
        ("resnet18:norm=gn:num_components=4", "num_components is an option of AN"),
        ("resnet18_an:norm=gn", "resnet18_an has AN already"),
        ("resnet18_an:gate=relu", "gate must be one of 'hard_sigmoid', 'sigmoid', 'softmax'; got 'relu'"),
        ("resnet18_an:placement=nowhere", "placement must be 'auto', a mapping, or one of "),
        ("resnet18_an:num_components=0", "num_components must be at least 1"),
        ("resnet18_an:placement=resnet_bn1:num_components=10-20", "one number for each of the 4 stages"),
        ("resnet9:norm=an", "got 'resnet9'"),
        ("resnet10t.c9_in1k", "the tag of resnet10t must be one of c3_in1k; got 'c9_in1k'"),
        ("resnet18_an.a1_in1k", "left out, as there are no trained weights; got 'a1_in1k'"),
    ],
)
def test_refused(name, message):
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        create_model(name)


def test_an_in_a_plain_network_is_the_named_network():
    """As the registered network: the same places, K, parameters and initial distribution."""
    ours, named = create_model("resnet34:norm=an:placement=resnet_bn1"), create_model("resnet34_an")
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in named.state_dict().items()}
    assert attnorm.norm_report(ours) == attnorm.norm_report(named)


def test_an_options_of_a_network_with_an():
    model = create_model("resnet20_cifar_an:num_components=4:gate=softmax:logit_norm=layer:init_gain=1")
    layers = attentive(model)
    assert list(layers) == list(attentive(create_model("resnet20_cifar_an")))
    for layer in layers.values():
        assert (layer.num_components, layer.attention.gate, layer.init_gain) == (4, "softmax", 1.0)
        assert layer.attention.logits.norm.kind == "layer"
    # With softmax the weights sum to one, so that gain 1 is scales of mean 1.
    scales = torch.cat([layer.weight.flatten() for layer in layers.values()])
    assert abs(scales.mean().item() - 1) < 0.01


def test_other_places():
    model = create_model("resnet50_an:placement=resnet_bn123")
    assert attnorm.norm_report(model) == attnorm.norm_report(create_model("resnet50_an_bn123"))
    model = create_model("resnet50_an:placement=resnet_bn2:num_components=2-3-4-5")
    assert [attentive(model)[f"layer{i}.0.bn2"].num_components for i in (1, 2, 3, 4)] == [2, 3, 4, 5]


def test_an_with_timms_activations():
    """MobileNetV2's norms hold their activations, before and after."""
    model = create_model("mobilenetv2_100_an:num_components=3")
    assert {layer.num_components for layer in attentive(model).values()} == {3}
    assert attentive(model).keys() == attentive(create_model("mobilenetv2_100_an")).keys()
    assert all(isinstance(layer.act, nn.ReLU6) for layer in attentive(model).values())


def test_the_initial_weights_besides_the_norms_are_the_plain_network_s():
    torch.manual_seed(0)
    plain = create_model("resnet8_cifar").state_dict()
    torch.manual_seed(0)
    ours = create_model("resnet8_cifar:norm=an").state_dict()
    shared = [name for name in plain if "conv" in name or name.startswith("fc")]
    assert len(shared) > 5
    assert all(torch.equal(plain[name], ours[name]) for name in shared)


@pytest.mark.parametrize(("channels", "groups"), [(64, 16), (2048, 32), (16, 4), (24, 6), (3, 1), (7, 1), (128, 32)])
def test_number_of_groups(channels, groups):
    assert number_of_groups(channels) == groups


def test_group_norm_everywhere():
    model = create_model("resnet18:norm=gn")
    assert count(model, nn.BatchNorm2d) == 0
    assert count(model, nn.GroupNorm) == count(create_model("resnet18"), nn.BatchNorm2d) == 20
    # A residual branch that starts at zero still does.
    assert model.layer1[0].bn2.weight.abs().sum() == create_model("resnet18").layer1[0].bn2.weight.abs().sum() == 0


def test_group_norm_with_timms_activations_computes_as_timms():
    """One of DenseNet's norms, its activation included, against torch's function."""
    torch.manual_seed(0)
    norm = BatchNormAct2d(24, act_layer=nn.SiLU, inplace=False)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    holder = use_group_norm(nn.Sequential(norm))
    x = torch.randn(2, 24, 5, 5)
    assert isinstance(holder[0], GroupNormAct)
    expected = nn.functional.silu(nn.functional.group_norm(x, 6, norm.weight, norm.bias, norm.eps))
    assert_close(holder(x), expected)


def test_an_on_group_norm():
    model = create_model("resnet8_cifar:norm=an_gn:placement=resnet_bn1")
    assert {type(layer).__name__ for layer in attentive(model).values()} == {"AttentiveGroupNorm"}
    assert count(model, nn.BatchNorm2d) == 0
    model.train()
    assert model(torch.randn(1, 3, 32, 32)).isfinite().all()  # a batch of one has all the statistics that it needs


def test_pretrained_weights_go_on_computing_what_they_did(tmp_path, monkeypatch):
    source = timm.create_model("resnet18", num_classes=5).eval()
    torch.save(source.state_dict(), tmp_path / "x.pth")
    overlay = {"file": str(tmp_path / "x.pth"), "num_classes": 5}
    model = create_model("resnet18:norm=an", pretrained=True, num_classes=5, pretrained_cfg_overlay=overlay).eval()
    x = torch.randn(2, 3, 64, 64)
    assert len(attentive(model)) == 8
    assert_close(model(x), source(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="cannot take over the pretrained weights"):
        create_model("resnet18:norm=gn", pretrained=True, num_classes=5, pretrained_cfg_overlay=overlay)


def test_a_detector_with_options():
    name = "faster_rcnn_resnet18_fpn:norm=an:num_components=3"
    assert is_detector(name)
    assert split_name(name) == ("faster_rcnn", "resnet18:norm=an:num_components=3")
    detector = create_detector(name, 2)
    assert {layer.num_components for layer in attentive(detector.backbone).values()} == {3}
