"""The Attentive Normalization layers: standardised by batch statistics, or over groups of channels of each sample.

What they compute, and the symbols, are in :mod:`attnorm.layers.attentive`.
"""

from typing import Unpack

import torch
from torch import Tensor

from attnorm.layers.attention import AttentionOptions, ChannelAttention, Gate, LogitNormName
from attnorm.layers.attentive import AttentiveNorm
from attnorm.layers.reference import group_statistics
from attnorm.layers.statistics import BatchStatistics


class AttentiveBatchNorm2d(AttentiveNorm, BatchStatistics):
    """Attentive Normalization over (N, C, H, W), standardised by batch statistics; replaces nn.BatchNorm2d.

    The formula and its symbols are in :mod:`attnorm.layers.attentive`. In evaluation mode running statistics are used;
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

    Raises:
        ValueError: For sizes below 1 and for options that do not exist.
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

    @property
    def has_closed_form(self) -> bool:
        """As for every AN layer, with statistics of one process that no subclass takes otherwise."""
        # Not super().has_closed_form: Dynamo takes a property of super() for true, whatever it returns.
        own = type(self).standardiser is AttentiveBatchNorm2d.standardiser
        return own and self.attention.has_closed_form and not self.is_synchronised

    def check_values(self, samples: int, pixels: int) -> None:
        """Refuse a single value per channel in training; that of one process among several may do."""
        if self.uses_batch and not self.is_synchronised:
            self.check_count(samples * pixels)

    def given_statistics(self, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
        """Running statistics where those of the batch are not used."""
        return BatchStatistics.given_statistics(self, dtype)

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

    Raises:
        ValueError: Where num_groups does not divide the channels; for sizes below 1 and options that do not exist.
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
        return group_statistics(mean, var, self.num_groups)

    @property
    def has_closed_form(self) -> bool:
        """As for every AN layer, with statistics that no subclass takes otherwise."""
        return type(self).standardiser is AttentiveGroupNorm.standardiser and self.attention.has_closed_form

    def check_values(self, samples: int, pixels: int) -> None:
        """Refuse a single value per group in training."""
        if self.training and samples and pixels * (self.num_channels // self.num_groups) == 1:
            raise ValueError(
                f"group statistics need more than 1 value per group; got {self.num_groups} groups of "
                f"{self.num_channels} channels of 1 pixel: use fewer groups, or model.eval()"
            )

    def given_statistics(self, dtype: torch.dtype) -> tuple[None, None]:
        """None: they are those of the groups."""
        return None, None

    def extra_repr(self) -> str:
        """Name every argument."""
        gain = "" if self.init_gain is None else f", init_gain={self.init_gain}"
        return f"{self.num_channels}, {self.num_groups}, num_components={self.num_components}, eps={self.eps}{gain}"


def _check_sizes(channels: int, num_components: int) -> None:
    if channels < 1:
        raise ValueError(f"the number of channels must be at least 1; got {channels}")
    if num_components < 1:
        raise ValueError(f"num_components must be at least 1; got {num_components}")
