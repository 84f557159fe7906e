"""How an eager CPU walks through x: sums over the rows, and affine maps of them, in either memory format.

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
from torch import Tensor

from attnorm.layers.reference import at_least_float32, pixel_count, spread

aten = cast(Any, torch.ops.aten)  # pyright: ignore[reportUnknownMemberType]

# Floats of a tile: 0.5 MB of them, and what is read beside, stay in the second-level caches of two cores, and the
# allocator need not ask the system for memory, whose first touch costs as much as a pass.
_TILE = 1 << 17

# Tiles into which channels_last tensors are cut at most. More fit the cache better, but every one is a parallel region,
# at the end of which the cores wait for each other: of 1 to 64, 8 was the best on a shared machine.
_MOST_TILES = 8

# Floats of a block of half-precision samples: fewer would be more dispatches than work.
_BLOCK = 1 << 20

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
HALF = (torch.float16, torch.bfloat16)


def is_columns(x: Tensor) -> bool:
    """Whether x is channels_last, in 1 to 3 spatial dimensions, and not NCHW as well."""
    if x.is_contiguous():
        return False
    if x.ndim == 3:
        return x.transpose(1, 2).is_contiguous()
    return x.ndim in _CHANNELS_LAST and x.is_contiguous(memory_format=_CHANNELS_LAST[x.ndim])


def like(g: Tensor, x: Tensor) -> Tensor:
    """Return g in the memory format in which x is walked through."""
    if not is_columns(x):
        return g.contiguous()
    if x.ndim == 3:
        return g.transpose(1, 2).contiguous().transpose(1, 2)
    return g.contiguous(memory_format=_CHANNELS_LAST[x.ndim])


def sums(g: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The sums over the pixels of g x and of g (N, C), at least in float32."""
    samples, channels = x.shape[:2]
    g = like(g, x)
    if is_columns(x):
        if x.dtype in HALF:
            return _block_sums(g, x)
        return _column_sums(g.flatten(2).transpose(1, 2), x.flatten(2).transpose(1, 2))
    rows, pixels = samples * channels, pixel_count(x)
    zeros, ones = _constant_rows(rows, _wide(x), x.device)
    # With mean 0 and rstd 1 the gradients of group norm's weight and bias are the sums.
    _, products, total = aten.native_group_norm_backward(
        g, x.contiguous(), zeros, ones, ones, 1, rows, pixels, rows, [False, True, True]
    )
    return products.view(samples, channels), total.view(samples, channels)


def _block_sums(g: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The sums of channels_last tensors in half precision."""
    size = _block_size(x)
    pairs: list[tuple[Tensor, Tensor]] = []
    for gi, xi in zip(_split(g, size), _split(x, size), strict=True):
        wide = xi.float()
        pairs.append(sums(wide if g is x else gi.float(), wide))
    return torch.cat([products for products, _ in pairs]), torch.cat([total for _, total in pairs])


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


def affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return scale x + shift, as a tensor of its own, not as a view."""
    if is_columns(x):
        return torch.addcmul(spread(shift, x), x, spread(scale, x))
    return standardise_rows(x, scale, shift, *neutral(scale), 0.0)


def standardise_rows(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, eps: float) -> Tensor:
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


def neutral(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean 0 and variance 1 for every row of x (N, C, ...); kept, since filling them takes as long as other steps."""
    return _constant_rows(x.shape[0] * x.shape[1], x.dtype, x.device)


def _split(x: Tensor, size: int, dim: int = 0) -> Sequence[Tensor]:
    return cast(Sequence[Tensor], x.split(size, dim))  # pyright: ignore[reportUnknownMemberType]


def _wide(x: Tensor) -> torch.dtype:
    return torch.float32 if x.dtype in HALF else x.dtype


def _block_size(x: Tensor) -> int:
    """Samples that are converted to float32 at a time."""
    return max(_BLOCK // x[0].numel(), 1)


def rounded(function: Callable[..., Tensor], *tensors: Tensor, wide: bool = False) -> Tensor:
    """Call a function of tensors that have the samples in their first dimension.

    Where the first is channels_last in half precision, or in half precision and `wide` is asked for, that happens in
    float32, block by block, and the result is rounded to it.
    """
    first = tensors[0]
    if first.dtype not in HALF or not (wide or is_columns(first)):
        return function(*tensors)
    result = torch.empty_like(first)
    size = _block_size(first)
    for out, *block in zip(_split(result, size), *(_split(t, size) for t in tensors), strict=True):
        out.copy_(function(*map(at_least_float32, block)))
    return result
