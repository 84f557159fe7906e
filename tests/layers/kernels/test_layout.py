"""Where the kernels look in memory, and how they are launched."""

import pytest
import torch
import triton
import triton.language as tl

from attnorm.layers.kernels import launch, layout, obstacle
from attnorm.layers.kernels.launch import middle_settings, pass_settings
from tests.layers.kernels.samples import DEVICE, draw


@triton.jit
def _start_kernel(
    out_ptr, sample, channel, pixel, channels, pixels, CHANNELS_LAST: tl.constexpr, ALIGNED: tl.constexpr
):
    program = tl.program_id(0)  # 0: as in the kernels, the indices are tensors
    start = layout.tile_start(
        sample + program, channel + program, pixel + program, channels, pixels, CHANNELS_LAST, ALIGNED
    )
    tl.store(out_ptr, start)


@triton.jit
def _tile_kernel(
    out_ptr, sample, channel, block, channels, pixels,
    CHANNELS_LAST: tl.constexpr, ALIGNED: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    offsets, mask = layout.tile(
        sample + program, channel, block + program, channels, pixels, CHANNELS_LAST, ALIGNED, BLOCK_C, BLOCK_P
    )
    at = tl.arange(0, BLOCK_C)[:, None] * BLOCK_P + tl.arange(0, BLOCK_P)[None, :]
    tl.store(out_ptr + at, tl.where(mask, offsets, -1))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("sample", "channel", "pixel", "channels", "pixels"),
    [
        (3000, 500, 3000, 512, 3136),  # the sample alone leads beyond 2^31
        (0, 60, 50_000_000, 64, 60_000_000),  # the channel, or in channels_last the pixel, does
        (1, 1, 7, 3, 2_000_000_000),
    ],
)
def test_offsets_beyond_int32(sample, channel, pixel, channels, pixels, channels_last):
    """A tensor with more than 2^31 elements: 32-bit products would wrap around to another place in it.

    The arithmetic of the kernels is run by itself, since the interpreter would take hours for such a tensor.
    """
    out = torch.zeros(1, dtype=torch.int64, device=DEVICE)
    _start_kernel[(1,)](
        out, sample, channel, pixel, channels, pixels, CHANNELS_LAST=channels_last, ALIGNED=1 if channels == 3 else 16
    )
    inside = pixel * channels + channel if channels_last else channel * pixels + pixel
    expected = sample * channels * pixels + inside
    assert expected > 2**31
    assert out.item() == expected


@pytest.mark.parametrize("channels_last", [False, True])
def test_tile_beyond_int32(channels_last):
    """The last tile of a tensor of 2.5 * 2^31 elements: right offsets inside, nothing outside."""
    samples, channels, pixels = 5, 40, 2**31 // 80 + 3
    block_c, block_p = 16, 8
    block = (pixels - 1) // block_p
    out = torch.zeros(block_c, block_p, dtype=torch.int64, device=DEVICE)
    _tile_kernel[(1,)](
        out, samples - 1, 32, block, channels, pixels,
        CHANNELS_LAST=channels_last, ALIGNED=1, BLOCK_C=block_c, BLOCK_P=block_p,
    )  # fmt: skip
    for i in range(block_c):
        for j in range(block_p):
            c, p = 32 + i, block * block_p + j
            offset = p * channels + c if channels_last else c * pixels + p
            inside = c < channels and p < pixels
            assert out[i, j].item() == ((samples - 1) * channels * pixels + offset if inside else -1)


