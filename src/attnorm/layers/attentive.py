"""What all Attentive Normalization layers share: the mixture, and the order of the steps.

    y = gamma * (x - mu) / sqrt(var + eps) + beta,   gamma = lambda @ weight,  beta = lambda @ bias

| symbol | shape | meaning |
|---|---|---|
| x, y | (N, C, *spatial) | input and output |
| mu, var | (C,) or (N, C) | statistics of the batch, or of G groups of channels of each sample |
| lambda | (N, K) | mixture weights, from the channel attention (:mod:`attnorm.layers.attention`) |
| weight, bias | (K, C) | the K affine transforms of the mixture |

One pass over x measures the instance moments (N, C); all in the table is computed from them; a second pass applies
`scale * x + shift` and the activation. The definition, without any of this, is
:func:`attnorm.layers.reference.attentive_norm`.

Source: X. Li, W. Sun, T. Wu, "Attentive Normalization", ECCV 2020, arXiv 1908.01259. Departures: a map of one pixel
has variance 0 (the original divides 0 by 0); statistics and coefficients are never in half precision.
"""

from typing import ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from attnorm.layers.activation import Activation
from attnorm.layers.attention import GATES, ChannelAttention, LogitNorm
from attnorm.layers.backend import kernels_for, passes_for
from attnorm.layers.fused import Call, Kernels, attentive_norm, without_autocast
from attnorm.layers.middle import Coefficients, Options, Parameters, Statistics
from attnorm.layers.reference import pixel_count
from attnorm.layers.statistics import BatchStatistics


class AttentiveNorm(nn.Module):
    """What the batch and the group variant share: the mixture and the order of the steps."""

    weight: nn.Parameter
    bias: nn.Parameter
    attention: ChannelAttention
    num_components: int
    num_groups: int = 0  # of channels that share statistics; 0 where the samples of a batch do
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
        with without_autocast(maps):
            return self._attend(maps, mean, var)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (N, C, *spatial); same shape, dtype and memory format.

        Raises:
            ValueError: For a wrong number of dimensions or channels, or where a batch is too small for statistics.
        """
        return self.normalise(x)

    def normalise(self, x: Tensor, activation: Activation | None = None) -> Tensor:
        """Normalise x (N, C, *spatial) and apply the activation."""
        self._check_input(x)
        if x.ndim == 2:
            return self.forward_maps(x.unsqueeze(2), activation).squeeze(2)
        if 0 in x.shape[2:]:  # maps without pixels are no samples: nothing to standardise, nothing to learn from
            return self.forward_maps(x.reshape(0, x.shape[1], 1), activation).view_as(x)
        return self.forward_maps(x, activation)

    def forward_maps(self, x: Tensor, activation: Activation | None = None) -> Tensor:
        """Normalise x (N, C, *spatial) with at least one spatial dimension: moments, coefficients, affine."""
        kernels = kernels_for(x)
        if kernels is not None and self.has_closed_form:
            return self._forward_closed(x, kernels, activation)
        self.check_values(x.shape[0], pixel_count(x))  # before the attention's norm has followed the batch
        passes = passes_for(x)
        mean, var = passes.instance_moments(x)
        with without_autocast(x):
            weights = self._attend(x, mean, var)
            mu, sigma2 = self.standardiser(mean, var, pixel_count(x))
            scale = (weights @ self.weight.to(mean.dtype)) * (sigma2 + self.eps).rsqrt()
            shift = weights @ self.bias.to(mean.dtype) - scale * mu
        y = passes.affine(x, scale, shift)
        return y if activation is None else activation(y)

    @property
    def has_closed_form(self) -> bool:
        """Whether the layer can run as one autograd node, :func:`attnorm.layers.fused.attentive_norm`."""
        return self.attention.has_closed_form

    def check_values(self, samples: int, pixels: int) -> None:
        """Refuse, in training, what has no statistics."""
        raise NotImplementedError

    def given_statistics(self, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
        """The mean and variance to standardise with if they are known beforehand; else None, None."""
        raise NotImplementedError

    def _forward_closed(self, x: Tensor, kernels: Kernels, activation: Activation | None) -> Tensor:
        """All steps in one autograd node, where :attr:`has_closed_form`."""
        samples, pixels = x.shape[0], pixel_count(x)
        self.check_values(samples, pixels)
        attention = self.attention
        logits = attention.logits
        norm = logits.norm
        options = Options(
            pixels,
            self.eps,
            attention.var_eps,
            attention.gate,
            attention.logit_norm,
            1 if norm is None else norm.num_groups,
            0.0 if norm is None else norm.eps,
            self.num_groups,
        )
        norm_weight, norm_bias = (None, None) if norm is None else (norm.weight, norm.bias)
        parameters = Parameters(self.weight, self.bias, logits.weight, logits.bias, norm_weight, norm_bias)
        given = self._given(norm, samples, torch.float64 if x.dtype == torch.float64 else torch.float32)
        y, made = attentive_norm(x, parameters, Call(kernels, given, options, activation))
        if self.training:
            self._follow(made, given, norm, samples * pixels)
        return y

    def _given(self, norm: LogitNorm | None, samples: int, dtype: torch.dtype) -> Statistics:
        """The running statistics that this call uses."""
        mean, var = self.given_statistics(dtype)
        if norm is None or norm.kind != "batch":
            return Statistics(mean, var, None, None)
        norm.check_count(samples)
        logit_mean, logit_var = norm.given_statistics(dtype)
        logit_rstd = None if logit_var is None else (logit_var + norm.eps).rsqrt_()
        return Statistics(mean, var, logit_mean, logit_rstd)

    def _follow(self, made: Coefficients, given: Statistics, norm: LogitNorm | None, values: int) -> None:
        """Let running statistics follow those of the batch."""
        used = made.statistics
        if isinstance(self, BatchStatistics) and given.mean is None and used.mean is not None and used.var is not None:
            self.update_running(used.mean, used.var, values / (values - 1))
        if norm is not None and norm.kind == "batch" and given.logit_mean is None:
            assert used.logit_mean is not None
            assert used.logit_rstd is not None
            norm.follow(made.logits, used.logit_mean, used.logit_rstd)

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


def set_process_group(layer: AttentiveNorm, synchronised: bool, group: dist.ProcessGroup | None) -> None:
    """Pool a layer's statistics, the attention's included, over a group of processes, or stop doing so."""
    if isinstance(layer, BatchStatistics):
        layer.synchronised, layer.process_group = synchronised, group
    layer.attention.set_process_group(synchronised, group)
