"""Inputs and the bar for the tests of the kernels."""

import torch
from torch import Tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# One tile and several, odd sizes, one pixel, one channel; (1, 2, 40, 30) has two blocks of pixels in NCHW.
SHAPES = [(2, 17, 7, 7), (2, 3, 3, 5), (3, 4, 1, 1), (2, 1, 7, 7), (2, 5, 9), (2, 3, 2, 3, 5), (1, 2, 40, 30)]
LAYOUTS = ["contiguous", "channels_last"]


def lay_out(x: Tensor, layout: str) -> Tensor:
    """The same values in another place in memory."""
    if layout == "channels_last":
        return x.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "sliced":
        return torch.stack([x, x + 1], -1).flatten(-2)[..., ::2]
    if layout == "sliced channels_last":
        return lay_out(torch.cat([x, x + 1], 1), "channels_last")[:, : x.shape[1]]
    if layout == "transposed":
        return x.transpose(-1, -2).contiguous().transpose(-1, -2)
    if layout == "expanded":  # what the gradient of a sum is
        return x[..., :1].expand_as(x)
    assert layout == "contiguous"
    return x.contiguous()


def draw(shape: tuple[int, ...], layout: str = "contiguous", dtype: torch.dtype = torch.float32, mean: float = 0.0):
    return lay_out((torch.randn(shape, device=DEVICE) + mean).to(dtype), layout)


def spread(rows: Tensor, x: Tensor) -> Tensor:
    return rows.reshape(*rows.shape, *(1,) * (x.ndim - 2))


def assert_as_exact(actual: Tensor, plain: Tensor, truth: Tensor, roundings: float = 4.0) -> None:
    """The error may be twice that of plain PyTorch in the same precision, plus a floor.

    Args:
        actual: What the kernel made.
        plain: What PyTorch's operations make of the same inputs.
        truth: The same in float64.
        roundings: The floor, in roundings of the largest value. 4 in float32: sums of squares and products in another
            order. In half precision one is enough, or for bfloat16 in the interpreter, which truncates where devices
            round, two.
    """
    assert actual.shape == truth.shape
    assert actual.dtype == plain.dtype
    if actual.dtype is not torch.float32:
        roundings = 2.0 if actual.dtype is torch.bfloat16 and not actual.is_cuda else 1.0
    error, allowed = (values.double().sub(truth).abs().max().item() for values in (actual, plain))
    floor = roundings * torch.finfo(actual.dtype).eps / 2 * truth.abs().max().item()
    assert error <= 2 * allowed + floor, f"error {error:.3g}; PyTorch's {allowed:.3g}, floor {floor:.3g}"
