"""The activations of :mod:`attnorm.layers.activation`, and their derivatives, inside a kernel.

NaN goes through, as in PyTorch: comparisons are written so that they fail for it.
"""
# pyright: basic, reportPrivateImportUsage=false, reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# Triton's language has no types that a checker could follow.

import triton
import triton.language as tl

from attnorm.layers.activation import Activation


def constants(activation: Activation | None) -> tuple[str, float]:
    """The activation's name, "none" for None, and its slope, as the kernels take them."""
    return ("none", 0.0) if activation is None else (activation.name, activation.slope)


@triton.jit
def activate(z, slope, ACTIVATION: tl.constexpr):
    """Apply it to z, float32."""
    if ACTIVATION == "relu":
        z = tl.where(z <= 0, 0.0, z)
    elif ACTIVATION == "relu6":
        z = tl.where(z <= 0, 0.0, tl.where(z >= 6, 6.0, z))
    elif ACTIVATION == "leaky_relu":
        z = tl.where(z <= 0, slope * z, z)
    elif ACTIVATION == "silu":
        z = z * tl.sigmoid(z)
    elif ACTIVATION == "hard_swish":
        z = z * tl.where(z <= -3, 0.0, tl.where(z >= 3, 6.0, z + 3)) / 6
    else:
        tl.static_assert(ACTIVATION == "none")
    return z


@triton.jit
def activate_backward(dy, z, slope, ACTIVATION: tl.constexpr):
    """Multiply dy with the derivative at z, both float32."""
    if ACTIVATION == "relu":
        dy = tl.where(z <= 0, 0.0, dy)
    elif ACTIVATION == "relu6":
        dy = tl.where((z <= 0) | (z >= 6), 0.0, dy)
    elif ACTIVATION == "leaky_relu":
        dy = tl.where(z <= 0, slope * dy, dy)
    elif ACTIVATION == "silu":
        sigmoid = tl.sigmoid(z)
        dy = dy * (sigmoid * (1 + z * (1 - sigmoid)))
    elif ACTIVATION == "hard_swish":
        dy = tl.where(z <= -3, 0.0, tl.where(z >= 3, dy, dy * (z / 3 + 0.5)))
    else:
        tl.static_assert(ACTIVATION == "none")
    return dy
