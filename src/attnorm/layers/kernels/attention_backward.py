"""Gradients on the attention's side of the middle, in one launch over blocks of channels.

    dlambda from its parts  ->  dnormed  ->  dlogits    dV = dlogits^T s    ds = dlogits V
    dm = t ds + dmu + 2 dsigma2 (m - mu)    dv = -c/2 t^2 s ds + dsigma2

Every program adds up the N*K parts of dlambda itself, in the same order, so that all agree to the bit; the first
program alone writes what belongs to the logits. Formulas and letters are those of :mod:`attnorm.layers.coefficients`.
"""
# pyright: basic, reportPrivateImportUsage=false, reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# Triton's language has no types that a checker could follow.

import triton
import triton.language as tl

from attnorm.layers.kernels.matrices import channel_statistic, gate_backward, load_tile, store_tile


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
def attention_kernel(
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
    """One program for each block of channels."""
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
        # Centring has put values below the last sample, which dlogit_bias would count.
        dlogits = tl.where(first + tl.arange(0, BLOCK_N)[:, None] < samples, dlogits, 0.0)
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
