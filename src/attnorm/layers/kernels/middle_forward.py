"""From the instance moments to scale and shift (N, C), in two launches; in three for group statistics.

    1. logits = (m t) V^T + b, one program for each sample
    2. lambda = gate(norm(logits)),  r = (sigma2 + eps)^-1/2,  scale = r lambda W,  shift = lambda B - scale mu,
       one program for each block of channels

Formulas and letters are those of :mod:`attnorm.layers.coefficients`. Nothing here is large: N*C floats are read some
five times and written twice. What it costs is launches, so every program of the second computes all lambda anew, from
the N*K logits, rather than wait for another launch; the first program alone writes them down. Group statistics are
taken in a launch between the two.
"""
# pyright: basic, reportPrivateImportUsage=false, reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# Triton's language has no types that a checker could follow.

import torch
import triton
import triton.language as tl
from torch import Tensor

from attnorm.layers.kernels.launch import middle_settings
from attnorm.layers.kernels.matrices import channel_statistic, gate, load_tile, row_statistics, store_tile
from attnorm.layers.middle import Coefficients, Options, Parameters, Statistics

_GROUP_CHANNELS = 1024  # of a group, that a program takes at a time


@triton.jit
def _logits_kernel(
    mean_ptr,  # (N, C)
    var_ptr,  # (N, C)
    logit_weight_ptr,  # (K, C)
    logit_bias_ptr,  # (K,) or None
    logits_ptr,  # (N, K)
    channels,
    components,
    unbias,
    var_eps,
    BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    sample = tl.program_id(0)
    component = tl.arange(0, BLOCK_K)
    products = tl.zeros((BLOCK_K, BLOCK_C), tl.float32)
    for first in range(0, channels, BLOCK_C):
        mean = load_tile(mean_ptr, sample, first, sample + 1, channels, channels, 0.0, 1, BLOCK_C)
        var = load_tile(var_ptr, sample, first, sample + 1, channels, channels, 1.0, 1, BLOCK_C)
        statistic, _ = channel_statistic(mean, var, unbias, var_eps)
        products += statistic * load_tile(
            logit_weight_ptr, 0, first, components, channels, channels, 0.0, BLOCK_K, BLOCK_C
        )
    logits = tl.sum(products, 1)
    if logit_bias_ptr is not None:
        logits += tl.load(logit_bias_ptr + component, mask=component < components, other=0.0)
    tl.store(logits_ptr + sample * components + component, logits, mask=component < components)


@triton.jit
def _group_statistics_kernel(
    mean_ptr,  # (N G, C / G)
    var_ptr,  # (N G, C / G)
    mu_ptr,  # (N G, C / G), the group's in every column
    sigma2_ptr,  # (N G, C / G)
    size,  # C / G
    BLOCK: tl.constexpr,
):
    start = tl.program_id(0) * size
    column = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, size, BLOCK):
        total += tl.load(mean_ptr + start + first + column, mask=first + column < size, other=0.0)
    mu = tl.sum(total, 0) / size
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, size, BLOCK):
        mask = first + column < size
        deviation = tl.load(mean_ptr + start + first + column, mask=mask, other=0.0) - mu
        var = tl.load(var_ptr + start + first + column, mask=mask, other=0.0)
        total += tl.where(mask, var + deviation * deviation, 0.0)
    sigma2 = tl.sum(total, 0) / size
    for first in range(0, size, BLOCK):
        mask = first + column < size
        tl.store(mu_ptr + start + first + column, tl.zeros((BLOCK,), tl.float32) + mu, mask=mask)
        tl.store(sigma2_ptr + start + first + column, tl.zeros((BLOCK,), tl.float32) + sigma2, mask=mask)


