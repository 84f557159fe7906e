"""The passes over x in PyTorch's own operations: what an eager CPU runs, in a package that needs no compiler.

    measure          m, v of every row                                          reads x
    apply            y = act(scale x + shift)                                   reads x, writes y
    gradient_sums    sum g (x - m), sum g, with g = dy act'(scale x + shift)    reads dy, x
    input_gradient   dx = scale g + 2 dv/L (x - m) + dm/L                       reads g, x, writes dx

A row is one channel of one sample, L pixels. An eager CPU pays for every trip through memory and for every dispatch,
so each memory format is served by the few operations that make one trip and are vectorised for it:

- NCHW: rows are contiguous. Seen as one sample of N*C channels, native_group_norm_backward takes both sums of a row in
  one trip, and native_batch_norm in evaluation mode is the affine map with coefficients for every row.
- channels_last: rows are the columns of (L, C) matrices. addcmul broadcasts (N, C, 1, 1) coefficients at full speed;
  sums of products are gathered in a tile that stays in the cache.

In half precision the NCHW operations take coefficients and accumulate in float32. The channels_last ones do not,
so there blocks of samples that fit the cache are converted to float32, and the result is rounded once. Walking through
float32 tensors in such blocks was tried and is slower.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from attnorm.layers.activation import Activation
from attnorm.layers.coefficients import coefficients, coefficients_backward, number
from attnorm.layers.reference import at_least_float32, pixel_count, spread

__all__ = ["apply", "coefficients", "coefficients_backward", "gradient_sums", "input_gradient", "measure"]

aten = cast(Any, torch.ops.aten)  # pyright: ignore[reportUnknownMemberType]

# sum(x^2)/L - m^2 loses log10(m^2/v) digits. From this ratio on, a row is measured again around its own mean:
# at 64, float32 keeps a relative error below 1e-5 in v.
_CANCELLATION = 64.0

# Floats of a tile: 0.5 MB of them, and what is read beside, stay in the second-level caches of two cores, and the
# allocator need not ask the system for memory, whose first touch costs as much as a pass.
_TILE = 1 << 17

# Tiles into which channels_last tensors are cut at most. More fit the cache better, but every one is a parallel region,
# at the end of which the cores wait for each other: of 1 to 64, 8 was the best on a shared machine.
_MOST_TILES = 8

# Floats of a block of half-precision samples: fewer would be more dispatches than work.
_BLOCK = 1 << 20

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
_HALF = (torch.float16, torch.bfloat16)

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
    squares, sums = _sums(x, x)
    inverse = number(1 / pixel_count(x), sums)
    mean, mean_square = sums.mul_(inverse), squares.mul_(inverse)
    var = torch.addcmul(mean_square, mean, mean, value=-1)
    # Where this is not negative for any row, v >= m^2 / 64: nothing has cancelled, nothing is below 0.
    if mean_square.addcmul_(mean, mean, value=-1 - 1 / _CANCELLATION).min().item() < 0:
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
        z = _affine(x, scale, shift)
        return z if activation is None else _ACTIVATE[activation.name](z, activation.slope)

    return _rounded(y, x, scale, shift)


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
            return _DIFFERENTIATE[name](_like(dy, x), _affine(x, scale, shift), slope)

        g = _rounded(through, x, dy, scale, shift)
    products, sums = _sums(g, x)
    return products.addcmul_(mean, sums, value=-1), sums, g


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
        if _is_columns(x):
            slope = dvar * number(2 / pixels, dvar)
            dx = _affine(x, slope, torch.addcmul(offset, slope, mean, value=-1))
            return dx.addcmul_(spread(scale, x), g)
        # Standardised with mean m and variance 0 + eps, so that (x - m) is divided by sqrt(eps) = L / 2.
        zeros = _neutral(mean)[0]
        dx = _standardise_rows(x, dvar, offset, mean.flatten(), zeros, (pixels / 2) ** 2)
        if x.dtype in _HALF:  # where addcmul_ would convert all of g to float32
            return dx.add_(_standardise_rows(g, scale, zeros, *_neutral(mean), 0.0))
        return dx.addcmul_(spread(scale, x), g)

    return _rounded(dx, x, mean, dvar, offset, g, scale)


def _is_columns(x: Tensor) -> bool:
    """Whether x is channels_last, in 1 to 3 spatial dimensions, and not NCHW as well."""
    if x.is_contiguous():
        return False
    if x.ndim == 3:
        return x.transpose(1, 2).is_contiguous()
    return x.ndim in _CHANNELS_LAST and x.is_contiguous(memory_format=_CHANNELS_LAST[x.ndim])


def _like(g: Tensor, x: Tensor) -> Tensor:
    """Return g in the memory format in which x is walked through."""
    if not _is_columns(x):
        return g.contiguous()
    if x.ndim == 3:
        return g.transpose(1, 2).contiguous().transpose(1, 2)
    return g.contiguous(memory_format=_CHANNELS_LAST[x.ndim])


def _sums(g: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The sums over the pixels of g x and of g (N, C), at least in float32."""
    samples, channels = x.shape[:2]
    g = _like(g, x)
    if _is_columns(x):
        if x.dtype in _HALF:
            return _block_sums(g, x)
        return _column_sums(g.flatten(2).transpose(1, 2), x.flatten(2).transpose(1, 2))
    rows, pixels = samples * channels, pixel_count(x)
    zeros, ones = _constant_rows(rows, _wide(x), x.device)
    # With mean 0 and rstd 1 the gradients of group norm's weight and bias are the sums.
    _, products, sums = aten.native_group_norm_backward(
        g, x.contiguous(), zeros, ones, ones, 1, rows, pixels, rows, [False, True, True]
    )
    return products.view(samples, channels), sums.view(samples, channels)


