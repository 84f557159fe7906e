"""DenseNets with Attentive Normalization at the second norm of every dense layer, between its two convolutions.

Every network is timm's DenseNet-BC in which a placement puts AN. Sources: X. Li et al., "Attentive Normalization",
ECCV 2020, arXiv 1908.01259; G. Huang et al., "Densely Connected Convolutional Networks", arXiv 1608.06993.
"""

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.densenet import DenseNet as TimmDenseNet

from attnorm.models.placed import Placed, default_cfg


class DenseNet(Placed, TimmDenseNet):
    """timm's DenseNet with AN at chosen norms; arguments of :class:`Placed` and of timm's DenseNet."""


_CFG = default_cfg(first_conv="features.conv0", classifier="classifier")
default_cfgs = generate_default_cfgs({f"densenet{depth}_an": _CFG for depth in (121, 161, 169, 201)})


def _densenet(variant: str, pretrained: bool, kwargs: dict[str, Any], layers: tuple[int, ...], growth_rate: int = 32):
    defaults: dict[str, Any] = {"block_config": layers, "growth_rate": growth_rate, "placement": "densenet"}
    # timm's features of a DenseNet are modules within its one Sequential.
    features = {"flatten_sequential": True}
    return build_model_with_cfg(DenseNet, variant, pretrained, feature_cfg=features, **(defaults | kwargs))


@register_model
def densenet121_an(pretrained: bool = False, **kwargs: Any):
    """DenseNet-121, AN at the second norm of every dense layer: the released densenet_121_an."""
    return _densenet("densenet121_an", pretrained, kwargs, (6, 12, 24, 16))


@register_model
def densenet161_an(pretrained: bool = False, **kwargs: Any):
    """DenseNet-161 (growth 48), AN at the second norm of every dense layer."""
    return _densenet("densenet161_an", pretrained, kwargs, (6, 12, 36, 24), growth_rate=48)


@register_model
def densenet169_an(pretrained: bool = False, **kwargs: Any):
    """DenseNet-169, AN at the second norm of every dense layer."""
    return _densenet("densenet169_an", pretrained, kwargs, (6, 12, 32, 32))


@register_model
def densenet201_an(pretrained: bool = False, **kwargs: Any):
    """DenseNet-201, AN at the second norm of every dense layer."""
    return _densenet("densenet201_an", pretrained, kwargs, (6, 12, 48, 32))
