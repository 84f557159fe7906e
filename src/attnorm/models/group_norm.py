"""GroupNorm in place of a network's BatchNorm: AN's rival, and what AN can be put on.

Y. Wu, K. He, "Group Normalization", ECCV 2018, arXiv 1803.08494.
"""

from typing import cast

import torch
from timm.layers.norm_act import BatchNormAct2d, GroupNormAct
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from attnorm.layers.walk import named_modules, set_module

GROUPS = 32
# Of fewer channels a group is nearly an instance norm, which loses how strong the channels are to each other.
FEWEST_CHANNELS = 4


def number_of_groups(channels: int) -> int:
    """The largest number that divides the channels, up to 32, with at least 4 channels in a group."""
    most = max(1, min(GROUPS, channels // FEWEST_CHANNELS))
    return next(groups for groups in range(most, 0, -1) if channels % groups == 0)


@torch.no_grad()
def use_group_norm(model: nn.Module) -> nn.Module:
    """Replace every BatchNorm by GroupNorm, in place; scales, shifts, eps and timm's activations stay."""
    for name, module in named_modules(model):
        if isinstance(module, _BatchNorm):
            set_module(model, name, _group_norm(module))
    return model


def _group_norm(norm: _BatchNorm) -> nn.GroupNorm:
    channels, groups = norm.num_features, number_of_groups(norm.num_features)
    like = {"device": norm.weight.device, "dtype": norm.weight.dtype} if norm.affine else {}
    if isinstance(norm, BatchNormAct2d):
        made: nn.GroupNorm = GroupNormAct(channels, groups, norm.eps, norm.affine, **like)
        made.drop, made.act = cast(nn.Module, norm.drop), cast(nn.Module, norm.act)
    else:
        made = nn.GroupNorm(groups, channels, norm.eps, norm.affine, **like)
    if norm.affine:
        made.weight.copy_(norm.weight)
        made.bias.copy_(norm.bias)
    return made.train(norm.training)
