"""The small ResNets of K. He et al. for 32x32 images (arXiv 1512.03385, section 4.2), with BN, AN and SE.

Shortcuts that change the width are 1x1 convolutions (option B). AN has 10, 10, 20 components in the three stages.
"""

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock

from attnorm.models.placed import CIFAR, default_cfg
from attnorm.models.resnet import ResNet
from attnorm.models.shipped import with_shipped

_CIFAR = default_cfg(fixed_input_size=False, **CIFAR)
_AN = {"placement": "resnet_bn1"}
_SE = {"se": {"resnet_bn2": 4}}

_NAMES = [f"resnet{depth}_cifar{norm}" for depth in (8, 20, 56, 110) for norm in ("", "_an", "_se")]

default_cfgs = generate_default_cfgs(with_shipped(dict.fromkeys(_NAMES, _CIFAR)))


def _small(variant: str, depth: int, pretrained: bool, kwargs: dict[str, Any], **norm: Any):
    """Depth 6n+2: three stages of n basic blocks with 16, 32 and 64 channels."""
    defaults: dict[str, Any] = {
        "block": BasicBlock,
        "layers": ((depth - 2) // 6,) * 3,
        "channels": (16, 32, 64),
        "small_images": True,
        "feature_cfg": {"out_indices": (0, 1, 2, 3)},
        **norm,
    }
    if not pretrained and not kwargs.get("pretrained_cfg"):
        # Weights that come with the package make their images the default; without weights these are CIFAR's.
        kwargs = kwargs | {"pretrained_cfg": _CIFAR}
    return build_model_with_cfg(ResNet, variant, pretrained, **(defaults | kwargs))


@register_model
def resnet8_cifar(pretrained: bool = False, **kwargs: Any):
    """ResNet-8 for 32x32 images."""
    return _small("resnet8_cifar", 8, pretrained, kwargs)


@register_model
def resnet8_cifar_an(pretrained: bool = False, **kwargs: Any):
    """ResNet-8 for 32x32 images, AN at the first norm of every block."""
    return _small("resnet8_cifar_an", 8, pretrained, kwargs, **_AN)


@register_model
def resnet8_cifar_se(pretrained: bool = False, **kwargs: Any):
    """ResNet-8 for 32x32 images, squeeze-and-excitation (r = 4) before every addition."""
    return _small("resnet8_cifar_se", 8, pretrained, kwargs, **_SE)


@register_model
def resnet20_cifar(pretrained: bool = False, **kwargs: Any):
    """ResNet-20 for 32x32 images."""
    return _small("resnet20_cifar", 20, pretrained, kwargs)


@register_model
def resnet20_cifar_an(pretrained: bool = False, **kwargs: Any):
    """ResNet-20 for 32x32 images, AN at the first norm of every block."""
    return _small("resnet20_cifar_an", 20, pretrained, kwargs, **_AN)


@register_model
def resnet20_cifar_se(pretrained: bool = False, **kwargs: Any):
    """ResNet-20 for 32x32 images, squeeze-and-excitation (r = 4) before every addition."""
    return _small("resnet20_cifar_se", 20, pretrained, kwargs, **_SE)


@register_model
def resnet56_cifar(pretrained: bool = False, **kwargs: Any):
    """ResNet-56 for 32x32 images."""
    return _small("resnet56_cifar", 56, pretrained, kwargs)


@register_model
def resnet56_cifar_an(pretrained: bool = False, **kwargs: Any):
    """ResNet-56 for 32x32 images, AN at the first norm of every block."""
    return _small("resnet56_cifar_an", 56, pretrained, kwargs, **_AN)


@register_model
def resnet56_cifar_se(pretrained: bool = False, **kwargs: Any):
    """ResNet-56 for 32x32 images, squeeze-and-excitation (r = 4) before every addition."""
    return _small("resnet56_cifar_se", 56, pretrained, kwargs, **_SE)


@register_model
def resnet110_cifar(pretrained: bool = False, **kwargs: Any):
    """ResNet-110 for 32x32 images."""
    return _small("resnet110_cifar", 110, pretrained, kwargs)


@register_model
def resnet110_cifar_an(pretrained: bool = False, **kwargs: Any):
    """ResNet-110 for 32x32 images, AN at the first norm of every block."""
    return _small("resnet110_cifar_an", 110, pretrained, kwargs, **_AN)


@register_model
def resnet110_cifar_se(pretrained: bool = False, **kwargs: Any):
    """ResNet-110 for 32x32 images, squeeze-and-excitation (r = 4) before every addition."""
    return _small("resnet110_cifar_se", 110, pretrained, kwargs, **_SE)
