"""Norms of the FPN and of the heads, by name. Nothing in them depends on the batch, which is small in detection."""

from collections.abc import Callable, Sequence

from torch import nn

from attnorm.detection.config import GROUPS, HeadNorm
from attnorm.layers.norm import AttentiveGroupNorm


def norm_layer(name: HeadNorm, components: Sequence[int]) -> Callable[[int], nn.Module] | None:
    """What torchvision's constructors take as `norm_layer`, called with the channels of each convolution in turn.

    Args:
        name: "none", "gn" or "an_gn", whose attention is that of the released heads: a projection with a bias and no
            norm on the logits.
        components: K of AN for the first call, the second, ...; a call beyond them fails.

    Returns:
        None for "none": torchvision then gives the convolutions a bias.
    """
    if name == "none":
        return None
    if name == "gn":
        return lambda channels: nn.GroupNorm(GROUPS, channels)
    remaining = iter(components)
    return lambda channels: AttentiveGroupNorm(channels, GROUPS, next(remaining))