def _block_sums(g: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    size = _block_size(x)
    pairs: list[tuple[Tensor, Tensor]] = []
    for gi, xi in zip(_split(g, size), _split(x, size), strict=True):
        wide = xi.float()
        pairs.append(_sums(wide if g is x else gi.float(), wide))
    return torch.cat([products for products, _ in pairs]), torch.cat([sums for _, sums in pairs])


def _column_sums(g: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The sums over L of g x and of g (N, C), from g and x (N, L, C).

    Products are added up pixel by pixel into a tile (N, l, C) that stays in the cache, rather than written out.
    """
    count = min(max(x.numel() // _TILE, 1), _MOST_TILES)
    pixels = -(-x.shape[1] // count)
    (g0, *gs), (x0, *xs) = _split(g, pixels, 1), _split(x, pixels, 1)
    tile = g0 * x0
    for gi, xi in zip(gs, xs, strict=True):
        (tile if gi.shape == tile.shape else tile[:, : gi.shape[1]]).addcmul_(gi, xi)
    return tile.sum(1), g.sum(1)


def _affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return scale x + shift, as a tensor of its own, not as a view."""
    if _is_columns(x):
        return torch.addcmul(spread(shift, x), x, spread(scale, x))
    return _standardise_rows(x, scale, shift, *_neutral(scale), 0.0)


def _standardise_rows(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, eps: float) -> Tensor:
    """Return (x - mean) / sqrt(var + eps) * weight + bias, with one value of each for a row of contiguous x."""
    x = x.contiguous()
    y, nothing = torch.empty_like(x), mean.new_empty(0)
    rows = (1, mean.numel(), pixel_count(x))
    aten.native_batch_norm(
        x.view(rows),
        weight.flatten(),
        bias.flatten(),
        mean,
        var,
        False,
        0.0,
        eps,
        out=y.view(rows),  # not a view itself, so that what follows may work in place under autograd
        save_mean=nothing,
        save_invstd=nothing,
    )
    return y


@lru_cache(maxsize=16)
def _constant_rows(rows: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):
        return torch.zeros(rows, dtype=dtype, device=device), torch.ones(rows, dtype=dtype, device=device)


def _neutral(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean 0 and variance 1 for every row of x (N, C, ...); kept, since filling them takes as long as other steps."""
    return _constant_rows(x.shape[0] * x.shape[1], x.dtype, x.device)


def _split(x: Tensor, size: int, dim: int = 0) -> Sequence[Tensor]:
    return cast(Sequence[Tensor], x.split(size, dim))  # pyright: ignore[reportUnknownMemberType]


def _wide(x: Tensor) -> torch.dtype:
    return torch.float32 if x.dtype in _HALF else x.dtype


def _block_size(x: Tensor) -> int:
    """Samples that are converted to float32 at a time."""
    return max(_BLOCK // x[0].numel(), 1)


def _rounded(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Call a function of tensors that have the samples in their first dimension.

    Where the first is channels_last in half precision, that happens in float32, block by block, and the result is
    rounded to it.
    """
    first = tensors[0]
    if first.dtype not in _HALF or not _is_columns(first):
        return function(*tensors)
    result = torch.empty_like(first)
    size = _block_size(first)
    for out, *block in zip(_split(result, size), *(_split(t, size) for t in tensors), strict=True):
        out.copy_(function(*map(at_least_float32, block)))
    return result
