"""Attentive Normalization as it is defined: plain, slow, differentiable PyTorch.

Tests compare every other path with :func:`attentive_norm` in float64. `torch.compile`, `torch.export` and
`torch.func` trace the pair :func:`instance_moments` and :func:`affine`, in which nothing depends on the data.

Source: X. Li, W. Sun, T. Wu, "Attentive Normalization", ECCV 2020, arXiv 1908.01259.

Letters: N samples, C channels, K mixture components, G groups, L pixels (the product of the spatial sizes).
"""

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Lift half-precision tensors to float32, the least in which statistics are taken; float64 stays."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def spread(coefficients: Tensor, x: Tensor) -> Tensor:
    """View (N, C) or (C,) coefficients so that they broadcast over the pixels of x (N, C, *spatial)."""
    return coefficients.reshape(*coefficients.shape, *(1,) * (x.ndim - 2))


def pixel_count(x: Tensor) -> int:
    """The product of x's spatial sizes; not `numel`, which tracers would freeze to the size at hand."""
    return math.prod(x.shape[2:])


def instance_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of every channel of every sample.

    Args:
        x: (N, C, *spatial), any floating dtype.

    Returns:
        Two tensors (N, C), float32 or float64.
    """
    pixels = at_least_float32(x).flatten(2)
    mean = pixels.mean(2)
    var = (pixels - mean.unsqueeze(2)).square().mean(2)
    return mean, var


def affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Apply `scale * x + shift` with one coefficient per sample and channel, in float32, returned in x's dtype.

    Args:
        x: (N, C, *spatial).
        scale: (N, C).
        shift: (N, C).
    """
    return (x * spread(scale, x) + spread(shift, x)).to(x.dtype)


def batch_statistics(mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """Pool instance moments, mean and biased var (N, C), into the mean and biased variance (C,) of the batch."""
    pooled = mean.mean(0)
    return pooled, var.mean(0) + (mean - pooled).square().mean(0)


def group_statistics(mean: Tensor, var: Tensor, num_groups: int) -> tuple[Tensor, Tensor]:
    """Pool instance moments, mean and biased var (N, C), over groups of channels; returned per channel, (N, C).

    `num_groups` = C is instance norm, 1 is layer norm over (C, H, W).
    """
    samples, channels = mean.shape
    grouped = (samples, num_groups, channels // num_groups)
    mean, var = mean.reshape(grouped), var.reshape(grouped)
    pooled = mean.mean(2, keepdim=True)
    # Centred before squaring: mean(m^2) - mean(m)^2 would lose all digits where |mean| >> std.
    pooled_var = var.mean(2, keepdim=True) + (mean - pooled).square().mean(2, keepdim=True)
    return (
        pooled.expand(grouped).reshape(samples, channels),
        pooled_var.expand(grouped).reshape(samples, channels),
    )


def degrees_of_freedom(pixels: int | Tensor) -> int | Tensor:
    """What the squares around the mean of L values are divided by in their unbiased variance; of one pixel, 1."""
    if isinstance(pixels, Tensor):  # a size under torch.jit.trace
        return (pixels - 1).clamp(min=1)
    # Python's max would freeze a traced size, a SymInt; torch 2.11 cannot compile sym_max of a size that is known.
    known = isinstance(pixels, int)  # pyright: ignore[reportUnnecessaryIsInstance]
    return max(pixels - 1, 1) if known else cast(int, torch.sym_max(pixels - 1, 1))


def mean_over_std(mean: Tensor, var: Tensor, pixels: int, var_eps: float) -> Tensor:
    """The channel statistic of the paper, `m / sqrt(v + eps)`, with the unbiased variance v.

    One pixel has no unbiased variance (0/0 in the original, which returns NaN there); it counts as 0 here.

    Args:
        mean: (N, C).
        var: (N, C), biased.
        pixels: L.
        var_eps: Added to the variance, 1e-3 in all released networks; not the eps of the standardisation.
    """
    return mean * (var * (pixels / degrees_of_freedom(pixels)) + var_eps).rsqrt()


def attentive_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    attend: Callable[[Tensor], Tensor],
    *,
    eps: float = 1e-5,
    var_eps: float = 1e-3,
    num_groups: int | None = None,
    running: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Attentive Normalization, step by step: the definition.

    `y = gamma * (x - mu) / sqrt(var + eps) + beta` with `gamma = lambda @ weight`, `beta = lambda @ bias` and
    `lambda = attend(m / sqrt(v + var_eps))`, where m and v are the instance mean and unbiased variance of x.

    Args:
        x: (N, C, *spatial).
        weight: (K, C), the scales of the mixture.
        bias: (K, C), the shifts of the mixture.
        attend: Maps the channel statistic (N, C) to the mixture weights lambda (N, K).
        eps: Added to the variance before standardising.
        var_eps: Added to the variance in the channel statistic.
        num_groups: Standardise over groups of channels of each sample instead of over the batch.
        running: The mean and variance (C,) to standardise with, instead of the batch's own.
    """
    x_wide = at_least_float32(x)
    mean, var = instance_moments(x)
    if num_groups is not None:
        mu, sigma2 = group_statistics(mean, var, num_groups)
    else:
        mu, sigma2 = running if running is not None else batch_statistics(mean, var)
    standardised = (x_wide - spread(mu, x)) / (spread(sigma2, x) + eps).sqrt()
    weights = attend(mean_over_std(mean, var, pixel_count(x), var_eps))
    gamma, beta = weights @ weight, weights @ bias
    return (spread(gamma, x) * standardised + spread(beta, x)).to(x.dtype)
