"""Take Attentive Normalization out of a network again."""

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from attnorm.layers.attention import GATES
from attnorm.layers.attentive import AttentiveNorm
from attnorm.layers.convert import exempt_from_weight_decay
from attnorm.layers.norm import (
    AttentiveBatchNorm1d,
    AttentiveBatchNorm2d,
    AttentiveBatchNorm3d,
    AttentiveGroupNorm,
)
from attnorm.layers.norm_act import AttentiveBatchNormAct2d, AttentiveGroupNormAct
from attnorm.layers.plain import BatchNorm
from attnorm.layers.walk import named_modules, set_module


def restore_norm(model: nn.Module) -> nn.Module:
    """Replace every AN layer by the plain norm with its average affine transform, in place; the way back.

    The mixture weights of an average sample are taken, whose normalised logits are the bias of the logit norm. The
    outputs are equal where the weights do not depend on the sample (as after `replace_norm(preserve_function=True)`),
    and an approximation to fine-tune from elsewhere.

    Args:
        model: Any network; if it is an AN layer itself, the plain norm is returned.

    Returns:
        The model.
    """
    if isinstance(model, AttentiveNorm):
        return _make_plain(model)
    for name, module in named_modules(model):
        if isinstance(module, AttentiveNorm):
            set_module(model, name, _make_plain(module))
    exempt_from_weight_decay(model)
    return model


@torch.no_grad()
def _make_plain(layer: AttentiveNorm) -> nn.Module:
    projection = layer.attention.logits
    constant = projection.norm.bias if projection.norm is not None else projection.bias
    logits = layer.weight.new_zeros(layer.num_components) if constant is None else constant
    gates = GATES[layer.attention.gate](logits.double().unsqueeze(0)).squeeze(0)
    like: dict[str, Any] = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    act = layer.act if isinstance(layer, (AttentiveBatchNormAct2d, AttentiveGroupNormAct)) else None
    drop = layer.drop if isinstance(layer, (AttentiveBatchNormAct2d, AttentiveGroupNormAct)) else None
    if isinstance(layer, AttentiveBatchNorm2d):
        plain: nn.Module = _plain_batch_norm(layer, drop, act, like)
    else:
        assert isinstance(layer, AttentiveGroupNorm)
        plain = nn.GroupNorm(layer.num_groups, layer.num_channels, layer.eps, **like)
    plain.get_parameter("weight").copy_(gates @ layer.weight.double())
    plain.get_parameter("bias").copy_(gates @ layer.bias.double())
    if act is not None and not isinstance(plain, BatchNorm):
        plain = nn.Sequential(plain, drop or nn.Identity(), act)
    return plain.train(layer.training)


def _plain_batch_norm(
    layer: AttentiveBatchNorm2d, drop: nn.Module | None, act: nn.Module | None, like: dict[str, Any]
) -> nn.Module:
    if act is not None or layer.frozen or layer.synchronised:
        ours = BatchNorm(
            layer.num_features, layer.eps, layer.momentum, True, layer.track_running_stats, drop=drop, act=act, **like
        )
        ours.frozen, ours.synchronised, ours.process_group = layer.frozen, layer.synchronised, layer.process_group
        plain: nn.Module = ours
    else:
        kinds: dict[type, type[_BatchNorm]] = {
            AttentiveBatchNorm1d: nn.BatchNorm1d,
            AttentiveBatchNorm3d: nn.BatchNorm3d,
        }
        kind = kinds.get(type(layer), nn.BatchNorm2d)
        plain = kind(layer.num_features, layer.eps, layer.momentum, True, layer.track_running_stats, **like)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        theirs = getattr(layer, name)
        if theirs is not None:
            plain.get_buffer(name).copy_(theirs)
    return plain
