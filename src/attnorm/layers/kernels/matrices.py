"""What the kernels of the middle share: tiles of (N, C), (N, K) and (K, C) matrices, logit norm and gate.

A tile's rows and columns beyond the matrix are masked; sums over samples run tile by tile in a fixed order.
"""
# pyright: basic, reportPrivateImportUsage=false, reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# Triton's language has no types that a checker could follow.

import triton
import triton.language as tl


@triton.jit
def load_tile(
    matrix_ptr, first_row, first_column, rows, columns, stride, other, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """A (ROWS, COLUMNS) tile in float32, `other` beyond the matrix; a stride of 0 repeats one row."""
    row, column = first_row + tl.arange(0, ROWS)[:, None], first_column + tl.arange(0, COLUMNS)[None, :]
    mask = (row < rows) & (column < columns)
    return tl.load(matrix_ptr + row * stride + column, mask=mask, other=other).to(tl.float32)


@triton.jit
def store_tile(matrix_ptr, values, first_row, first_column, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Store a (ROWS, COLUMNS) tile into a contiguous matrix."""
    row, column = first_row + tl.arange(0, ROWS)[:, None], first_column + tl.arange(0, COLUMNS)[None, :]
    tl.store(matrix_ptr + row * columns + column, values, mask=(row < rows) & (column < columns))


@triton.jit
def channel_statistic(mean, var, unbias, var_eps):
    """The attention's statistic m t, and t = (unbiased variance + var_eps)^-1/2."""
    inverse_std = tl.rsqrt(var * unbias + var_eps)
    return mean * inverse_std, inverse_std


@triton.jit
def row_statistics(logits, components, logit_eps, BLOCK_K: tl.constexpr):
    """Mean and rstd (ROWS, 1) of each sample's logits."""
    mean = tl.sum(logits, 1)[:, None] / components
    deviation = tl.where(tl.arange(0, BLOCK_K)[None, :] < components, logits - mean, 0.0)
    return mean, tl.rsqrt(tl.sum(deviation * deviation, 1)[:, None] / components + logit_eps)


@triton.jit
def gate(normed, components, GATE: tl.constexpr, BLOCK_K: tl.constexpr):
    """Lambda from normalised logits; 0 beyond K. NaN goes through."""
    real = tl.arange(0, BLOCK_K)[None, :] < components
    if GATE == "hard_sigmoid":
        weights = tl.where(normed <= -3, 0.0, tl.where(normed >= 3, 1.0, (normed + 3) / 6))
    elif GATE == "sigmoid":
        weights = tl.sigmoid(normed)
    else:
        tl.static_assert(GATE == "softmax")
        normed = tl.where(real, normed, float("-inf"))
        powers = tl.exp(normed - tl.max(normed, 1)[:, None])
        weights = powers / tl.sum(powers, 1)[:, None]
    return tl.where(real, weights, 0.0)


@triton.jit
def gate_backward(dweights, weights, GATE: tl.constexpr):
    """From the gradient of lambda to that of the normalised logits."""
    if GATE == "hard_sigmoid":  # flat where lambda is 0 or 1
        dnormed = tl.where((weights <= 0) | (weights >= 1), 0.0, dweights / 6)
    elif GATE == "sigmoid":
        dnormed = dweights * weights * (1 - weights)
    else:
        dnormed = weights * (dweights - tl.sum(dweights * weights, 1)[:, None])
    return dnormed
