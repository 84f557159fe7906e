"""The passes over x in PyTorch's operations, each against its formula in float64."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from attnorm.layers import eager, memory_formats
from attnorm.layers.activation import Activation

ACTIVATIONS = [None, *(Activation(name, 0.1) for name in ("relu", "relu6", "silu", "hard_swish", "leaky_relu"))]
SHAPES = [(3, 5, 7, 6), (2, 4, 9), (2, 3, 4, 5, 2), (4, 16, 1, 1), (2, 1, 5, 5)]
LAYOUTS = ["contiguous", "channels_last", "strided"]
# float32: sums of some 40 products; half precision: one rounding of a value up to 10.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.04, torch.float16: 0.005}


def lay_out(x: Tensor, layout: str) -> Tensor:
    if layout == "channels_last":
        return x.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "strided":
        return torch.stack([x, x], -1).flatten(-2)[..., ::2]
    return x


def rows(values: Tensor, x: Tensor) -> Tensor:
    return values.double().reshape(*values.shape, *(1,) * (x.ndim - 2))


WHOLE = memory_formats._TILE


@pytest.fixture(params=[WHOLE, 64], ids=["one tile", "tiles"])
def tile(request, monkeypatch):
    """Small tensors in one piece, or cut as large ones are, with a smaller piece left over."""
    monkeypatch.setattr(memory_formats, "_TILE", request.param)
    if request.param != WHOLE:
        monkeypatch.setattr(memory_formats, "_BLOCK", 8)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.usefixtures("tile")
def test_passes_equal_their_formulas(dtype, shape, layout):
    torch.manual_seed(0)
    x = lay_out((torch.randn(shape) * 2 + 1).to(dtype), layout)
    dy = lay_out(torch.randn(shape).to(dtype), "contiguous")
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    scale, shift, dmean, dvar = (torch.randn(shape[:2], dtype=wide) for _ in range(4))
    exact, spatial, pixels, tolerance = x.double(), tuple(range(2, x.ndim)), x[0, 0].numel(), TOLERANCE[dtype]

    mean, var = eager.measure(x)
    sums = 1e-5 if wide is torch.float32 else 1e-12  # statistics are never taken in half precision
    assert_close(mean.double(), exact.mean(spatial), rtol=sums, atol=sums)
    assert_close(var.double(), exact.var(spatial, correction=0), rtol=sums, atol=sums)
    for activation in ACTIVATIONS:
        z = (rows(scale, x) * exact + rows(shift, x)).requires_grad_()
        truth = z if activation is None else activation(z)
        (g,) = torch.autograd.grad(truth, z, dy.double())
        y = eager.apply(x, scale, shift, activation)
        assert y.dtype == dtype
        assert layout == "strided" or y.stride() == x.stride() or x[0].numel() == shape[1]
        assert not y._is_view()  # a network may work in place on what the layer returns
        assert_close(y.double(), truth.detach(), rtol=tolerance, atol=tolerance)

        dcentred, dshift, kept = eager.gradient_sums(dy, x, mean, scale, shift, activation)
        # g is kept in x's dtype, so that each of `pixels` summands carries its rounding.
        summed = tolerance * pixels if activation is not None else sums * pixels
        assert_close(dcentred.double(), (g * (exact - rows(mean, x))).sum(spatial), rtol=summed, atol=4 * summed)
        assert_close(dshift.double(), g.sum(spatial), rtol=summed, atol=summed)
        dx = eager.input_gradient(kept, x, mean, scale, shift, dmean, dvar, activation)
        expected = rows(scale, x) * g + 2 * rows(dvar, x) / pixels * (exact - rows(mean, x)) + rows(dmean, x) / pixels
        assert_close(dx.double(), expected, rtol=2 * tolerance, atol=2 * tolerance)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("ratio", [0.0, 7.0, 9.0, 1e2, 1e4])
def test_moments_where_the_mean_is_far_from_zero(layout, ratio):
    """design.md 2: the sum of squares loses digits; rows in danger are measured again, on both sides of the bound."""
    torch.manual_seed(0)
    x = lay_out(torch.randn(3, 5, 24, 24) + ratio * torch.tensor([-1.0, 1.0, 0.0])[:, None, None, None], layout)
    mean, var = eager.measure(x)
    assert_close(mean.double(), x.double().mean((2, 3)), rtol=1e-6, atol=1e-6)
    # Before the bound of 64 on mean^2 / var, 64 roundings of float32.
    assert_close(var.double(), x.double().var((2, 3), correction=0), rtol=2e-5, atol=0)


def test_constant_rows_have_no_variance():
    x = torch.full((2, 3, 7, 7), 1e4)
    mean, var = eager.measure(x)
    assert_close(mean, torch.full((2, 3), 1e4))
    assert torch.equal(var, torch.zeros(2, 3))


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_what_is_not_finite_stays_in_its_row(value):
    x = torch.randn(2, 3, 7, 7)
    x[1, 2, 3, 3] = value
    mean, var = eager.measure(x)
    assert not mean[1, 2].isfinite()
    assert not var[1, 2].isfinite()
    others = torch.ones(2, 3, dtype=torch.bool)
    others[1, 2] = False
    assert_close(var[others], x.var((2, 3), correction=0)[others])


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_what_is_not_finite_hides_no_cancellation(value):
    """Rows that need a second look get it, whatever stands in others."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 7, 7) + 1e3
    exact = x.double().var((2, 3), correction=0)
    x[1, 2, 3, 3] = value
    _, var = eager.measure(x)
    assert_close(var[0].double(), exact[0], rtol=1e-5, atol=0)
