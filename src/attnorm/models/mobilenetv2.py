"""MobileNetV2 with Attentive Normalization after the depthwise convolution of every inverted residual.

The network is timm's in which a placement puts AN, with 5, 5, 5, 5, 10, 10, 10 components in the seven stages.
Sources: X. Li et al., "Attentive Normalization", ECCV 2020, arXiv 1908.01259; M. Sandler et al., "MobileNetV2",
arXiv 1801.04381.
"""

from functools import partial
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._efficientnet_builder import decode_arch_def, resolve_act_layer, resolve_bn_args
from timm.models.efficientnet import EfficientNet
from torch import nn

from attnorm.models.placed import Placed, default_cfg


class MobileNetV2(Placed, EfficientNet):
    """timm's MobileNetV2 with AN at chosen norms; arguments of :class:`Placed` and of timm's EfficientNet."""


default_cfgs = generate_default_cfgs(
    {"mobilenetv2_100_an": default_cfg(first_conv="conv_stem", classifier="classifier")}
)

# MobileNetV2's table 2 (expansion e, channels c, repetitions r, stride s), in timm's notation.
_STAGES = [
    ["ds_r1_k3_s1_c16"],
    ["ir_r2_k3_s2_e6_c24"],
    ["ir_r3_k3_s2_e6_c32"],
    ["ir_r4_k3_s2_e6_c64"],
    ["ir_r3_k3_s1_e6_c96"],
    ["ir_r3_k3_s2_e6_c160"],
    ["ir_r1_k3_s1_e6_c320"],
]


@register_model
def mobilenetv2_100_an(pretrained: bool = False, **kwargs: Any):
    """MobileNetV2 of width 1, AN after every depthwise convolution: the released mobilenetv2-an."""
    # resolve_* take timm's own spellings, such as bn_eps, out of kwargs.
    batch_norm = partial(nn.BatchNorm2d, **resolve_bn_args(kwargs))
    defaults: dict[str, Any] = {
        "block_args": decode_arch_def(_STAGES),
        "norm_layer": batch_norm,
        "act_layer": resolve_act_layer(kwargs, "relu6"),
        "placement": "mobilenetv2",
        # The five reductions of timm's own mobilenetv2_100, taken from the whole network.
        "feature_cfg": {"out_indices": (0, 1, 2, 3, 4), "feature_cls": "getter"},
    }
    return build_model_with_cfg(MobileNetV2, "mobilenetv2_100_an", pretrained, **(defaults | kwargs))
