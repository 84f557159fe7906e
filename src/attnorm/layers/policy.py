"""How the norms of a whole network are trained: over all processes, not at all, with or without weight decay."""

from collections.abc import Iterator
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from attnorm.layers.attention import LogitNorm
from attnorm.layers.attentive import AttentiveNorm, set_process_group
from attnorm.layers.norm import AttentiveBatchNorm2d
from attnorm.layers.plain import BatchNorm
from attnorm.layers.walk import named_modules

DecayPolicy = Literal["all", "no_norm"]

# Modules whose own parameters are those of a norm: a scale and a shift.
_NORMS = (_BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


def sync_norm(model: nn.Module, process_group: dist.ProcessGroup | None = None) -> nn.Module:
    """Pool batch statistics over processes, in place: AN's, its attention norm's, and every plain BatchNorm's.

    Works on any device, and keeps the drop and activation of timm's norm-act layers. torch's and timm's own
    converters leave AN layers as they are: unsynchronised, but whole.

    Args:
        model: Any network.
        process_group: The processes; None: all of them.

    Returns:
        The model.
    """
    model = _own_batch_norms(model)
    for _, module in named_modules(model):
        if isinstance(module, AttentiveNorm):
            set_process_group(module, True, process_group)
        elif isinstance(module, BatchNorm):
            module.synchronised, module.process_group = True, process_group
    return model


def freeze_norm(model: nn.Module, parameters: bool = True) -> nn.Module:
    """Make batch-dependent norms use their running statistics in training too, in place.

    The statistics of AN and of the norm inside its attention are fixed, and so are those of every BatchNorm: the
    network then trains with any batch size. The mixture weights still depend on the sample.

    Args:
        model: Any network; norms without running statistics have nothing to freeze and are left alone.
        parameters: Stop training the norms' parameters (AN's mixture and attention included) as well.

    Returns:
        The model.
    """
    model = _own_batch_norms(model)
    for _, module in named_modules(model):
        if isinstance(module, (AttentiveBatchNorm2d, BatchNorm, LogitNorm)) and module.running_mean is not None:
            module.frozen = True
        if parameters and isinstance(module, (AttentiveBatchNorm2d, BatchNorm)):
            module.requires_grad_(False)
    return model


def weight_decay_groups(model: nn.Module, weight_decay: float, policy: DecayPolicy = "all") -> list[dict[str, Any]]:
    """Split a network's trainable parameters into optimizer groups by weight decay.

    Args:
        model: Any network.
        weight_decay: The decay of the parameters that have one.
        policy: "all" decays everything, as the authors did, the mixture included. "no_norm" spares biases, the
            parameters of all norms, AN's mixture and its attention norm included, and what the model's own
            `no_weight_decay()` names; the attention's projection is decayed like any other.

    Returns:
        Parameter groups for any torch optimizer, empty groups left out. With timm's factory:
        `create_optimizer_v2(model, ..., param_group_fn=lambda m: weight_decay_groups(m, wd, "no_norm"))`.

    Raises:
        ValueError: For an unknown policy.
    """
    if policy not in ("all", "no_norm"):
        raise ValueError(f"policy must be 'all' or 'no_norm'; got {policy!r}")
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    spared: set[str] = set()
    if policy == "no_norm":
        spared = set(_norm_parameters(model)) | {name for name, p in trainable.items() if _is_bias(name, p)}
        spared |= set(cast(Any, model).no_weight_decay() if hasattr(model, "no_weight_decay") else ())
    groups = (
        {"params": [p for name, p in trainable.items() if name not in spared], "weight_decay": weight_decay},
        {"params": [p for name, p in trainable.items() if name in spared], "weight_decay": 0.0},
    )
    return [group for group in groups if group["params"]]


def attentive_norm_parameters(model: nn.Module) -> Iterator[str]:
    """Names of the AN layers' mixtures and attention norms, the projection left out."""
    for prefix, module in named_modules(model):
        if isinstance(module, (AttentiveNorm, LogitNorm)):
            yield from _own_parameters(prefix, module)


def _norm_parameters(model: nn.Module) -> Iterator[str]:
    for prefix, module in named_modules(model):
        if isinstance(module, (*_NORMS, BatchNorm, AttentiveNorm, LogitNorm)):
            yield from _own_parameters(prefix, module)


def _own_parameters(prefix: str, module: nn.Module) -> Iterator[str]:
    yield from (f"{prefix}.{name}" if prefix else name for name, _ in module.named_parameters(recurse=False))


def _is_bias(name: str, parameter: Tensor) -> bool:
    return parameter.ndim <= 1 and name.rpartition(".")[2] == "bias"


def _own_batch_norms(model: nn.Module) -> nn.Module:
    """Replace torch's and timm's BatchNorms by this package's, which can be synchronised and frozen."""
    if isinstance(model, _BatchNorm):
        return _own_batch_norm(model)
    replaced: dict[int, BatchNorm] = {}
    for _, module in named_modules(model):
        for name, child in list(module.named_children()):
            if isinstance(child, _BatchNorm):
                if id(child) not in replaced:
                    replaced[id(child)] = _own_batch_norm(child)
                setattr(module, name, replaced[id(child)])
    return model


@torch.no_grad()
def _own_batch_norm(norm: _BatchNorm) -> BatchNorm:
    timm_layers = cast(Any, norm)
    ours = BatchNorm(
        norm.num_features,
        norm.eps,
        norm.momentum,
        norm.affine,
        norm.track_running_stats,
        drop=getattr(timm_layers, "drop", None),
        act=getattr(timm_layers, "act", None),
    )
    # The very tensors, not copies: an optimizer that holds the parameters goes on training them.
    for name, parameter in norm.named_parameters(recurse=False):
        ours.register_parameter(name, parameter)
    for name, buffer in norm.named_buffers(recurse=False):
        ours.register_buffer(name, buffer)
    return ours.train(norm.training)
