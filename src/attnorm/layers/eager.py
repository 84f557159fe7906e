"""The passes over x in PyTorch's own operations: what an eager CPU runs, in a package that needs no compiler.

    measure          m, v of every row                                          reads x
    apply            y = act(scale x + shift)                                   reads x, writes y
    gradient_sums    sum g (x - m), sum g, with g = dy act'(scale x + shift)    reads dy, x
    input_gradient   dx = scale g + 2 dv/L (x - m) + dm/L                       reads g, x, writes dx

A row is one channel of one sample, L pixels. How rows are walked through in memory is in
:mod:`attnorm.layers.memory_formats`.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from attnorm.layers.activation import Activation
from attnorm.layers.coefficients import coefficients, coefficients_backward, number
from attnorm.layers.memory_formats import affine, is_columns, like, neutral, rounded, standardise_rows, sums
from attnorm.layers.reference import at_least_float32, pixel_count, spread

__all__ = ["apply", "coefficients", "coefficients_backward", "gradient_sums", "input_gradient", "measure"]

aten = cast(Any, torch.ops.aten)  # pyright: ignore[reportUnknownMemberType]

# sum(x^2)/L - m^2 loses log10(m^2/v) digits. From this ratio on, a row is measured again around its own mean:
# at 64, float32 keeps a relative error below 1e-5 in v.
_CANCELLATION = 64.0

_ACTIVATE: dict[str, Callable[[Tensor, float], Tensor]] = {
    "relu": lambda y, _: y.relu_(),
    "relu6": lambda y, _: F.hardtanh_(y, 0.0, 6.0),
    "silu": lambda y, _: aten.silu_(y),
    "hard_swish": lambda y, _: aten.hardswish_(y),
    "leaky_relu": lambda y, slope: F.leaky_relu_(y, slope),
}

# From dy and z = scale x + shift; the result takes z's place.
_DIFFERENTIATE: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "relu": lambda dy, z, _: aten.threshold_backward(dy, z, 0.0, grad_input=z),
    "relu6": lambda dy, z, _: aten.hardtanh_backward(dy, z, 0.0, 6.0, grad_input=z),
    "silu": lambda dy, z, _: aten.silu_backward(dy, z, grad_input=z),
    "hard_swish": lambda dy, z, _: aten.hardswish_backward(dy, z),
    "leaky_relu": lambda dy, z, slope: aten.leaky_relu_backward(dy, z, slope, False, grad_input=z),
}


def measure(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance (N, C) of x (N, C, *spatial); accurate however far the mean is from 0."""
    squares, mean = sums(x, x)
    inverse = number(1 / pixel_count(x), mean)
    mean, mean_square = mean.mul_(inverse), squares.mul_(inverse)
    var = torch.addcmul(mean_square, mean, mean, value=-1)
    # Where this is not negative for any row, v >= m^2 / 64: nothing has cancelled, nothing is below 0. NaN in one row
    # must not hide another's.
    worst = mean_square.addcmul_(mean, mean, value=-1 - 1 / _CANCELLATION).min().item()
    if not worst >= 0:
        _measure_again(x, mean, var)
    return mean, var


def _measure_again(x: Tensor, mean: Tensor, var: Tensor) -> None:
    """Take the variance of rows that have lost digits around their own mean, in place."""
    cancelled = mean.square() > _CANCELLATION * var
    rows = at_least_float32(x[cancelled].flatten(1))
    residual = rows - mean[cancelled].unsqueeze(1)
    offset = residual.mean(1)
    mean[cancelled] += offset
    var[cancelled] = (residual - offset.unsqueeze(1)).square_().mean(1)


def apply(x: Tensor, scale: Tensor, shift: Tensor, activation: Activation | None) -> Tensor:
    """Return act(scale x + shift) in x's dtype and memory format; scale and shift are (N, C)."""

    def y(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        z = affine(x, scale, shift)
        return z if activation is None else _ACTIVATE[activation.name](z, activation.slope)

    return rounded(y, x, scale, shift)


def gradient_sums(
    dy: Tensor, x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor, activation: Activation | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Reduce the gradient over the pixels.

    Returns:
        sum g (x - m) and sum g, both (N, C), and g (N, C, *spatial), the gradient behind the activation, which
        :func:`input_gradient` takes.
    """
    g = dy
    if activation is not None:
        name, slope = activation

        def through(x: Tensor, dy: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
            return _DIFFERENTIATE[name](like(dy, x), affine(x, scale, shift), slope)

        g = rounded(through, x, dy, scale, shift)
    products, dshift = sums(g, x)
    return products.addcmul_(mean, dshift, value=-1), dshift, g


def input_gradient(
    g: Tensor,
    x: Tensor,
    mean: Tensor,
    scale: Tensor,
    shift: Tensor,
    dmean: Tensor,
    dvar: Tensor,
    activation: Activation | None,
) -> Tensor:
    """Return dx = scale g + 2 dvar/L (x - mean) + dmean/L, with g from :func:`gradient_sums`."""
    del shift, activation  # for kernels that differentiate the activation a second time, rather than keep g
    pixels = pixel_count(x)
    offset = dmean * number(1 / pixels, dmean)

    def dx(x: Tensor, mean: Tensor, dvar: Tensor, offset: Tensor, g: Tensor, scale: Tensor) -> Tensor:
        if is_columns(x):
            slope = dvar * number(2 / pixels, dvar)
            dx = affine(x, slope, torch.addcmul(offset, slope, mean, value=-1))
            return dx.addcmul_(spread(scale, x), g)
        # Standardised with mean m and variance 0 + eps, so that (x - m) is divided by sqrt(eps) = L / 2.
        zeros = neutral(mean)[0]
        dx = standardise_rows(x, dvar, offset, mean.flatten(), zeros, (pixels / 2) ** 2)
        if x.dtype == torch.bfloat16:  # where addcmul_ would convert all of g to float32
            return dx.add_(standardise_rows(g, scale, zeros, *neutral(mean), 0.0))
        return dx.addcmul_(spread(scale, x), g)

    # dx is a difference, small beside its terms, which float16 may not hold: inf - inf.
    return rounded(dx, x, mean, dvar, offset, g, scale, wide=x.dtype == torch.float16)
