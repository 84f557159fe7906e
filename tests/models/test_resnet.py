"""What is particular to the ResNets: stems, squeeze-and-excitation, zero-initialised branches."""

import timm
import torch
from torch.testing import assert_close

from attnorm.layers.attentive import AttentiveNorm
from attnorm.models import create_model


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
