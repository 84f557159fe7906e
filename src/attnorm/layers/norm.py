"""The Attentive Normalization layers.

    y = gamma * (x - mu) / sqrt(var + eps) + beta,   gamma = lambda @ weight,  beta = lambda @ bias

| symbol | shape | meaning |
|---|---|---|
| x, y | (N, C, *spatial) | input and output |
| mu, var | (C,) or (N, C) | statistics of the batch, or of G groups of channels of each sample |
| lambda | (N, K) | mixture weights, from the channel attention (:mod:`attnorm.layers.attention`) |
| weight, bias | (K, C) | the K affine transforms of the mixture |

One pass over x measures the instance moments (N, C); all in the table is computed from them; a second pass applies
`scale * x + shift`. The definition, without any of this, is :func:`attnorm.layers.reference.attentive_norm`.

Source: X. Li, W. Sun, T. Wu, "Attentive Normalization", ECCV 2020, arXiv 1908.01259. Departures: a map of one pixel
has variance 0 (the original divides 0 by 0); statistics and coefficients are never in half precision.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar, Unpack

import torch
import torch.distributed as dist
from torch import Tensor, nn

from attnorm.layers.attention import GATES, AttentionOptions, ChannelAttention, Gate, LogitNormName
from attnorm.layers.backend import passes_for
from attnorm.layers.reference import group_statistics, pixel_count
from attnorm.layers.statistics import BatchStatistics


class AttentiveNorm(nn.Module):
    """What the batch and the group variant share: the mixture and the order of the steps."""

    weight: nn.Parameter
    bias: nn.Parameter
    attention: ChannelAttention
    num_components: int
    eps: float
    init_gain: float | None
    input_dims: ClassVar[tuple[int, ...]] = ()  # number of dimensions allowed; empty: any from 2 on

    def standardiser(self, mean: Tensor, var: Tensor, pixels: int) -> tuple[Tensor, Tensor]:
        """The mean and variance to standardise with, (C,) or (N, C), from instance moments (N, C)."""
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Scales N(1, 0.1^2), shifts N(0, 0.1^2), attention and running statistics anew, as in the released code.

        With lambda near gate(0) the layer's gain then starts near K * gate(0), K/2 for the sigmoids; with `init_gain`
        both are multiplied so that it starts there instead.
        """
        nn.init.normal_(self.weight, 1.0, 0.1)
        nn.init.normal_(self.bias, 0.0, 0.1)
        if self.init_gain is not None:
            start = GATES[self.attention.gate](torch.zeros(1, self.num_components)).sum().item()
            with torch.no_grad():
                self.weight.mul_(self.init_gain / start)
                self.bias.mul_(self.init_gain / start)
        self.attention.reset_parameters()

    def mixture_weights(self, x: Tensor) -> Tensor:
        """Lambda (N, K) for the input x (N, C, *spatial), as a call of the layer uses it.

        In training mode the running statistics of the attention's norm see the batch, as in a call.
        """
        self._check_input(x)
        maps = x.unsqueeze(2) if x.ndim == 2 else x
        mean, var = passes_for(maps).instance_moments(maps)
        with _without_autocast(maps):
            return self._attend(maps, mean, var)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (N, C, *spatial); same shape, dtype and memory format.

        Raises:
            ValueError: For a wrong number of dimensions or channels, or where a batch is too small for statistics.
        """
        self._check_input(x)
        if x.ndim == 2:
            return self.forward_maps(x.unsqueeze(2)).squeeze(2)
        return self.forward_maps(x)

    def forward_maps(self, x: Tensor) -> Tensor:
        """Normalise x (N, C, *spatial) with at least one spatial dimension: moments, coefficients, affine."""
        passes = passes_for(x)
        mean, var = passes.instance_moments(x)
        with _without_autocast(x):
            weights = self._attend(x, mean, var)
            mu, sigma2 = self.standardiser(mean, var, pixel_count(x))
            scale = (weights @ self.weight.to(mean.dtype)) * (sigma2 + self.eps).rsqrt()
            shift = weights @ self.bias.to(mean.dtype) - scale * mu
        return passes.affine(x, scale, shift)

    def _attend(self, x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        maximum = x.flatten(2).amax(2).to(mean.dtype) if self.attention.needs_maximum else None
        return self.attention(mean, var, pixel_count(x), maximum)

    def _make_mixture(
        self,
        channels: int,
        num_components: int,
        attention: ChannelAttention,
        init_gain: float | None,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        self.num_components, self.init_gain = num_components, init_gain
        self.weight = nn.Parameter(torch.empty(num_components, channels, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(num_components, channels, device=device, dtype=dtype))
        self.attention = attention
        self.reset_parameters()

    def _check_input(self, x: Tensor) -> None:
        if (x.ndim not in self.input_dims) if self.input_dims else x.ndim < 2:
            dims = " or ".join(f"{d}-D" for d in self.input_dims) if self.input_dims else "at least 2-D"
            raise ValueError(f"{type(self).__name__} takes {dims} input; got shape {tuple(x.shape)}")
        channels = self.weight.shape[1]
        if x.shape[1] != channels:
            raise ValueError(
                f"{type(self).__name__} was built for {channels} channels in dimension 1; got shape {tuple(x.shape)}"
            )


class AttentiveBatchNorm2d(AttentiveNorm, BatchStatistics):
    """Attentive Normalization over (N, C, H, W), standardised by batch statistics; replaces nn.BatchNorm2d.

    The formula and its symbols are at the top of this file. In evaluation mode running statistics standardise;
    the mixture weights depend on the sample in either mode.

    Args:
        num_features: C.
        num_components: K, the paper's 10 in the first two stages of a network and 20 in the last two.
        eps: Added to the variance when standardising.
        momentum: Rate at which running statistics follow; None: their plain average.
        track_running_stats: False: the batch's own statistics in evaluation too.
        gate: "hard_sigmoid" (the paper's), "sigmoid" or "softmax".
        logit_norm: Norm on the attention's logits: "batch" (the paper's), "layer", "group" or None.
        init_gain: Scale that the whole layer starts with; None: the paper's, near K/2. See `docs/results.md` for
            what 1.0 changes.
        device: As in every torch.nn layer.
        dtype: As in every torch.nn layer.
        **attention: `head`, `statistic`, `logit_bias`, `logit_groups`, `var_eps`; see
            :class:`attnorm.layers.attention.ChannelAttention`.

    Shape:
        (N, C, H, W) -> (N, C, H, W). AttentiveBatchNorm1d takes (N, C) or (N, C, L), AttentiveBatchNorm3d
        (N, C, D, H, W).
    """

    input_dims = (4,)

    def __init__(
        self,
        num_features: int,
        num_components: int = 10,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        track_running_stats: bool = True,
        *,
        gate: Gate = "hard_sigmoid",
        logit_norm: LogitNormName | None = "batch",
        init_gain: float | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **attention: Unpack[AttentionOptions],
    ) -> None:
        _check_sizes(num_features, num_components)
        BatchStatistics.__init__(self, num_features, eps, momentum, track_running_stats, device, dtype)
        branch = ChannelAttention(
            num_features,
            num_components,
            gate=gate,
            logit_norm=logit_norm,
            momentum=momentum,
            track_running_stats=track_running_stats,
            device=device,
            dtype=dtype,
            **attention,
        )
        self._make_mixture(num_features, num_components, branch, init_gain, device, dtype)

    def standardiser(self, mean: Tensor, var: Tensor, pixels: int) -> tuple[Tensor, Tensor]:
        """Statistics (C,) of the batch, of all processes, or the running ones."""
        return BatchStatistics.standardiser(self, mean, var, pixels)

    def reset_parameters(self) -> None:
        """Initialise parameters and running statistics anew."""
        self.reset_running_stats()
        super().reset_parameters()

    def extra_repr(self) -> str:
        """Name every argument."""
        return (
            f"{self.num_features}, num_components={self.num_components}, eps={self.eps}, momentum={self.momentum}, "
            f"track_running_stats={self.track_running_stats}"
            + ("" if self.init_gain is None else f", init_gain={self.init_gain}")
            + (", frozen=True" if self.frozen else "")
            + (", synchronised=True" if self.synchronised else "")
        )


class AttentiveBatchNorm1d(AttentiveBatchNorm2d):
    """Attentive Normalization over (N, C) or (N, C, L); see :class:`AttentiveBatchNorm2d`."""

    input_dims = (2, 3)


class AttentiveBatchNorm3d(AttentiveBatchNorm2d):
    """Attentive Normalization over (N, C, D, H, W); see :class:`AttentiveBatchNorm2d`."""

    input_dims = (5,)


class AttentiveGroupNorm(AttentiveNorm):
    """Attentive Normalization standardised over groups of channels of each sample; replaces nn.GroupNorm.

    Nothing depends on the batch, so a batch of one trains. `num_groups=num_channels` is attentive instance norm,
    `num_groups=1` attentive layer norm over (C, *spatial). The defaults are the released COCO heads': hard sigmoid,
    logits with a bias and without a norm.

    Args:
        num_channels: C; first, unlike in nn.GroupNorm, so that `norm_layer(channels)` works.
        num_groups: G, a divisor of C.
        num_components: K.
        eps: Added to the variance when standardising.
        gate: As for :class:`AttentiveBatchNorm2d`.
        logit_norm: None (default), "layer", "group", or "batch", which then keeps running statistics.
        init_gain: As for :class:`AttentiveBatchNorm2d`.
        device: As in every torch.nn layer.
        dtype: As in every torch.nn layer.
        **attention: As for :class:`AttentiveBatchNorm2d`.

    Shape:
        (N, C, *) -> (N, C, *), with any number of spatial dimensions.
    """

    def __init__(
        self,
        num_channels: int,
        num_groups: int = 32,
        num_components: int = 10,
        eps: float = 1e-5,
        *,
        gate: Gate = "hard_sigmoid",
        logit_norm: LogitNormName | None = None,
        init_gain: float | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **attention: Unpack[AttentionOptions],
    ) -> None:
        _check_sizes(num_channels, num_components)
        if num_groups < 1 or num_channels % num_groups:
            raise ValueError(f"num_groups must divide the {num_channels} channels; got {num_groups}")
        super().__init__()
        self.num_channels, self.num_groups, self.eps = num_channels, num_groups, eps
        branch = ChannelAttention(
            num_channels, num_components, gate=gate, logit_norm=logit_norm, device=device, dtype=dtype, **attention
        )
        self._make_mixture(num_channels, num_components, branch, init_gain, device, dtype)

    def standardiser(self, mean: Tensor, var: Tensor, pixels: int) -> tuple[Tensor, Tensor]:
        """Statistics of each sample's groups, per channel (N, C)."""
        if self.training and pixels * (self.num_channels // self.num_groups) == 1:
            raise ValueError(
                f"group statistics need more than 1 value per group; got {self.num_groups} groups of "
                f"{self.num_channels} channels of 1 pixel: use fewer groups, or model.eval()"
            )
        return group_statistics(mean, var, self.num_groups)

    def extra_repr(self) -> str:
        """Name every argument."""
        gain = "" if self.init_gain is None else f", init_gain={self.init_gain}"
        return f"{self.num_channels}, {self.num_groups}, num_components={self.num_components}, eps={self.eps}{gain}"


def _check_sizes(channels: int, num_components: int) -> None:
    if channels < 1:
        raise ValueError(f"the number of channels must be at least 1; got {channels}")
    if num_components < 1:
        raise ValueError(f"num_components must be at least 1; got {num_components}")


def _without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Autocast would run the (N, C)-sized products in half precision; coefficients stay in float32."""
    kind = x.device.type
    if kind != "meta" and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


def set_process_group(layer: AttentiveNorm, synchronised: bool, group: dist.ProcessGroup | None) -> None:
    """Pool a layer's statistics, the attention's included, over a group of processes, or stop doing so."""
    if isinstance(layer, BatchStatistics):
        layer.synchronised, layer.process_group = synchronised, group
    layer.attention.set_process_group(synchronised, group)
