"""What a network costs, counted: parameters and multiply-accumulates.

Convention: one MAC is one multiplication with one addition inside a convolution or a matrix product (linear layers,
attention), for one image, in evaluation mode: what `torch.utils.flop_counter` counts, divided by two. Normalisation,
activations and other elementwise operations are not in it; published tables differ in this, so compare with care.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(model: nn.Module) -> int:
    """Number of trainable parameters; shared ones count once."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def count_macs(model: nn.Module, input_size: Sequence[int]) -> int:
    """Multiply-accumulates of one forward pass of one image.

    Args:
        model: the network; its mode is put back afterwards.
        input_size: (C, H, W) of the image.
    """
    parameter = next(model.parameters(), torch.empty(0))
    return _count(model, torch.zeros(1, *input_size, device=parameter.device, dtype=parameter.dtype))


def count_detector_macs(detector: nn.Module, image: Tensor) -> int:
    """Multiply-accumulates of detection in one image.

    Args:
        detector: its mode is put back afterwards. The heads' share grows with the detections, so let all of them
            through: score_threshold 0.
        image: (3, H, W), uint8 or from 0 to 1.
    """
    return _count(detector, [image])


def _count(model: nn.Module, images: Any) -> int:
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(images)
    finally:
        model.train(was_training)
    return counter.get_total_flops() // 2
