"""ResNets with Attentive Normalization and their SE baselines.

Every network is timm's ResNet in which a placement puts AN, or squeeze-and-excitation, after some of the norms. The
variants, at the bottom, are numbers. Sources: X. Li et al., "Attentive Normalization", ECCV 2020, arXiv 1908.01259;
K. He et al., arXiv 1512.03385; T. He et al., "Bag of Tricks", arXiv 1812.01187 (v1d); J. Hu et al.,
"Squeeze-and-Excitation Networks", arXiv 1709.01507.
"""

import re
from collections.abc import Mapping
from typing import Any, cast

import torch.nn as nn
from timm.layers.squeeze_excite import SEModule
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, Bottleneck
from timm.models.resnet import ResNet as TimmResNet

from attnorm.layers.placement import PLACEMENTS
from attnorm.models.placed import Placed, default_cfg


class _Variants(TimmResNet):
    """timm's ResNet with the stems and the squeeze-and-excitation of the variants below; see :class:`ResNet`."""

    def __init__(
        self,
        *args: Any,
        se: Mapping[str, int] | None = None,
        stem_pool: int | None = None,
        small_images: bool = False,
        **kwargs: Any,
    ) -> None:
        if small_images:
            # timm takes a narrow stem only as a deep one; its width is 2 * stem_width.
            kwargs |= {"stem_type": "deep", "stem_width": kwargs["channels"][0] // 2}
        super().__init__(*args, **kwargs)
        if small_images:
            self._use_small_stem()
        elif stem_pool is not None:
            self.maxpool = nn.MaxPool2d(stem_pool)
        for name, reduction in (se or {}).items():
            append_squeeze_excitation(self, name, reduction)

    def _use_small_stem(self) -> None:
        deep = cast(nn.Sequential, self.conv1)
        first, last = cast(nn.Conv2d, deep[0]), cast(nn.Conv2d, deep[-1])
        stem = nn.Conv2d(
            first.in_channels,
            last.out_channels,
            3,
            padding=1,
            bias=False,
            device=last.weight.device,
            dtype=last.weight.dtype,
        )
        nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
        self.conv1, self.maxpool = stem, nn.Identity()
        self.layer4 = nn.Sequential()  # timm's forward names four stages; these networks have three
        # The stem's convolution and pool no longer halve the image, twice.
        self.feature_info = [
            {**info, "reduction": max(info["reduction"] // (2 if info["module"] == "act1" else 4), 1)}
            for info in self.feature_info
        ]


class ResNet(Placed, _Variants):
    """timm's ResNet with AN or SE at chosen norms.

    Args:
        placement, num_components, layer_options: Of AN; see :class:`attnorm.models.placed.Placed`.
        se: Placement of a squeeze-and-excitation behind a norm -> its reduction r.
        stem_pool: Kernel and stride of the max pool behind the stem, without padding; None: timm's 3x3, stride 2.
        small_images: He et al.'s stem for 32x32 images: one 3x3 convolution, stride 1, no pool.
        **kwargs: Those of timm's ResNet.
    """


def append_squeeze_excitation(model: nn.Module, placement: str, reduction: int) -> None:
    """Put a squeeze-and-excitation without biases behind the norms that a placement names, in place.

    It acts before the activation that follows the norm, as in the baselines of the AN release. A norm `bn2` becomes
    the pair `bn2.norm`, `bn2.se`.
    """
    for name, module in list(model.named_modules()):
        if any(re.fullmatch(pattern, name) for pattern in PLACEMENTS[placement]):
            weight = module.get_parameter("weight")
            channels = len(weight)
            se = SEModule(channels, rd_channels=channels // reduction, bias=False)
            parent, _, leaf = name.rpartition(".")
            pair = nn.Sequential()
            pair.add_module("norm", module)
            pair.add_module("se", se.to(weight.device, weight.dtype))
            setattr(model.get_submodule(parent), leaf, pair)


_DEEP = default_cfg(first_conv="conv1.0")
_RESNETS = [f"resnet{depth}_an" for depth in (18, 34, 50, 101, 152)]
_ABLATIONS = [
    *("resnet50_an_bn3", "resnet50_an_bn123", "resnet50_an_all", "resnet34_an_bn2", "resnet34_an_bn12"),
    *("resnet50_se_bn2", "resnet50_se_bn3", "resnet50_se_bn123", "resnet34_se_bn2", "resnext50_32x4d_an"),
]
_RIVALS = ["resnet101_gn"]
_V1D = ["resnetv1d50", "resnetv1d50_an", "resnetv1d101", "resnetv1d101_an"]

_cfgs: dict[str, Any] = {name: default_cfg() for name in _RESNETS + _ABLATIONS + _RIVALS} | dict.fromkeys(_V1D, _DEEP)
default_cfgs = generate_default_cfgs(_cfgs)


def _resnet(variant: str, pretrained: bool, kwargs: dict[str, Any], /, **defaults: Any) -> nn.Module:
    return build_model_with_cfg(ResNet, variant, pretrained, **(defaults | kwargs))


def _bottlenecks(variant: str, pretrained: bool, kwargs: dict[str, Any], layers: tuple[int, ...], **more: Any):
    return _resnet(variant, pretrained, kwargs, block=Bottleneck, layers=layers, **more)


def _basics(variant: str, pretrained: bool, kwargs: dict[str, Any], layers: tuple[int, ...], **more: Any):
    return _resnet(variant, pretrained, kwargs, block=BasicBlock, layers=layers, **more)


_V1D_STEM: dict[str, Any] = {"stem_width": 32, "stem_type": "deep", "avg_down": True, "stem_pool": 2}
_LAYERS_34, _LAYERS_50, _LAYERS_101 = (3, 4, 6, 3), (3, 4, 6, 3), (3, 4, 23, 3)


@register_model
def resnet18_an(pretrained: bool = False, **kwargs: Any):
    """ResNet-18, AN at the first norm of every basic block."""
    return _basics("resnet18_an", pretrained, kwargs, (2, 2, 2, 2), placement="resnet_bn1")


@register_model
def resnet34_an(pretrained: bool = False, **kwargs: Any):
    """ResNet-34, AN at the first norm of every basic block: the released resnet_34_an_bn1."""
    return _basics("resnet34_an", pretrained, kwargs, _LAYERS_34, placement="resnet_bn1")


@register_model
def resnet34_an_bn2(pretrained: bool = False, **kwargs: Any):
    """ResNet-34, AN at the second norm of every basic block."""
    return _basics("resnet34_an_bn2", pretrained, kwargs, _LAYERS_34, placement="resnet_bn2")


@register_model
def resnet34_an_bn12(pretrained: bool = False, **kwargs: Any):
    """ResNet-34, AN at both norms of every basic block."""
    return _basics("resnet34_an_bn12", pretrained, kwargs, _LAYERS_34, placement="resnet_bn12")


@register_model
def resnet50_an(pretrained: bool = False, **kwargs: Any):
    """ResNet-50, AN after the 3x3 convolution of every bottleneck: the released resnet-50-an."""
    return _bottlenecks("resnet50_an", pretrained, kwargs, _LAYERS_50, placement="resnet_bn2")


@register_model
def resnet50_an_bn3(pretrained: bool = False, **kwargs: Any):
    """ResNet-50, AN at the last norm of every bottleneck."""
    return _bottlenecks("resnet50_an_bn3", pretrained, kwargs, _LAYERS_50, placement="resnet_bn3")


@register_model
def resnet50_an_bn123(pretrained: bool = False, **kwargs: Any):
    """ResNet-50, AN at all three norms of every bottleneck."""
    return _bottlenecks("resnet50_an_bn123", pretrained, kwargs, _LAYERS_50, placement="resnet_bn123")


@register_model
def resnet50_an_all(pretrained: bool = False, **kwargs: Any):
    """ResNet-50, AN at every norm, stem and downsample branches included."""
    return _bottlenecks("resnet50_an_all", pretrained, kwargs, _LAYERS_50, placement="resnet_all")


@register_model
def resnet101_an(pretrained: bool = False, **kwargs: Any):
    """ResNet-101, AN after the 3x3 convolution of every bottleneck."""
    return _bottlenecks("resnet101_an", pretrained, kwargs, _LAYERS_101, placement="resnet_bn2")


@register_model
def resnet152_an(pretrained: bool = False, **kwargs: Any):
    """ResNet-152, AN after the 3x3 convolution of every bottleneck."""
    return _bottlenecks("resnet152_an", pretrained, kwargs, (3, 8, 36, 3), placement="resnet_bn2")


@register_model
def resnext50_32x4d_an(pretrained: bool = False, **kwargs: Any):
    """ResNeXt-50 32x4d, AN after the grouped 3x3 convolution of every bottleneck."""
    groups = {"cardinality": 32, "base_width": 4}
    return _bottlenecks("resnext50_32x4d_an", pretrained, kwargs, _LAYERS_50, placement="resnet_bn2", **groups)


@register_model
def resnet101_gn(pretrained: bool = False, **kwargs: Any):
    """ResNet-101 with GroupNorm of 32 groups, a rival of AN in detection; timm has the like of depth 50 alone."""
    return _bottlenecks("resnet101_gn", pretrained, kwargs, _LAYERS_101, norm_layer="groupnorm")


@register_model
def resnetv1d50(pretrained: bool = False, **kwargs: Any):
    """The authors' ResNet-50 v1d: timm's resnet50d with a 2x2 max pool."""
    return _bottlenecks("resnetv1d50", pretrained, kwargs, _LAYERS_50, **_V1D_STEM)


@register_model
def resnetv1d50_an(pretrained: bool = False, **kwargs: Any):
    """The authors' ResNet-50 v1d, AN after the 3x3 convolution of every bottleneck."""
    return _bottlenecks("resnetv1d50_an", pretrained, kwargs, _LAYERS_50, placement="resnet_bn2", **_V1D_STEM)


@register_model
def resnetv1d101(pretrained: bool = False, **kwargs: Any):
    """The authors' ResNet-101 v1d: timm's resnet101d with a 2x2 max pool."""
    return _bottlenecks("resnetv1d101", pretrained, kwargs, _LAYERS_101, **_V1D_STEM)


@register_model
def resnetv1d101_an(pretrained: bool = False, **kwargs: Any):
    """The authors' ResNet-101 v1d, AN after the 3x3 convolution of every bottleneck."""
    return _bottlenecks("resnetv1d101_an", pretrained, kwargs, _LAYERS_101, placement="resnet_bn2", **_V1D_STEM)


@register_model
def resnet50_se_bn2(pretrained: bool = False, **kwargs: Any):
    """ResNet-50, squeeze-and-excitation (r = 4) after the second norm, before its ReLU."""
    return _bottlenecks("resnet50_se_bn2", pretrained, kwargs, _LAYERS_50, se={"resnet_bn2": 4})


@register_model
def resnet50_se_bn3(pretrained: bool = False, **kwargs: Any):
    """ResNet-50, squeeze-and-excitation (r = 16) after the third norm, before the addition."""
    return _bottlenecks("resnet50_se_bn3", pretrained, kwargs, _LAYERS_50, se={"resnet_bn3": 16})


@register_model
def resnet50_se_bn123(pretrained: bool = False, **kwargs: Any):
    """ResNet-50, squeeze-and-excitation after all three norms (r = 4, 4, 16)."""
    se = {"resnet_bn12": 4, "resnet_bn3": 16}
    return _bottlenecks("resnet50_se_bn123", pretrained, kwargs, _LAYERS_50, se=se)


@register_model
def resnet34_se_bn2(pretrained: bool = False, **kwargs: Any):
    """ResNet-34, squeeze-and-excitation (r = 4) after the second norm, before the addition."""
    return _basics("resnet34_se_bn2", pretrained, kwargs, _LAYERS_34, se={"resnet_bn2": 4})