@pytest.mark.skipif(DEVICE == "cpu", reason="the interpreter would take hours")
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_tensor_with_more_than_2_31_elements(channels_last):
    """The whole layer on 4.3 GB of float16; checked on the last sample, which lies beyond 2^31 elements."""
    from attnorm.layers import reference
    from attnorm.layers.kernels import apply, gradient_sums, input_gradient, measure

    shape = (33, 64, 1024, 1024)
    format = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.empty(shape, dtype=torch.float16, device=DEVICE, memory_format=format).normal_()
    mean, var = measure(x)
    plain_mean, plain_var = reference.instance_moments(x[-1:])
    torch.testing.assert_close(mean[-1:], plain_mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(var[-1:], plain_var, rtol=1e-5, atol=0)
    scale, shift = torch.randn(2, *shape[:2], device=DEVICE)
    y = apply(x, scale, shift, None)
    torch.testing.assert_close(y[-1:], reference.affine(x[-1:], scale[-1:], shift[-1:]))
    dcentred, dshift, _ = gradient_sums(y, x, mean, scale, shift, None)
    last = [t[-1:] for t in (y, x, mean, scale, shift)]
    alone = gradient_sums(*last, None)
    torch.testing.assert_close(dcentred[-1:], alone[0], rtol=1e-4, atol=1.0)  # sums of 2^20 terms near 1
    torch.testing.assert_close(dshift[-1:], alone[1], rtol=1e-4, atol=1.0)
    dx = input_gradient(y, x, mean, scale, shift, mean, var, None)
    torch.testing.assert_close(dx[-1:], input_gradient(*last, mean[-1:], var[-1:], None))


def test_dense_layouts_are_taken_as_they_are():
    """No copy of what is dense; the copy of anything else keeps the order of channels and pixels."""
    x = draw((2, 4, 3, 5))
    columns = x.to(memory_format=torch.channels_last)
    assert layout.dense(x) is x
    assert layout.dense(columns) is columns
    assert layout.is_channels_last(columns)
    assert not layout.is_channels_last(x)
    assert layout.dense(x[:, :, ::2]).is_contiguous()
    assert layout.is_channels_last(layout.dense(columns[:, :, ::2]))
    assert layout.is_channels_last(x[0].permute(2, 1, 0).contiguous().transpose(1, 2))  # 3-D
    assert not layout.is_channels_last(x[:, :1].to(memory_format=torch.channels_last))  # one channel is both


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (2, 17, 49), (32, 64, 3136), (1, 2048, 49), (1, 3, 800 * 1333), (1, 3, 2**30)]
)
def test_settings_cover_every_pixel_once(shape, channels_last):
    """Tiles are powers of 2 that threads can hold; the splits of a row take all of its blocks, none of them idle."""
    _, channels, pixels = shape
    settings = pass_settings(*shape, channels_last=channels_last, itemsize=2, processors=132)
    tile = settings.block_channels * settings.block_pixels
    assert tile & (tile - 1) == 0
    assert tile <= 4096
    blocks = -(-pixels // settings.block_pixels)
    assert settings.splits * settings.blocks_per_split >= blocks
    assert (settings.splits - 1) * settings.blocks_per_split < blocks
    assert (channels if channels_last else pixels) % settings.aligned == 0
    # Within a tile the kernels count in int32.
    rows, row = (settings.block_pixels, channels) if channels_last else (settings.block_channels, pixels)
    assert (rows - 1) * row + tile < 2**31
    if shape == (1, 3, 800 * 1333):
        assert settings.splits > 1  # three rows would leave the device idle
    if shape == (1, 2048, 49):
        assert settings.splits == 1  # a single block each


def test_middle_settings_fit_the_registers():
    for components in (1, 10, 20, 33, launch.LARGEST_MIXTURE):
        for channels in (1, 64, 500, 2048):
            settings = middle_settings(256, channels, components)
            assert settings.block_components >= components
            assert settings.block_components * settings.block_channels <= 2048
            assert min(settings.block_samples, settings.block_components, settings.block_channels) >= 16  # tl.dot


def test_obstacle_names_the_reason():
    x = draw((2, 3, 4))
    assert obstacle(x) is None
    assert obstacle(x.to("meta")) == "a tensor on meta is not on a CUDA device"
    assert obstacle(x.double()) == "torch.float64 is not float32, float16 or bfloat16"
    assert obstacle(x[0]) == "a 2-D tensor has no spatial dimension"


def test_obstacle_is_a_constant_to_the_compiler():
    """Asking inside of compiled code neither breaks the graph nor looks for packages again."""
    torch.compiler.reset()

    def served(x):
        return x + 1 if obstacle(x) is None else x - 1

    compiled = torch.compile(served, fullgraph=True, backend="eager")
    x = draw((1, 1, 1))
    assert torch.equal(compiled(x), x + 1)
    assert torch.equal(compiled(x.double()), x.double() - 1)
