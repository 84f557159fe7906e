"""A ResNet-10 of a third of the usual width: a detector's backbone of 3 MB, with BN and AN.

One basic block a stage with 24, 48, 96 and 192 channels, features at strides 4 to 32, and a stem of three 3x3
convolutions (T. He et al., "Bag of Tricks", arXiv 1812.01187). Of no paper: it is for detectors that CPUs can train.
"""

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock

from attnorm.models.placed import default_cfg
from attnorm.models.resnet import ResNet

default_cfgs = generate_default_cfgs(
    {f"resnet10_small{norm}": default_cfg(first_conv="conv1.0") for norm in ("", "_an")}
)


def _small(variant: str, pretrained: bool, kwargs: dict[str, Any], **norm: Any):
    defaults: dict[str, Any] = {
        "block": BasicBlock,
        "layers": (1, 1, 1, 1),
        "channels": (24, 48, 96, 192),
        "stem_type": "deep",
        "stem_width": 12,  # timm gives the stem's last convolution twice as many
        **norm,
    }
    return build_model_with_cfg(ResNet, variant, pretrained, **(defaults | kwargs))


@register_model
def resnet10_small(pretrained: bool = False, **kwargs: Any):
    """ResNet-10 with 24 to 192 channels."""
    return _small("resnet10_small", pretrained, kwargs)


@register_model
def resnet10_small_an(pretrained: bool = False, **kwargs: Any):
    """ResNet-10 with 24 to 192 channels, AN at the first norm of every block."""
    return _small("resnet10_small_an", pretrained, kwargs, placement="resnet_bn1")
