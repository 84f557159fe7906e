"""Put Attentive Normalization into a network in place of its norms."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _LazyNormBase  # pyright: ignore[reportPrivateUsage]
from torch.nn.modules.instancenorm import _InstanceNorm  # pyright: ignore[reportPrivateUsage]

from attnorm.layers.attention import GATES
from attnorm.layers.attentive import AttentiveNorm, set_process_group
from attnorm.layers.norm import (
    AttentiveBatchNorm1d,
    AttentiveBatchNorm2d,
    AttentiveBatchNorm3d,
    AttentiveGroupNorm,
)
from attnorm.layers.norm_act import AttentiveBatchNormAct2d, AttentiveGroupNormAct
from attnorm.layers.placement import Placement, choose
from attnorm.layers.plain import BatchNorm
from attnorm.layers.policy import attentive_norm_parameters, freeze_norm
from attnorm.layers.walk import named_modules, set_module

logger = logging.getLogger("attnorm")

_FROZEN_BUFFERS = {"weight", "bias", "running_mean", "running_var"}


def replace_norm(
    model: nn.Module,
    placement: str | Placement = "auto",
    num_components: int | Sequence[int] | None = None,
    preserve_function: bool = False,
    *,
    layer_options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Replace norms of a network by Attentive Normalization, in place.

    Taken are BatchNorm of any rank, SyncBatchNorm, frozen BatchNorm, GroupNorm, InstanceNorm and timm's norm-act
    layers, whose drop and activation are kept. Running statistics, eps, momentum, device, dtype, training mode and
    frozen or synchronised state carry over, and so does a scale that was initialised to zero. What was replaced and
    what was not is logged at level INFO under "attnorm"; :func:`norm_report` says it again.

    Args:
        model: Any network; if it is a norm itself, its replacement is returned.
        placement: "auto", a name in `attnorm.layers.placement.PLACEMENTS` ("resnet_bn2", "densenet", ...), or a
            mapping from regular expressions, matched against whole qualified names, to numbers of components.
        num_components: K, or one K per stage; None: the placement's.
        preserve_function: Start as the network that is there: its outputs stay equal, in training and in
            evaluation, until training tells the components apart. For pretrained networks. Otherwise the mixture
            starts at random, as the paper's does.
        layer_options: Further arguments of the layers, such as {"gate": "sigmoid", "logit_norm": "layer"}.

    Returns:
        The model.

    Raises:
        ValueError: If the placement is unknown or matches nothing.
        TypeError: If a norm cannot be replaced (a lazy one, not yet initialised).
    """
    found = {name: module for name, module in named_modules(model, remove_duplicate=False) if is_norm(module)}
    if "" in found:
        return make_attentive(model, num_components_of(num_components), preserve_function, model, layer_options)
    chosen = choose(list(found), model, placement, num_components)
    made: dict[int, nn.Module] = {}  # a norm that is registered twice stays one norm
    for name, components in chosen.items():
        norm = found[name]
        if id(norm) not in made:
            made[id(norm)] = make_attentive(norm, components, preserve_function, model, layer_options)
        set_module(model, name, made[id(norm)])
    exempt_from_weight_decay(model)
    kept = [name for name in found if name not in chosen]
    logger.info(
        "replaced %d of %d norms: %s; kept: %s", len(chosen), len(found), ", ".join(chosen), ", ".join(kept) or "none"
    )
    return model


def num_components_of(num_components: int | Sequence[int] | None) -> int:
    """K for a single layer: the given number, the first of several, or the paper's 10."""
    if num_components is None:
        return 10
    return num_components if isinstance(num_components, int) else num_components[0]


