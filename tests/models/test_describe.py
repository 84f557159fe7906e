"""What `attnorm models --describe` says is what the reference says of the network."""

import pytest
from torch import nn

from attnorm.errors import ConfigError
from attnorm.models import create_model
from attnorm.models.describe import build_for_description, describe


def lines_of(name: str) -> list[str]:
    """With single spaces, so that the width of columns does not matter."""
    return [" ".join(line.split()) for line in describe(build_for_description(name), name).splitlines()]


def test_an_aognet_node_by_node():
    """Rows typed from the reference, 2.1, 4.3 and 6.1."""
    lines = lines_of("aognet_12m_an")
    assert lines[0] == "aognet_12m_an: AOGNet, 12,373,355 parameters"
    assert "stem: 3 -> 32 channels, stride 4, 7,472 parameters" in lines
    second, third = (next(i for i, line in enumerate(lines) if line.startswith(f"stage {s}:")) for s in (2, 3))
    assert lines[second].startswith("stage 2: 4 words, 21 nodes (8 OR, 5 AND, 8 TERMINAL), ")
    expected = [
        "transition, pools 256 -> 256 66,048",
        "block 0 256 -> 384 1,442,368",
        "block 1 384 -> 512 2,609,952",
        "0 OR [████] 1, 2, 3 1 384-96-384, 512-128-512 AN, K = 20",
        "1 TERMINAL [████] the block's input 1 256-96-384, 384-128-512 AN, K = 20",
        "3 AND [████] 6, 1/2 x 7 (+2) 1 384-96-384, 512-128-512 AN, K = 20",
        "10 AND [·███] 1/2 x 7, 1/2 x 15 1 288-72-288, 384-96-384 BatchNorm",
        "12 AND [██··] 1/2 x 4, 1/2 x 15 +14 1 192-48-192, 256-64-256 BatchNorm",
        "16 OR [··█·] 19 +15 2 96-24-96, 128-32-128 BatchNorm",
    ]
    assert [line for line in expected if line not in lines[second:third]] == []
    assert "0 OR [██] 1, 2 1 80-20-80, 128-32-128 AN, K = 10" in lines
    assert "14 AND [··██] 1/2 x 5, 1/2 x 15 1 412-103-412 BatchNorm" in lines[third:]
    assert "classifier: 825,000 parameters" in lines


def test_other_networks_by_their_features_and_norms():
    lines = lines_of("resnet8_cifar_an")
    assert lines[0].startswith("resnet8_cifar_an: ResNet, ")
    assert "layer3 64 4" in lines
    assert "layer1.0.bn1: AttentiveBatchNorm2d, 16 channels, K = 10" in lines
    assert "layer1.0.bn2: BatchNorm2d" in lines


def test_networks_that_nobody_registered():
    """A module without features or norms, and one of timm's with neither BatchNorm nor AN."""
    assert describe(nn.Linear(2, 3), "line").splitlines()[0] == "line: Linear, 9 parameters"
    model = create_model("mixer_s32_224", num_classes=2)
    assert "none that AN can replace" in describe(model, "mixer")


def test_an_unknown_name_suggests_near_ones():
    with pytest.raises(ConfigError, match="got 'aognet_13m': did you mean aognet_12m"):
        build_for_description("aognet_13m")
