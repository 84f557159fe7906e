"""AN layers with an activation, in timm's norm-act convention (`apply_act`, `act_layer`, ..., `drop`, `act`)."""

from collections.abc import Callable, Mapping
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from attnorm.layers.activation import FUSIBLE, Activation, activation_of
from attnorm.layers.attention import AttentionOptions, Gate, LogitNormName
from attnorm.layers.norm import AttentiveBatchNorm2d, AttentiveGroupNorm
from attnorm.layers.walk import is_untouched

ActLayer = str | Callable[..., nn.Module] | None

# timm's names for the activations that torch has.
_ACTIVATIONS: dict[str, Callable[..., nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "silu": nn.SiLU,
    "swish": nn.SiLU,
    "hard_swish": nn.Hardswish,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
}
_WITHOUT_INPLACE = (nn.GELU,)


def make_activation(
    act_layer: ActLayer, apply_act: bool, inplace: bool, act_kwargs: Mapping[str, Any] | None
) -> nn.Module:
    """Build the activation as timm's norm-act layers do; Identity where none is applied.

    Raises:
        ValueError: For a name that is not known.
    """
    if isinstance(act_layer, str):
        if act_layer not in _ACTIVATIONS:
            raise ValueError(f"act_layer must be a class or one of {', '.join(_ACTIVATIONS)}; got {act_layer!r}")
        act_layer = _ACTIVATIONS[act_layer]
    if act_layer is None or not apply_act:
        return nn.Identity()
    options = dict(act_kwargs or {})
    if act_layer not in _WITHOUT_INPLACE:
        options.setdefault("inplace", inplace)
    try:
        return act_layer(**options)
    except TypeError:  # an activation that knows no `inplace`
        options.pop("inplace", None)
        return act_layer(**options)


def fusible(drop: nn.Module, act: nn.Module) -> Activation | None:
    """The activation that the layer's own pass over x can apply in the modules' stead; None if they must be called."""
    if not (is_untouched(drop, nn.Identity) and is_untouched(act, *FUSIBLE)):
        return None
    return activation_of(act)


class AttentiveBatchNormAct2d(AttentiveBatchNorm2d):
    """AttentiveBatchNorm2d, then drop and activation; replaces timm's BatchNormAct2d.

    Args:
        num_features: C; this and all up to `track_running_stats` as in :class:`AttentiveBatchNorm2d`.
        num_components: K.
        eps: Added to the variance.
        momentum: Of the running statistics.
        track_running_stats: Whether they are kept.
        apply_act: False leaves out the activation.
        act_layer: Class or name of the activation.
        act_kwargs: Arguments for it.
        inplace: Whether it works in place.
        drop_layer: Class of a dropout between norm and activation.
        gate: As in :class:`AttentiveBatchNorm2d`, like the rest.
        logit_norm: See there.
        init_gain: See there.
        device: See there.
        dtype: See there.
        **attention: See there.
    """

    def __init__(
        self,
        num_features: int,
        num_components: int = 10,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        track_running_stats: bool = True,
        apply_act: bool = True,
        act_layer: ActLayer = nn.ReLU,
        act_kwargs: Mapping[str, Any] | None = None,
        inplace: bool = True,
        drop_layer: Callable[[], nn.Module] | None = None,
        *,
        gate: Gate = "hard_sigmoid",
        logit_norm: LogitNormName | None = "batch",
        init_gain: float | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **attention: Unpack[AttentionOptions],
    ) -> None:
        super().__init__(
            num_features,
            num_components,
            eps,
            momentum,
            track_running_stats,
            gate=gate,
            logit_norm=logit_norm,
            init_gain=init_gain,
            device=device,
            dtype=dtype,
            **attention,
        )
        self.drop = nn.Identity() if drop_layer is None else drop_layer()
        self.act = make_activation(act_layer, apply_act, inplace, act_kwargs)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise, drop, activate x (N, C, H, W)."""
        activation = fusible(self.drop, self.act)
        if activation is not None:
            return self.normalise(x, activation)
        return self.act(self.drop(super().forward(x)))


class AttentiveGroupNormAct(AttentiveGroupNorm):
    """AttentiveGroupNorm, then drop and activation; replaces timm's GroupNormAct.

    Args:
        num_channels: C; this and all up to `eps` as in :class:`AttentiveGroupNorm`.
        num_groups: G.
        num_components: K.
        eps: Added to the variance.
        apply_act: False leaves out the activation.
        act_layer: Class or name of the activation.
        act_kwargs: Arguments for it.
        inplace: Whether it works in place.
        drop_layer: Class of a dropout between norm and activation.
        gate: As in :class:`AttentiveGroupNorm`, like the rest.
        logit_norm: See there.
        init_gain: See there.
        device: See there.
        dtype: See there.
        **attention: See there.
    """

    def __init__(
        self,
        num_channels: int,
        num_groups: int = 32,
        num_components: int = 10,
        eps: float = 1e-5,
        apply_act: bool = True,
        act_layer: ActLayer = nn.ReLU,
        act_kwargs: Mapping[str, Any] | None = None,
        inplace: bool = True,
        drop_layer: Callable[[], nn.Module] | None = None,
        *,
        gate: Gate = "hard_sigmoid",
        logit_norm: LogitNormName | None = None,
        init_gain: float | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **attention: Unpack[AttentionOptions],
    ) -> None:
        super().__init__(
            num_channels,
            num_groups,
            num_components,
            eps,
            gate=gate,
            logit_norm=logit_norm,
            init_gain=init_gain,
            device=device,
            dtype=dtype,
            **attention,
        )
        self.drop = nn.Identity() if drop_layer is None else drop_layer()
        self.act = make_activation(act_layer, apply_act, inplace, act_kwargs)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise, drop, activate x (N, C, *)."""
        activation = fusible(self.drop, self.act)
        if activation is not None:
            return self.normalise(x, activation)
        return self.act(self.drop(super().forward(x)))
