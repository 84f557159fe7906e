"""Counted operations against counts by hand and against published figures."""

import pytest
import torch
from torch import nn

from attnorm.errors import JobError
from attnorm.evidence.operations import count_operations
from attnorm.layers import AttentiveBatchNorm2d
from attnorm.models import create_model


def meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return create_model(name)


def test_by_hand():
    """12x10 pixels: the convolution's MACs, 4 per element of BN, 1 of ReLU, 9 per output of the 3x3 pool, the mean."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    counted = count_operations(model, (3, 12, 10))
    assert counted.macs == 8 * 3 * 9 * 120 + 8 * 5
    assert counted.elements == {
        "batch norm": 4 * 8 * 120,
        "relu": 8 * 120,
        "max pool": 9 * 8 * 30,
        "mean": 8 * 30,
    }
    assert counted.elementwise == 5 * 960 + 10 * 240
    assert model.training


def test_attentive_norm_by_hand():
    """Per element 1 + 3 for mean and variance, 2 for the affine; per channel and per component a handful more."""
    channels, components, pixels = 16, 4, 35 * 35
    counted = count_operations(AttentiveBatchNorm2d(channels, components), (channels, 35, 35))
    assert counted.macs == 3 * components * channels
    assert 6 * channels * pixels <= counted.elementwise <= 6 * channels * pixels + 20 * (channels + components)


@pytest.mark.parametrize(
    ("name", "giga"),
    [("resnetv1d101", 8.125), ("mobilenetv2_100", 0.334), ("aognet_12m", 2.189), ("aognet_40m", 7.506)],
)
def test_the_papers_other_convention(name, giga):
    """Reference 8: MACs + 4 per BN element + 1 per ReLU element reproduces the FLOPs that the authors print."""
    counted = count_operations(meta(name), (3, 224, 224))
    activation = counted.elements.get("relu", 0) + counted.elements.get("hardtanh", 0)
    assert round((counted.macs + counted.elements["batch norm"] + activation) / 1e9, 3) == giga


@pytest.mark.parametrize(
    ("name", "giga"),
    [("resnet50_an", 4.089), ("resnet50_an_all", 4.091), ("resnet50_se_bn123", 4.093), ("densenet121_an", 2.835),
     ("mobilenetv2_100_an", 0.301), ("resnetv1d50_an", 4.329), ("resnet34_an", 3.664), ("aognet_12m_an", 2.108)],
)  # fmt: skip
def test_macs_of_the_reference(name, giga):
    """Reference 8, multiply-adds at 224x224."""
    assert round(count_operations(meta(name), (3, 224, 224)).macs / 1e9, 3) == giga


def test_an_operation_outside_of_the_convention_is_refused():
    class Sort(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.sort().values

    with pytest.raises(JobError, match=r"every operation must be in the counting convention, and aten.sort"):
        count_operations(Sort(), (3, 4, 4))
