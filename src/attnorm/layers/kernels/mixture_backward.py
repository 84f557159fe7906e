"""Gradients on the mixture's side of the middle, in one launch over blocks of channels; one more for groups.

With D = dLoss/dscale - mu dLoss/dshift, which is dcentred + (m - mu) dshift:

    dgain = D r    dW = lambda^T dgain    dB = lambda^T dshift    dlambda = dgain W^T + dshift B^T
    dsigma2 = -r^2/2 pool(D scale)    dmu = -pool(dshift scale)

Of dlambda each program leaves the part (N, K) that its channels contribute; whoever reads them adds them up in order.
Formulas and letters are those of :mod:`attnorm.layers.coefficients`.
"""
# pyright: basic, reportPrivateImportUsage=false, reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# Triton's language has no types that a checker could follow.

import triton
import triton.language as tl

from attnorm.layers.kernels.matrices import load_tile, store_tile


@triton.jit
def mixture_kernel(
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
    """One program for each block of channels."""
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
def group_kernel(
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
    """The dmu and dsigma2 of group statistics; one program for each group of each sample."""
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
