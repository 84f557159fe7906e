"""The affine pass, with the activation: y = act(scale * x + shift).

Reads x once and writes y once, in x's dtype; scale and shift are 8 bytes for every row of L pixels. In float32 at
4.8 TB/s a (32, 64, 56, 56) tensor takes 11 us at best.
"""
# pyright: basic, reportPrivateImportUsage=false, reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# Triton's language has no types that a checker could follow.

import torch
import triton
import triton.language as tl
from torch import Tensor

from attnorm.layers.activation import Activation
from attnorm.layers.kernels.activate import activate, constants
from attnorm.layers.kernels.launch import PassSettings
from attnorm.layers.kernels.layout import dense, locate, settings_for, tile
from attnorm.layers.reference import pixel_count


@triton.jit
def _apply_kernel(
    x_ptr,  # (N, C, L) or (N, L, C)
    scale_ptr,  # (N, C) float32
    shift_ptr,  # (N, C) float32
    y_ptr,  # as x
    channels,
    pixels,
    slope,
    ACTIVATION: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    sample, block, first_channel = locate(tl.program_id(0), channels, tl.cdiv(pixels, BLOCK_P), BLOCK_C)
    offsets, mask = tile(sample, first_channel, block, channels, pixels, CHANNELS_LAST, ALIGNED, BLOCK_C, BLOCK_P)
    channel = first_channel + tl.arange(0, BLOCK_C)
    row = sample.to(tl.int64) * channels + channel
    scale = tl.load(scale_ptr + row, mask=channel < channels, other=0.0)[:, None]
    shift = tl.load(shift_ptr + row, mask=channel < channels, other=0.0)[:, None]
    x = tl.load(x_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    y = activate(tl.fma(x, scale, shift), slope, ACTIVATION)
    tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask=mask)


def apply(
    x: Tensor, scale: Tensor, shift: Tensor, activation: Activation | None, settings: PassSettings | None = None
) -> Tensor:
    """Return `act(scale * x + shift)` in x's dtype and memory format.

    Args:
        x: (N, C, *spatial); float32, float16 or bfloat16.
        scale: (N, C) float32.
        shift: (N, C) float32.
        activation: None for none.
        settings: As in :func:`attnorm.layers.kernels.moments.measure`.
    """
    x = dense(x)
    y = torch.empty_like(x)
    if not x.numel():
        return y
    settings = settings or settings_for(x)
    channels, pixels = x.shape[1], pixel_count(x)
    name, slope = constants(activation)
    programs = triton.cdiv(channels, settings.block_channels) * triton.cdiv(pixels, settings.block_pixels)
    with torch.cuda.device_of(x):
        _apply_kernel[(x.shape[0] * programs,)](
            x,
            scale.contiguous(),
            shift.contiguous(),
            y,
            channels,
            pixels,
            slope,
            ACTIVATION=name,
            **settings.constants(),
        )
    return y
