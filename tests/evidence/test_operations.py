"""Counted operations against counts by hand and against published figures."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import roi_align

from attnorm.detection import create_detector
from attnorm.errors import JobError
from attnorm.evidence.operations import count_in, count_operations
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


def test_the_papers_convention_counts_an_as_the_batch_norm_in_its_place():
    """By hand at 7x5 pixels: the convolution's MACs, 4 for each element of the norm, 1 for each of ReLU and ReLU6."""
    conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
    plain = count_operations(nn.Sequential(conv, nn.BatchNorm2d(8), nn.ReLU(), nn.ReLU6()), (3, 7, 5))
    assert plain.paper == 8 * 3 * 9 * 35 + 4 * 8 * 35 + 2 * 8 * 35
    attentive = count_operations(nn.Sequential(conv, AttentiveBatchNorm2d(8, 4), nn.ReLU(), nn.ReLU6()), (3, 7, 5))
    logits = attentive.elements.get("batch norm", 0)  # the attention's own norm, where it is a native one
    assert attentive.attentive == 8 * 35
    assert attentive.paper == plain.paper + 3 * 4 * 8 + logits


@pytest.mark.parametrize("name", ["resnet18", "resnet18_an", "vit_tiny_patch16_224", "efficientnet_b0"])
def test_macs_are_those_of_torchs_flop_counter(name):
    """Computed, not on the meta device, so that attention runs in one piece on a CPU."""
    model = create_model(name).eval()
    image = torch.zeros(1, 3, 224, 224)
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        model(image)
    assert count_in(model, image).macs == flops.get_total_flops() // 2


def test_a_detectors_macs_are_those_of_torchs_flop_counter():
    torch.manual_seed(0)
    sizes = {"min_size": 96, "max_size": 96, "score_threshold": 0.0, "test_proposals": 20}
    detector = create_detector("mask_rcnn_resnet18_an_fpn", 2, **sizes).eval()
    image = torch.rand(3, 64, 96)
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        detector([image])
    counted = count_in(detector, [image])
    assert counted.macs == flops.get_total_flops() // 2
    assert counted.elements["RoIAlign"] % (8 * 256 * 7 * 7 * 4) == 0  # 7x7 boxes and 14x14 masks, 2x2 samples in a bin


def count_call(call) -> dict[str, int]:
    """What one function of an image of 6x8 pixels in 4 channels counts."""

    class Call(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return call(x)

    return count_operations(Call(), (4, 6, 8)).elements


@pytest.mark.parametrize(
    ("call", "elements"),
    [
        (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), {"resize": 8 * 4 * 12 * 16}),
        (lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"), {"resize": 32 * 4 * 12 * 16}),
        (lambda x: F.interpolate(x, scale_factor=2, mode="nearest"), {}),
        (lambda x: x.softmax(1), {"softmax": 5 * 4 * 48}),
        (lambda x: torch.linalg.vector_norm(x, dim=1), {"vector norm": 2 * 4 * 48}),
        (lambda x: F.hardswish(x) + x.sort().values.roll(1, 2), {"hardswish": 4 * 48, "add": 4 * 48}),
        # Per head 6 queries of 8 numbers look at 6 keys.
        (lambda x: F.scaled_dot_product_attention(x, x, x), {"softmax": 5 * 4 * 6 * 6}),
    ],
    ids=["bilinear", "bicubic", "nearest", "softmax", "vector norm", "hardswish", "attention"],
)
def test_kinds_by_hand(call, elements):
    assert count_call(call) == elements


@pytest.mark.parametrize(("ratio", "samples"), [(2, 2 * 2 * 3 * 4), (0, 1 * 2 * 3 * 4)])
def test_roi_align_by_hand(ratio, samples):
    """A box of 7 x 3 pixels in 3 x 4 bins: 2x2 samples as asked for, or ceil(3 / 3) x ceil(7 / 4) = 1x2 by itself."""
    box = torch.tensor([[0.0, 1.0, 1.0, 8.0, 4.0]])
    call = lambda x: roi_align(x, box, (3, 4), sampling_ratio=ratio)  # noqa: E731
    assert count_call(call) == {"RoIAlign": 8 * 4 * samples}


def test_an_operation_outside_of_the_convention_is_refused():
    class Transform(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.fft.fft2(x)

    with pytest.raises(JobError, match=r"every operation must be in the counting convention, and aten._fft_c2c"):
        count_operations(Transform(), (3, 4, 4))