def norm_report(model: nn.Module) -> str:
    """One line for every norm of `model`: its name, class, channels and, for AN, the number of components."""
    lines: list[str] = []
    for name, module in named_modules(model):
        if isinstance(module, AttentiveNorm):
            components, channels = module.weight.shape
            lines.append(f"{name or '(model)'}: {type(module).__name__}, {channels} channels, K = {components}")
        elif is_norm(module):
            lines.append(f"{name or '(model)'}: {type(module).__name__}")
    return "\n".join(lines)


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a norm that AN can replace: not an InstanceNorm with running statistics, which AN lacks."""
    if isinstance(module, _InstanceNorm):
        return not module.track_running_stats
    return isinstance(module, (_BatchNorm, nn.GroupNorm, BatchNorm)) or _is_frozen_batch_norm(module)


def _is_frozen_batch_norm(module: nn.Module) -> bool:
    """torchvision, timm, detectron2 and others each have their own: buffers by these names and no parameters."""
    buffers = {name for name, _ in module.named_buffers(recurse=False)}
    return buffers - {"num_batches_tracked"} == _FROZEN_BUFFERS and not list(module.parameters(recurse=False))


def make_attentive(
    norm: nn.Module,
    num_components: int,
    preserve_function: bool,
    model: nn.Module,
    layer_options: Mapping[str, Any] | None = None,
) -> AttentiveNorm:
    """Build the AN layer that takes the place of one norm of a model; see :func:`replace_norm`."""
    if isinstance(norm, _LazyNormBase):
        raise TypeError("a lazy norm must be initialised before it can be replaced; run the model once first")
    old = cast(Any, norm)  # classes of several libraries, told apart above by what they have
    weight, bias = cast(Tensor | None, old.weight), cast(Tensor | None, old.bias)
    like = next((t for t in (weight, old.__dict__["_buffers"].get("running_var")) if t is not None), None)
    if like is None:
        like = next((t for t in model.parameters()), torch.empty(0))
    options: dict[str, Any] = {"eps": old.eps, "device": like.device, "dtype": like.dtype, **(layer_options or {})}
    has_act = isinstance(getattr(norm, "act", None), nn.Module)
    if isinstance(norm, (nn.GroupNorm, _InstanceNorm)):
        channels = norm.num_channels if isinstance(norm, nn.GroupNorm) else norm.num_features
        groups = norm.num_groups if isinstance(norm, nn.GroupNorm) else channels
        group_kind = AttentiveGroupNormAct if has_act else AttentiveGroupNorm
        layer: AttentiveNorm = group_kind(channels, groups, num_components, **options)
    else:
        layer = _batch_layer(norm, num_components, options, model, has_act)
    if has_act:
        layer.drop, layer.act = getattr(norm, "drop", None) or nn.Identity(), cast(nn.Module, old.act)
    if weight is not None and not weight.is_meta and not weight.any():
        # The last norm of a residual branch starts at zero, so that the block starts as the identity.
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    if preserve_function:
        _preserve_function(layer, weight, bias)
    return layer.train(norm.training)


def _batch_layer(
    norm: nn.Module, num_components: int, options: dict[str, Any], model: nn.Module, has_act: bool
) -> AttentiveBatchNorm2d:
    old = cast(Any, norm)
    running_mean = cast(Tensor | None, old.running_mean)
    frozen = _is_frozen_batch_norm(norm) or (isinstance(norm, BatchNorm) and norm.frozen)
    kind = AttentiveBatchNormAct2d if has_act else _batch_kind(norm, model)
    channels = old.num_features if running_mean is None else len(running_mean)
    layer = kind(
        channels,
        num_components,
        momentum=getattr(old, "momentum", 0.1),
        track_running_stats=running_mean is not None,
        **options,
    )
    with torch.no_grad():
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            theirs, ours = getattr(old, name, None), getattr(layer, name)
            if theirs is not None and ours is not None:
                ours.copy_(theirs)
    if frozen:
        freeze_norm(layer)
    if isinstance(norm, nn.SyncBatchNorm) or (isinstance(norm, BatchNorm) and norm.synchronised):
        set_process_group(layer, True, norm.process_group)
    return layer


def _batch_kind(norm: nn.Module, model: nn.Module) -> type[AttentiveBatchNorm2d]:
    if isinstance(norm, nn.BatchNorm1d):
        return AttentiveBatchNorm1d
    if isinstance(norm, nn.BatchNorm3d):
        return AttentiveBatchNorm3d
    if not isinstance(norm, nn.BatchNorm2d):  # synchronised and frozen norms take any rank: their network's it is
        for convolution, kind in ((nn.Conv3d, AttentiveBatchNorm3d), (nn.Conv2d, AttentiveBatchNorm2d)):
            if any(isinstance(m, convolution) for m in model.modules()):
                return kind
    return AttentiveBatchNorm2d


@torch.no_grad()
def _preserve_function(layer: AttentiveNorm, weight: Tensor | None, bias: Tensor | None) -> None:
    """Start a layer as the plain norm with weight and bias (C,).

    The attention is made constant: its norm's scale, or without a norm its projection, becomes 0, and the logits
    z_k spread a little around 0. With lambda_k = gate(z_k), rows W_k = weight / sum(lambda) + P_k, where P is random
    and sum_k lambda_k P_k = 0, mix to exactly weight; the shifts likewise. Rows and lambdas that differ give the
    components, and the attention, gradients that differ.
    """
    attention = layer.attention
    components, channels = layer.weight.shape
    logits = torch.linspace(-0.5, 0.5, components, dtype=torch.float64) if components > 1 else torch.zeros(1).double()
    projection = attention.logits
    if projection.norm is not None:
        projection.norm.weight.zero_()
        projection.norm.bias.copy_(logits)
    else:
        projection.weight.zero_()
        if projection.bias is None:
            logits.zero_()
        else:
            projection.bias.copy_(logits)
    gates = GATES[attention.gate](logits.unsqueeze(0)).squeeze(0)
    for rows, target, plain in ((layer.weight, weight, 1.0), (layer.bias, bias, 0.0)):
        wanted = torch.full((channels,), plain).double() if target is None else target.detach().cpu().double()
        # The paper's initialisation has a relative spread of 0.1 in the scales; so have these.
        noise = torch.randn(components, channels, dtype=torch.float64) * 0.1 / gates.sum()
        noise -= torch.outer(gates, gates @ noise) / gates.square().sum()
        rows.copy_(wanted / gates.sum() + noise)


def exempt_from_weight_decay(model: nn.Module) -> None:
    """Tell timm's optimizer factory, which spares 1-D parameters only, that AN's (K, C) ones are norm parameters."""
    own = getattr(type(model), "no_weight_decay", None)
    names = frozenset(attentive_norm_parameters(model)) | frozenset(own(model) if own is not None else ())
    if names:
        # Not a lambda, so that the model can still be copied and pickled.
        object.__setattr__(model, "no_weight_decay", partial(set[str], names))
    else:
        model.__dict__.pop("no_weight_decay", None)
