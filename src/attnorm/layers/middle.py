"""What goes into the middle of the layer, between its two passes over x, and what comes out of it.

It is computed by :mod:`attnorm.layers.coefficients` in PyTorch's operations and by :mod:`attnorm.layers.kernels.middle`
in Triton.
"""

from typing import NamedTuple

from torch import Tensor


class Options(NamedTuple):
    """What the middle computes; numbers and names only.

    Attributes:
        pixels: L, values behind each instance moment.
        eps: Beside sigma2.
        var_eps: Beside the unbiased variance in the attention's statistic.
        gate: "hard_sigmoid", "sigmoid" or "softmax".
        logit_norm: "batch", "layer", "group" or None.
        logit_groups: Groups of logits that share a statistic; 1 for "layer".
        logit_eps: Of the logit norm.
        num_groups: G, for group statistics; 0 for those of the batch.
    """

    pixels: int
    eps: float
    var_eps: float
    gate: str
    logit_norm: str | None
    logit_groups: int
    logit_eps: float
    num_groups: int


class Parameters(NamedTuple):
    """The layer's parameters, in the dtype of the moments.

    Attributes:
        weight: W (K, C).
        bias: B (K, C).
        logit_weight: V (K, C).
        logit_bias: b (K,).
        norm_weight: Of the logit norm (K,).
        norm_bias: Of the logit norm (K,).
    """

    weight: Tensor
    bias: Tensor
    logit_weight: Tensor
    logit_bias: Tensor | None
    norm_weight: Tensor | None
    norm_bias: Tensor | None


class Statistics(NamedTuple):
    """Statistics to standardise with. As an argument: running ones, None where the batch's or group's are taken.

    Attributes:
        mean: mu, (C,) or for groups (N, C).
        var: sigma2, biased, of the same shape.
        logit_mean: (K,), of a logit norm of kind "batch"; (N, logit_groups) of "layer" and "group".
        logit_rstd: 1 / sqrt(variance + logit_eps), of the same shape.
    """

    mean: Tensor | None
    var: Tensor | None
    logit_mean: Tensor | None
    logit_rstd: Tensor | None


class Coefficients(NamedTuple):
    """What the affine pass needs, and what the backward pass will.

    Attributes:
        scale: (N, C).
        shift: (N, C).
        weights: lambda (N, K).
        logits: Before their norm (N, K).
        statistics: Those that were used.
    """

    scale: Tensor
    shift: Tensor
    weights: Tensor
    logits: Tensor
    statistics: Statistics


class Gradients(NamedTuple):
    """Gradients of the instance moments (N, C) and of the parameters."""

    mean: Tensor
    var: Tensor
    parameters: Parameters
