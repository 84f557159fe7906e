"""torchvision's networks by name: they are torchvision's, with its weights, and say what they cannot do."""

import pytest
import torch
import torchvision
from torch import nn

from attnorm.errors import ConfigError
from attnorm.layers.attentive import AttentiveNorm
from attnorm.models import create_model
from attnorm.models.torchvision_networks import published_weights


@pytest.fixture
def published(monkeypatch):
    """Weights that torchvision seems to fetch: a ResNet-18 with every entry drawn."""
    torch.manual_seed(3)
    state = torchvision.models.resnet18().state_dict()
    for name, value in state.items():
        if value.is_floating_point():
            state[name] = torch.rand_like(value) + (0.5 if "var" in name else -0.2)
    asked = []

    def fetch(url, *_, **__):
        asked.append(url)
        return {name: value.clone() for name, value in state.items()}

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fetch)
    return state, asked


def test_a_network_by_name():
    torch.manual_seed(0)
    ours = create_model("torchvision:resnet18", num_classes=7)
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(num_classes=7)
    assert type(ours) is type(theirs)
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())


def test_with_an():
    model = create_model("torchvision:resnet18:norm=an:num_components=3")
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, AttentiveNorm)}
    assert set(layers) == {f"layer{stage}.{block}.bn1" for stage in (1, 2, 3, 4) for block in (0, 1)}
    assert {layer.num_components for layer in layers.values()} == {3}


@pytest.mark.parametrize("classes", [1000, 5])
def test_published_weights_are_taken(published, classes):
    """For other classes all but the last layer's."""
    state, asked = published
    model = create_model("torchvision:resnet18", pretrained=True, num_classes=classes)
    assert asked == ["https://download.pytorch.org/models/resnet18-f37072fd.pth"]
    for name, value in model.state_dict().items():
        assert (value.shape == state[name].shape and torch.equal(value, state[name])) is (
            classes == 1000 or not name.startswith("fc.")
        ), name
    assert model.fc.out_features == classes


def test_converting_pretrained_weights_preserves_the_function(published):
    plain = create_model("torchvision:resnet18", pretrained=True).double().eval()
    attentive = create_model("torchvision:resnet18:norm=an", pretrained=True).double().eval()
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    torch.testing.assert_close(attentive(images), plain(images), rtol=1e-4, atol=0)


def test_what_torchvision_says_of_its_weights():
    known = published_weights("torchvision:resnet50")
    assert (known.name, known.image_size, known.interpolation) == ("IMAGENET1K_V2", 224, "bilinear")
    assert known.crop_pct == 224 / 232
    assert known.mean == (0.485, 0.456, 0.406)
    assert known.classes[0] == "tench"
    assert len(known.classes) == 1000


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("torchvision:resnet19", {}, "got 'torchvision:resnet19': did you mean .*torchvision:resnet18"),
        ("torchvision:maskrcnn_resnet50_fpn", {}, "must be a classification network of torchvision"),
        ("torchvision:inception_v3", {}, "several outputs in training"),
        ("torchvision:resnet18", {"in_chans": 1}, "in_chans must be 3 for torchvision:resnet18.*got 1: take timm's"),
        ("torchvision:resnet18", {"num_classes": 0}, "num_classes must be at least 1"),
        ("torchvision:resnet18", {"features_only": True}, "a detector's backbone must be timm's"),
        ("torchvision:alexnet:norm=an", {}, "must match at least one norm; the network has 0"),
    ],
)
def test_refused(name, settings, message):
    with pytest.raises(ConfigError, match=message):
        create_model(name, **settings)


def test_networks_of_other_families_become_attentive():
    """Torchvision's ways of building blocks are found by the rule of "auto"."""
    for name in ("densenet121", "mobilenet_v2", "regnet_y_400mf", "shufflenet_v2_x0_5"):
        model = create_model(f"torchvision:{name}:norm=an", num_classes=2)
        assert any(isinstance(layer, AttentiveNorm) for layer in model.modules()), name
        assert any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules()), name