@triton.jit
def _pool(mean_ptr, var_ptr, first_column, samples, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Mean and biased variance (1, COLUMNS) over the samples; var_ptr None: of values without own variances."""
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, samples, ROWS):
        total += load_tile(mean_ptr, first, first_column, samples, columns, columns, 0.0, ROWS, COLUMNS)
    pooled = tl.sum(total, 0)[None, :] / samples
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, samples, ROWS):
        deviation = load_tile(mean_ptr, first, first_column, samples, columns, columns, 0.0, ROWS, COLUMNS) - pooled
        squares = deviation * deviation
        if var_ptr is not None:
            squares += load_tile(var_ptr, first, first_column, samples, columns, columns, 0.0, ROWS, COLUMNS)
        total += tl.where(first + tl.arange(0, ROWS)[:, None] < samples, squares, 0.0)
    return pooled, tl.sum(total, 0)[None, :] / samples


@triton.jit
def _coefficients_kernel(
    mean_ptr,  # (N, C)
    var_ptr,  # (N, C)
    logits_ptr,  # (N, K)
    weight_ptr,  # (K, C)
    bias_ptr,  # (K, C)
    norm_weight_ptr,  # (K,)
    norm_bias_ptr,  # (K,)
    mu_ptr,  # (C,), or (N, C) for groups; written if POOL, otherwise read
    sigma2_ptr,  # as mu
    logit_mean_ptr,  # "batch": (K,), written if LOGIT_POOL, otherwise read; "layer": (N, 1), written
    logit_rstd_ptr,  # as logit_mean
    weights_ptr,  # (N, K)
    scale_ptr,  # (N, C)
    shift_ptr,  # (N, C)
    samples,
    channels,
    components,
    mu_stride,  # C for groups, otherwise 0
    eps,
    logit_eps,
    GATE: tl.constexpr,
    LOGIT_NORM: tl.constexpr,
    POOL: tl.constexpr,
    LOGIT_POOL: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    first_channel = tl.program_id(0) * BLOCK_C
    # The first program alone writes what all compute: for the others the matrix has no rows.
    written = tl.where(tl.program_id(0) == 0, samples, 0)
    if LOGIT_NORM == "batch":
        if LOGIT_POOL:
            logit_mean, logit_var = _pool(logits_ptr, None, 0, samples, components, BLOCK_N, BLOCK_K)
            logit_rstd = tl.rsqrt(logit_var + logit_eps)
            store_tile(logit_mean_ptr, logit_mean, 0, 0, tl.minimum(written, 1), components, 1, BLOCK_K)
            store_tile(logit_rstd_ptr, logit_rstd, 0, 0, tl.minimum(written, 1), components, 1, BLOCK_K)
        else:
            logit_mean = load_tile(logit_mean_ptr, 0, 0, 1, components, 0, 0.0, 1, BLOCK_K)
            logit_rstd = load_tile(logit_rstd_ptr, 0, 0, 1, components, 0, 0.0, 1, BLOCK_K)
    if POOL:
        mu, sigma2 = _pool(mean_ptr, var_ptr, first_channel, samples, channels, BLOCK_N, BLOCK_C)
        store_tile(mu_ptr, mu, 0, first_channel, 1, channels, 1, BLOCK_C)
        store_tile(sigma2_ptr, sigma2, 0, first_channel, 1, channels, 1, BLOCK_C)
    weight = load_tile(weight_ptr, 0, first_channel, components, channels, channels, 0.0, BLOCK_K, BLOCK_C)
    bias = load_tile(bias_ptr, 0, first_channel, components, channels, channels, 0.0, BLOCK_K, BLOCK_C)
    for first in range(0, samples, BLOCK_N):
        normed = load_tile(logits_ptr, first, 0, samples, components, components, 0.0, BLOCK_N, BLOCK_K)
        if LOGIT_NORM != "none":
            if LOGIT_NORM == "layer":
                logit_mean, logit_rstd = row_statistics(normed, components, logit_eps, BLOCK_K)
                store_tile(logit_mean_ptr, logit_mean, first, 0, written, 1, BLOCK_N, 1)
                store_tile(logit_rstd_ptr, logit_rstd, first, 0, written, 1, BLOCK_N, 1)
            norm_weight = load_tile(norm_weight_ptr, 0, 0, 1, components, 0, 0.0, 1, BLOCK_K)
            norm_bias = load_tile(norm_bias_ptr, 0, 0, 1, components, 0, 0.0, 1, BLOCK_K)
            normed = (normed - logit_mean) * logit_rstd * norm_weight + norm_bias
        weights = gate(normed, components, GATE, BLOCK_K)
        store_tile(weights_ptr, weights, first, 0, written, components, BLOCK_N, BLOCK_K)
        if not POOL:
            mu = load_tile(mu_ptr, first, first_channel, samples, channels, mu_stride, 0.0, BLOCK_N, BLOCK_C)
            sigma2 = load_tile(sigma2_ptr, first, first_channel, samples, channels, mu_stride, 1.0, BLOCK_N, BLOCK_C)
        # "ieee": full float32 products; TensorFloat-32 would keep three digits.
        scale = tl.dot(weights, weight, input_precision="ieee") * tl.rsqrt(sigma2 + eps)
        shift = tl.dot(weights, bias, input_precision="ieee") - scale * mu
        store_tile(scale_ptr, scale, first, first_channel, samples, channels, BLOCK_N, BLOCK_C)
        store_tile(shift_ptr, shift, first, first_channel, samples, channels, BLOCK_N, BLOCK_C)


def coefficients(
    mean: Tensor, var: Tensor, parameters: Parameters, given: Statistics, options: Options
) -> Coefficients:
    """As in :mod:`attnorm.layers.coefficients`, for what :func:`attnorm.layers.kernels.middle.serves`.

    The moments (N, C) are contiguous.
    """
    samples, channels = mean.shape
    components = parameters.weight.shape[0]
    settings = middle_settings(samples, channels, components)
    logits, weights = mean.new_empty((samples, components)), mean.new_empty((samples, components))
    scale, shift = torch.empty_like(mean), torch.empty_like(mean)
    statistics = _allocate(mean, components, given, options)
    with torch.cuda.device_of(mean):
        _logits_kernel[(samples,)](
            mean,
            var,
            parameters.logit_weight.contiguous(),
            parameters.logit_bias,
            logits,
            channels,
            components,
            options.pixels / max(options.pixels - 1, 1),
            options.var_eps,
            BLOCK_C=settings.logit_channels,
            BLOCK_K=settings.block_components,
            num_warps=settings.num_warps,
        )
        if options.num_groups:
            size = channels // options.num_groups
            _group_statistics_kernel[(samples * options.num_groups,)](
                mean,
                var,
                statistics.mean,
                statistics.var,
                size,
                BLOCK=min(triton.next_power_of_2(size), _GROUP_CHANNELS),
                num_warps=1 if size <= 128 else 4,
            )
        _coefficients_kernel[(triton.cdiv(channels, settings.block_channels),)](
            mean,
            var,
            logits,
            parameters.weight.contiguous(),
            parameters.bias.contiguous(),
            parameters.norm_weight,
            parameters.norm_bias,
            *statistics,
            weights,
            scale,
            shift,
            samples,
            channels,
            components,
            channels if options.num_groups else 0,
            options.eps,
            options.logit_eps,
            GATE=options.gate,
            LOGIT_NORM=options.logit_norm or "none",
            POOL=given.mean is None and not options.num_groups,
            LOGIT_POOL=given.logit_mean is None,
            **settings.constants(),
        )
    return Coefficients(scale, shift, weights, logits, statistics)


def _allocate(mean: Tensor, components: int, given: Statistics, options: Options) -> Statistics:
    """The statistics that are given, and room for those that are not."""
    samples, channels = mean.shape
    mu, sigma2, logit_mean, logit_rstd = given
    if mu is None or sigma2 is None:
        shape = (samples, channels) if options.num_groups else (channels,)
        mu, sigma2 = mean.new_empty(shape), mean.new_empty(shape)
    if options.logit_norm is None:
        logit_mean = logit_rstd = None
    elif options.logit_norm == "layer" or logit_mean is None or logit_rstd is None:
        shape = (samples, 1) if options.logit_norm == "layer" else (components,)
        logit_mean, logit_rstd = mean.new_empty(shape), mean.new_empty(shape)
    return Statistics(mu, sigma2, logit_mean, logit_rstd)
