"""How the kernels are launched: sizes as data, chosen in one place from the shape and the device.

The numbers are reasoned for Hopper (H100, H200: 132 SMs, 2048 threads each, 3.35 and 4.8 TB/s) and have not been
tuned by measurement. All kernels are bound by bandwidth, so what counts is that enough loads are in flight: bandwidth
times latency, 4.8 TB/s * 0.8 us / 132 = 29 kB for every SM.
"""

import math
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

_BYTES_IN_FLIGHT = 32 * 1024  # for every SM; see above
_TILE = 4096  # elements of one program's tile: 256 threads with four 16-byte loads each in float32, two in half
_ELEMENTS_PER_WARP = 512
_ROW_PIXELS = 1024  # of contiguous pixels, so that a 56x56 map wastes 6 % of its last block's threads, not half
_ROW_CHANNELS = 64  # of contiguous channels: a whole line of 128 bytes in half precision, two in float32

LARGEST_BATCH = 4096  # every program of the middle walks all samples: beyond this, PyTorch's kernels are the better
LARGEST_MIXTURE = 128  # more would leave less than 16 channels for a tile in registers


@dataclass(frozen=True, kw_only=True)
class PassSettings:
    """One pass over x, by programs that each take tiles of `block_channels` x `block_pixels` of one sample.

    Attributes:
        channels_last: Whether x lies in memory as (N, L, C) rather than as (N, C, L).
        aligned: A power of 2, at most 16, that divides the length of the contiguous dimension; allows wide loads.
        block_channels: Channels of a tile, a power of 2.
        block_pixels: Pixels of a tile, a power of 2.
        blocks_per_split: Tiles that one program of a reduction walks, one after the other.
        splits: Programs that share the pixels of a row in a reduction.
        num_warps: Of 32 threads each.
    """

    channels_last: bool
    aligned: int
    block_channels: int
    block_pixels: int
    blocks_per_split: int
    splits: int
    num_warps: int

    def constants(self) -> dict[str, Any]:
        """What the kernels take as compile-time constants."""
        return {
            "CHANNELS_LAST": self.channels_last,
            "ALIGNED": self.aligned,
            "BLOCK_C": self.block_channels,
            "BLOCK_P": self.block_pixels,
            "num_warps": self.num_warps,
        }


@dataclass(frozen=True, kw_only=True)
class MiddleSettings:
    """The (N, C)- and (N, K)-sized kernels; all sizes are powers of 2, at least 16 where tl.dot wants that.

    Attributes:
        block_samples: Samples of a tile; programs walk all samples tile by tile.
        block_components: K, rounded up.
        block_channels: Channels of one program.
        logit_channels: Channels of a tile of the projection onto the logits.
        num_warps: Of 32 threads each.
        num_stages: Of the loops over samples; 1, since their few rounds are not worth shared memory for loads ahead.
    """

    block_samples: int
    block_components: int
    block_channels: int
    logit_channels: int
    num_warps: int
    num_stages: int

    def constants(self) -> dict[str, Any]:
        """What the kernels take as compile-time constants."""
        return {
            "BLOCK_N": self.block_samples,
            "BLOCK_C": self.block_channels,
            "BLOCK_K": self.block_components,
            "num_warps": self.num_warps,
            "num_stages": self.num_stages,
        }


@lru_cache(maxsize=4096)  # a network calls with the same few hundred shapes, step after step
def pass_settings(
    samples: int,
    channels: int,
    pixels: int,
    *,
    channels_last: bool,
    itemsize: int,
    processors: int,
    splits: int | None = None,
) -> PassSettings:
    """Choose the settings of a pass over x.

    Args:
        samples: N, at least 1.
        channels: C.
        pixels: L, at least 1.
        channels_last: See :class:`PassSettings`.
        itemsize: Bytes of one element of x.
        processors: SMs of the device.
        splits: At most so many programs for the pixels of a row; None: as many as fill the device.
    """
    if channels_last:
        block_channels = min(_power_of_2(channels), _ROW_CHANNELS)
        block_pixels = min(_power_of_2(pixels), _TILE // block_channels)
    else:
        block_pixels = min(_power_of_2(pixels), _ROW_PIXELS)
        # Within a tile the kernels count in int32, so rows that are too long for that have tiles of their own.
        block_channels = min(_power_of_2(channels), _TILE // block_pixels) if pixels < 2**29 else 1
    tile = block_channels * block_pixels
    if splits is None:
        programs = samples * math.ceil(channels / block_channels)
        wanted = processors * max(1, _BYTES_IN_FLIGHT // (tile * itemsize))
        # One program more than fills the device is no reason for a second launch: rounded down.
        splits = max(1, wanted // programs)
    blocks = math.ceil(pixels / block_pixels)
    blocks_per_split = math.ceil(blocks / min(splits, blocks))
    return PassSettings(
        channels_last=channels_last,
        aligned=math.gcd(channels if channels_last else pixels, 16),
        block_channels=block_channels,
        block_pixels=block_pixels,
        blocks_per_split=blocks_per_split,
        splits=math.ceil(blocks / blocks_per_split),
        num_warps=min(max(tile // _ELEMENTS_PER_WARP, 1), 8),
    )


@lru_cache(maxsize=4096)
def middle_settings(samples: int, channels: int, components: int) -> MiddleSettings:
    """Choose the settings of the kernels between the passes; components is K."""
    block_components = max(_power_of_2(components), 16)
    # Every block of channels leaves an (N, K) sum that every program of the next launch reads: few blocks for many
    # channels, but at least a handful of programs for few; and (K, channels) tiles that fit into registers.
    block_channels = min(16 if channels <= 256 else 32 if channels <= 1024 else 64, 2048 // block_components)
    return MiddleSettings(
        block_samples=min(max(_power_of_2(samples), 16), 32),
        block_components=block_components,
        block_channels=block_channels,
        logit_channels=min(_power_of_2(channels), _TILE // block_components),
        num_warps=4,
        num_stages=1,
    )


def processors_of(x: Tensor) -> int:
    """The SMs of x's device; 1 for a CPU, where the interpreter runs one program at a time."""
    return _cuda_processors(x.device.index) if x.is_cuda else 1


@cache
def _cuda_processors(index: int) -> int:
    return torch.cuda.get_device_properties(index).multi_processor_count  # pyright: ignore


def _power_of_2(number: int) -> int:
    """The least power of 2 that is not below the number."""
    return 1 << max(number - 1, 0).bit_length()
