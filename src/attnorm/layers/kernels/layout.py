"""Where x lies in memory: (N, C, L), or (N, L, C) for channels_last, with all spatial dimensions taken as one, L.

One set of kernels serves both. A program takes a tile of channels x pixels of one sample; which of the two is
contiguous is a compile-time constant, from which Triton derives how threads share the tile's loads.
"""
# pyright: basic, reportPrivateImportUsage=false, reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# Triton's language has no types that a checker could follow.

import torch
import triton
import triton.language as tl
from torch import Tensor

from attnorm.layers.kernels.launch import PassSettings, pass_settings, processors_of
from attnorm.layers.reference import pixel_count


def is_channels_last(x: Tensor) -> bool:
    """Whether x (N, C, *spatial) is dense with its channels contiguous, and not dense in the ordinary order."""
    return not x.is_contiguous() and x.movedim(1, -1).is_contiguous()


def dense(x: Tensor) -> Tensor:
    """Return x, or where it has gaps or another order, a copy in the dense layout nearest to its own."""
    if x.is_contiguous() or is_channels_last(x):
        return x
    spatial = [stride for size, stride in zip(x.shape[2:], x.stride()[2:], strict=True) if size > 1]
    if x.shape[1] > 1 and 0 < x.stride(1) < min(spatial, default=0):
        return x.movedim(1, -1).contiguous().movedim(-1, 1)
    return x.contiguous()


def laid_out_like(x: Tensor, values: Tensor) -> Tensor:
    """Return values, of x's shape, in the layout of the dense tensor x; a copy where they have another."""
    if values.stride() == x.stride():
        return values
    return torch.empty_like(x, dtype=values.dtype).copy_(values)


def settings_for(x: Tensor) -> PassSettings:
    """The launch settings of a pass over the dense tensor x (N, C, *spatial), which is not empty."""
    return pass_settings(
        x.shape[0],
        x.shape[1],
        pixel_count(x),
        channels_last=is_channels_last(x),
        itemsize=x.element_size(),
        processors=processors_of(x),
    )


def interpreted() -> bool:
    """Whether the kernels run through Triton's interpreter; settled when they are declared, at import."""
    return not isinstance(locate, triton.JITFunction)


@triton.jit
def locate(program, channels, parts, BLOCK_C: tl.constexpr):
    """Split a program's number into its sample, its part of the pixels and its first channel.

    Blocks of channels run fastest, so that neighbouring programs read neighbouring memory in channels_last.
    """
    blocks = tl.cdiv(channels, BLOCK_C)
    rest = program // blocks
    return rest // parts, rest % parts, (program % blocks) * BLOCK_C


@triton.jit
def tile_start(sample, channel, pixel, channels, pixels, CHANNELS_LAST: tl.constexpr, ALIGNED: tl.constexpr):
    """Offset of one element from the start of x, in int64: x may have more than 2^31 elements."""
    # Dividing and multiplying changes nothing, but tells the compiler what divides the product.
    row = ((channels if CHANNELS_LAST else pixels) // ALIGNED) * ALIGNED
    other = pixels if CHANNELS_LAST else channels
    start = sample.to(tl.int64) * other * row
    if CHANNELS_LAST:
        return start + pixel.to(tl.int64) * row + channel
    return start + channel.to(tl.int64) * row + pixel


@triton.jit
def tile(
    sample,
    first_channel,
    block,
    channels,
    pixels,
    CHANNELS_LAST: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Offsets into x and mask, (BLOCK_C, BLOCK_P), of the tile at a channel and a block of pixels of a sample."""
    first_pixel = block.to(tl.int64) * BLOCK_P
    channel, pixel = tl.arange(0, BLOCK_C), tl.arange(0, BLOCK_P)
    # Within a tile int32 suffices: `pass_settings` sees to that.
    if CHANNELS_LAST:
        row = (channels // ALIGNED) * ALIGNED
        inside = channel[:, None] + pixel[None, :] * row
        mask = (first_channel + channel < row)[:, None] & (first_pixel + pixel < pixels)[None, :]
    else:
        row = (pixels // ALIGNED) * ALIGNED
        inside = channel[:, None] * row + pixel[None, :]
        mask = (first_channel + channel < channels)[:, None] & (first_pixel + pixel < row)[None, :]
    start = tile_start(sample, first_channel, first_pixel, channels, pixels, CHANNELS_LAST, ALIGNED)
    return start + inside, mask
