"""From the gradients of scale and shift to those of the moments and the parameters, in two launches; three for groups.

    1. dgain = D r,  dW = lambda^T dgain,  dB = lambda^T dshift,  dmu, dsigma2, and of dlambda = dgain W^T + dshift B^T
       the part of a block of channels: one program for each such block
    2. dlambda from its parts -> dlogits,  ds = dlogits V,  dV = dlogits^T s,  dm,  dv: again by blocks of channels

Formulas and letters are those of :mod:`attnorm.layers.coefficients`. Every program of the second launch adds up the
N*K parts of dlambda itself, in the same order, so that all agree to the bit; the first program alone writes what
belongs to the logits. For groups, dmu and dsigma2 come from a launch between the two.
"""
# pyright: basic, reportPrivateImportUsage=false, reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# Triton's language has no types that a checker could follow.

import torch
import triton
import triton.language as tl
from torch import Tensor

from attnorm.layers.coefficients import Coefficients, Gradients, Options, Parameters
from attnorm.layers.kernels.launch import middle_settings
from attnorm.layers.kernels.matrices import channel_statistic, gate_backward, load_tile, store_tile

_GROUP_CHANNELS = 1024  # of a group, that a program takes at a time


@triton.jit
def _mixture_kernel(
    dcentred_ptr,  # (N, C)
    dshift_ptr,  # (N, C)
    mean_ptr,  # (N, C)
    scale_ptr,  # (N, C)
    weights_ptr,  # (N, K)
    weight_ptr,  # (K, C)
    bias_ptr,  # (K, C)
    mu_ptr,  # (C,), or (N, C) for groups
    sigma2_ptr,  # as mu
    dweight_ptr,  # (K, C)
    dbias_ptr,  # (K, C)
    dmu_ptr,  # (C,), written if POOL
    dsigma2_ptr,  # (C,), written if POOL
    parts_ptr,  # (blocks, N, K): of dlambda
    samples,
    channels,
    components,
    mu_stride,  # C for groups, otherwise 0
    eps,
    POOL: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    block = tl.program_id(0)
    first_channel = block * BLOCK_C
    weight = load_tile(weight_ptr, 0, first_channel, components, channels, channels, 0.0, BLOCK_K, BLOCK_C)
    bias = load_tile(bias_ptr, 0, first_channel, components, channels, channels, 0.0, BLOCK_K, BLOCK_C)
    dweight = tl.zeros((BLOCK_K, BLOCK_C), tl.float32)
    dbias = tl.zeros((BLOCK_K, BLOCK_C), tl.float32)
    scale_sum = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
    shift_sum = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
    for first in range(0, samples, BLOCK_N):
        dshift = load_tile(dshift_ptr, first, first_channel, samples, channels, channels, 0.0, BLOCK_N, BLOCK_C)
        dscale = load_tile(dcentred_ptr, first, first_channel, samples, channels, channels, 0.0, BLOCK_N, BLOCK_C)
        mean = load_tile(mean_ptr, first, first_channel, samples, channels, channels, 0.0, BLOCK_N, BLOCK_C)
        mu = load_tile(mu_ptr, first, first_channel, samples, channels, mu_stride, 0.0, BLOCK_N, BLOCK_C)
        sigma2 = load_tile(sigma2_ptr, first, first_channel, samples, channels, mu_stride, 1.0, BLOCK_N, BLOCK_C)
        dscale += dshift * (mean - mu)
        dgain = dscale * tl.rsqrt(sigma2 + eps)
        weights = load_tile(weights_ptr, first, 0, samples, components, components, 0.0, BLOCK_N, BLOCK_K)
        dweight = tl.dot(tl.trans(weights), dgain, dweight, input_precision="ieee")
        dbias = tl.dot(tl.trans(weights), dshift, dbias, input_precision="ieee")
        part = tl.dot(dgain, tl.trans(weight), input_precision="ieee")
        part = tl.dot(dshift, tl.trans(bias), part, input_precision="ieee")
        store_tile(parts_ptr + block * samples * components, part, first, 0, samples, components, BLOCK_N, BLOCK_K)
        if POOL:
            scale = load_tile(scale_ptr, first, first_channel, samples, channels, channels, 0.0, BLOCK_N, BLOCK_C)
            scale_sum += dscale * scale
            shift_sum += dshift * scale
    store_tile(dweight_ptr, dweight, 0, first_channel, components, channels, BLOCK_K, BLOCK_C)
    store_tile(dbias_ptr, dbias, 0, first_channel, components, channels, BLOCK_K, BLOCK_C)
    if POOL:
        var = load_tile(sigma2_ptr, 0, first_channel, 1, channels, 0, 1.0, 1, BLOCK_C)
        dsigma2 = -0.5 / samples * tl.sum(scale_sum, 0)[None, :] / (var + eps)
        store_tile(dsigma2_ptr, dsigma2, 0, first_channel, 1, channels, 1, BLOCK_C)
        store_tile(dmu_ptr, -tl.sum(shift_sum, 0)[None, :] / samples, 0, first_channel, 1, channels, 1, BLOCK_C)


@triton.jit
def _group_gradients_kernel(
    dcentred_ptr,  # (N G, C / G), like all of them
    dshift_ptr,
    mean_ptr,
    scale_ptr,
    mu_ptr,
    sigma2_ptr,
    dmu_ptr,  # the group's in every column
    dsigma2_ptr,
    size,  # C / G
    eps,
    BLOCK: tl.constexpr,
):
    start = tl.program_id(0) * size
    column = tl.arange(0, BLOCK)
    scale_sum = tl.zeros((BLOCK,), tl.float32)
    shift_sum = tl.zeros((BLOCK,), tl.float32)
    mu = tl.load(mu_ptr + start)
    for first in range(0, size, BLOCK):
        at, mask = start + first + column, first + column < size
        dshift = tl.load(dshift_ptr + at, mask=mask, other=0.0)
        mean = tl.load(mean_ptr + at, mask=mask, other=0.0)
        scale = tl.load(scale_ptr + at, mask=mask, other=0.0)
        dscale = tl.load(dcentred_ptr + at, mask=mask, other=0.0) + dshift * (mean - mu)
        scale_sum += dscale * scale
        shift_sum += dshift * scale
    dsigma2 = -0.5 / size * tl.sum(scale_sum, 0) / (tl.load(sigma2_ptr + start) + eps)
    dmu = -tl.sum(shift_sum, 0) / size
    for first in range(0, size, BLOCK):
        at, mask = start + first + column, first + column < size
        tl.store(dmu_ptr + at, tl.zeros((BLOCK,), tl.float32) + dmu, mask=mask)
        tl.store(dsigma2_ptr + at, tl.zeros((BLOCK,), tl.float32) + dsigma2, mask=mask)


@triton.jit
def _load_dnormed(
    parts_ptr, logits_ptr, weights_ptr, logit_mean_ptr, logit_rstd_ptr,
    first, samples, components, blocks, GATE: tl.constexpr, LOGIT_NORM: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Gradient of the normalised logits of some samples, their standardised logits, and the rstd of those."""
    dweights = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    for block in range(blocks):
        part_ptr = parts_ptr + block * samples * components
        dweights += load_tile(part_ptr, first, 0, samples, components, components, 0.0, BLOCK_N, BLOCK_K)
    weights = load_tile(weights_ptr, first, 0, samples, components, components, 0.0, BLOCK_N, BLOCK_K)
    dnormed = gate_backward(dweights, weights, GATE)
    standard = load_tile(logits_ptr, first, 0, samples, components, components, 0.0, BLOCK_N, BLOCK_K)
    rstd = tl.full((1, 1), 1.0, tl.float32)
    if LOGIT_NORM == "batch":
        rstd = load_tile(logit_rstd_ptr, 0, 0, 1, components, 0, 0.0, 1, BLOCK_K)
        standard = (standard - load_tile(logit_mean_ptr, 0, 0, 1, components, 0, 0.0, 1, BLOCK_K)) * rstd
    elif LOGIT_NORM == "layer":
        rstd = load_tile(logit_rstd_ptr, first, 0, samples, 1, 1, 0.0, BLOCK_N, 1)
        standard = (standard - load_tile(logit_mean_ptr, first, 0, samples, 1, 1, 0.0, BLOCK_N, 1)) * rstd
        standard = tl.where(tl.arange(0, BLOCK_K)[None, :] < components, standard, 0.0)
    return dnormed, standard, rstd


@triton.jit
def _moments_kernel(
    parts_ptr,  # (blocks, N, K): of dlambda
    logits_ptr,  # (N, K)
    weights_ptr,  # (N, K)
    logit_mean_ptr,  # "batch": (K,); "layer": (N, 1)
    logit_rstd_ptr,  # as logit_mean
    norm_weight_ptr,  # (K,)
    logit_weight_ptr,  # (K, C)
    mean_ptr,  # (N, C)
    var_ptr,  # (N, C)
    mu_ptr,  # (C,), or (N, C) for groups; like the next two read if POOL
    dmu_ptr,  # as mu
    dsigma2_ptr,  # as mu
    dmean_ptr,  # (N, C)
    dvar_ptr,  # (N, C)
    dlogit_weight_ptr,  # (K, C)
    dlogit_bias_ptr,  # (K,) or None
    dnorm_weight_ptr,  # (K,)
    dnorm_bias_ptr,  # (K,)
    samples,
    channels,
    components,
    blocks,
    mu_stride,  # C for groups, otherwise 0
    unbias,
    var_eps,
    GATE: tl.constexpr,
    LOGIT_NORM: tl.constexpr,
    POOL: tl.constexpr,
    LOGIT_POOL: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    first_channel = tl.program_id(0) * BLOCK_C
    written = tl.where(tl.program_id(0) == 0, 1, 0)  # the first program alone writes what all compute
    if LOGIT_NORM != "none":
        weight_sum = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
        bias_sum = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
        for first in range(0, samples, BLOCK_N):
            dnormed, standard, rstd = _load_dnormed(
                parts_ptr, logits_ptr, weights_ptr, logit_mean_ptr, logit_rstd_ptr,
                first, samples, components, blocks, GATE, LOGIT_NORM, BLOCK_N, BLOCK_K,
            )  # fmt: skip
            weight_sum += dnormed * standard
            bias_sum += dnormed
        dnorm_weight, dnorm_bias = tl.sum(weight_sum, 0)[None, :], tl.sum(bias_sum, 0)[None, :]
        store_tile(dnorm_weight_ptr, dnorm_weight, 0, 0, written, components, 1, BLOCK_K)
        store_tile(dnorm_bias_ptr, dnorm_bias, 0, 0, written, components, 1, BLOCK_K)
        norm_weight = load_tile(norm_weight_ptr, 0, 0, 1, components, 0, 0.0, 1, BLOCK_K)
    logit_weight = load_tile(logit_weight_ptr, 0, first_channel, components, channels, channels, 0.0, BLOCK_K, BLOCK_C)
    dlogit_weight = tl.zeros((BLOCK_K, BLOCK_C), tl.float32)
    dlogit_bias = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    for first in range(0, samples, BLOCK_N):
        dlogits, standard, rstd = _load_dnormed(
            parts_ptr, logits_ptr, weights_ptr, logit_mean_ptr, logit_rstd_ptr,
            first, samples, components, blocks, GATE, LOGIT_NORM, BLOCK_N, BLOCK_K,
        )  # fmt: skip
        if LOGIT_NORM == "layer":
            dlogits *= norm_weight
            slant = tl.sum(dlogits * standard, 1)[:, None] / components
            dlogits = (dlogits - tl.sum(dlogits, 1)[:, None] / components - standard * slant) * rstd
        elif LOGIT_NORM == "batch":
            if LOGIT_POOL:
                dlogits -= (dnorm_bias + standard * dnorm_weight) / samples
            dlogits *= norm_weight * rstd
        # Centring has put values beyond the matrix.
        row, column = first + tl.arange(0, BLOCK_N)[:, None], tl.arange(0, BLOCK_K)[None, :]
        dlogits = tl.where((row < samples) & (column < components), dlogits, 0.0)
        dlogit_bias += dlogits
        mean = load_tile(mean_ptr, first, first_channel, samples, channels, channels, 0.0, BLOCK_N, BLOCK_C)
        var = load_tile(var_ptr, first, first_channel, samples, channels, channels, 1.0, BLOCK_N, BLOCK_C)
        statistic, inverse_std = channel_statistic(mean, var, unbias, var_eps)
        dlogit_weight = tl.dot(tl.trans(dlogits), statistic, dlogit_weight, input_precision="ieee")
        dmean = tl.dot(dlogits, logit_weight, input_precision="ieee") * inverse_std
        dvar = -0.5 * unbias * dmean * inverse_std * statistic
        if POOL:
            mu = load_tile(mu_ptr, first, first_channel, samples, channels, mu_stride, 0.0, BLOCK_N, BLOCK_C)
            dmu = load_tile(dmu_ptr, first, first_channel, samples, channels, mu_stride, 0.0, BLOCK_N, BLOCK_C)
            dsigma2 = load_tile(dsigma2_ptr, first, first_channel, samples, channels, mu_stride, 0.0, BLOCK_N, BLOCK_C)
            dmean += dmu + 2 * dsigma2 * (mean - mu)
            dvar += dsigma2
        store_tile(dmean_ptr, dmean, first, first_channel, samples, channels, BLOCK_N, BLOCK_C)
        store_tile(dvar_ptr, dvar, first, first_channel, samples, channels, BLOCK_N, BLOCK_C)
    store_tile(dlogit_weight_ptr, dlogit_weight, 0, first_channel, components, channels, BLOCK_K, BLOCK_C)
    if dlogit_bias_ptr is not None:
        store_tile(dlogit_bias_ptr, tl.sum(dlogit_bias, 0)[None, :], 0, 0, written, components, 1, BLOCK_K)


def coefficients_backward(
    dcentred: Tensor,
    dshift: Tensor,
    mean: Tensor,
    var: Tensor,
    made: Coefficients,
    parameters: Parameters,
    options: Options,
    pooled: bool,
    logit_pooled: bool,
) -> Gradients:
    """As in :mod:`attnorm.layers.coefficients`, for what :func:`attnorm.layers.kernels.middle.serves`."""
    samples, channels = mean.shape
    components = parameters.weight.shape[0]
    settings = middle_settings(samples, channels, components)
    blocks = triton.cdiv(channels, settings.block_channels)
    sizes = {
        "BLOCK_N": settings.block_samples,
        "BLOCK_C": settings.block_channels,
        "BLOCK_K": settings.block_components,
        "num_warps": settings.num_warps,
    }
    mu, sigma2, logit_mean, logit_rstd = made.statistics
    mu_stride = channels if options.num_groups else 0
    assert mu is not None
    dmean, dvar = mean.new_empty((2, samples, channels)).unbind()
    dweight, dbias, dlogit_weight = mean.new_empty((3, components, channels)).unbind()
    dlogit_bias, dnorm_weight, dnorm_bias = mean.new_empty((3, components)).unbind()
    dmu, dsigma2 = mean.new_empty((2, *mu.shape)).unbind()
    parts = mean.new_empty((blocks, samples, components))
    dcentred, dshift = dcentred.contiguous(), dshift.contiguous()
    with torch.cuda.device_of(mean):
        _mixture_kernel[(blocks,)](
            dcentred,
            dshift,
            mean,
            made.scale,
            made.weights,
            parameters.weight.contiguous(),
            parameters.bias.contiguous(),
            mu,
            sigma2,
            dweight,
            dbias,
            dmu,
            dsigma2,
            parts,
            samples,
            channels,
            components,
            mu_stride,
            options.eps,
            POOL=pooled and not options.num_groups,
            **sizes,
        )
        if options.num_groups:
            size = channels // options.num_groups
            _group_gradients_kernel[(samples * options.num_groups,)](
                dcentred,
                dshift,
                mean,
                made.scale,
                mu,
                sigma2,
                dmu,
                dsigma2,
                size,
                options.eps,
                BLOCK=min(triton.next_power_of_2(size), _GROUP_CHANNELS),
                num_warps=1 if size <= 128 else 4,
            )
        _moments_kernel[(blocks,)](
            parts,
            made.logits,
            made.weights,
            logit_mean,
            logit_rstd,
            parameters.norm_weight,
            parameters.logit_weight.contiguous(),
            mean,
            var,
            mu,
            dmu,
            dsigma2,
            dmean,
            dvar,
            dlogit_weight,
            None if parameters.logit_bias is None else dlogit_bias,
            dnorm_weight,
            dnorm_bias,
            samples,
            channels,
            components,
            blocks,
            mu_stride,
            options.pixels / max(options.pixels - 1, 1),
            options.var_eps,
            GATE=options.gate,
            LOGIT_NORM=options.logit_norm or "none",
            POOL=pooled,
            LOGIT_POOL=logit_pooled,
            **sizes,
        )
    normed = options.logit_norm is not None
    return Gradients(
        dmean,
        dvar,
        Parameters(
            dweight,
            dbias,
            dlogit_weight,
            None if parameters.logit_bias is None else dlogit_bias,
            dnorm_weight if normed else None,
            dnorm_bias if normed else None,
        ),
    )
