"""The kernels of the backward pass against autograd in float64."""

import pytest
import torch
from torch.testing import assert_close

from attnorm.layers import reference
from attnorm.layers.activation import Activation
from attnorm.layers.kernels import gradient_sums, input_gradient
from tests.layers.kernels.samples import DEVICE, DTYPES, LAYOUTS, SHAPES, assert_as_exact, draw, lay_out, spread
from tests.layers.kernels.test_moments_and_affine import ACTIVATIONS, SPLIT_SHAPES, settings_of

RELU = Activation("relu")


def rows_for(x):
    """Mean, and made-up scale, shift, and gradients of mean and variance, all (N, C) float32."""
    mean, _ = reference.instance_moments(x)
    return mean, *torch.randn(4, *mean.shape, device=DEVICE)


def by_autograd(dy, x, mean, scale, shift, dmean, dvar, activation):
    """The two sums and dx as autograd finds them, in the dtype of its arguments, from the plain formulas."""
    x = x.detach().requires_grad_()
    scale, shift = scale.detach().requires_grad_(), shift.detach().requires_grad_()
    # sum g (x - m) is the gradient of a scale that multiplies the centred x.
    z = spread(scale, x) * (x - spread(mean, x)) + spread(shift + scale.detach() * mean, x)
    y = z if activation is None else activation(z)
    m, v = reference.instance_moments(x)
    dx, dcentred, dshift = torch.autograd.grad(
        (y, m, v), (x, scale, shift), (dy.to(y.dtype), dmean.to(m.dtype), dvar.to(v.dtype))
    )
    return dcentred, dshift, dx


def assert_gradients(dy, x, activation, settings=None):
    rows = rows_for(x)
    mean, scale, shift, dmean, dvar = rows
    dcentred, dshift, g = gradient_sums(dy, x, mean, scale, shift, activation, settings)
    dx = input_gradient(g, x, mean, scale, shift, dmean, dvar, activation, settings)
    plain = by_autograd(dy.float(), x.float(), *rows, activation)
    truth = by_autograd(dy.double(), x.double(), *(r.double() for r in rows), activation)
    for ours, theirs, exact in zip((dcentred, dshift), plain[:2], truth[:2], strict=True):
        assert_as_exact(ours, theirs, exact)
    assert_as_exact(dx, plain[2].to(x.dtype), truth[2])
    return dcentred, dshift, dx


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values(shape, layout, dtype):
    torch.manual_seed(0)
    x = draw(shape, layout, dtype, mean=1.0)
    *_, dx = assert_gradients(draw(shape, layout, dtype), x, RELU)
    assert dx.stride() == x.stride()


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_activations(activation):
    torch.manual_seed(0)
    assert_gradients(draw((2, 3, 5, 5)), draw((2, 3, 5, 5)) * 3, activation)


@pytest.mark.parametrize("dy_layout", ["contiguous", "channels_last", "sliced", "transposed", "expanded"])
@pytest.mark.parametrize("x_layout", ["contiguous", "channels_last", "sliced", "transposed"])
def test_gradient_in_another_layout_than_x(x_layout, dy_layout):
    """What comes from above has any layout: that of a sum has strides of 0."""
    torch.manual_seed(0)
    assert_gradients(draw((2, 6, 3, 5), dy_layout), draw((2, 6, 3, 5), x_layout), RELU)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_splits_agree_with_one_program_and_repeat_to_the_bit(layout):
    runs = []
    for splits in (1, 3, 3):
        torch.manual_seed(0)
        x = draw(SPLIT_SHAPES[layout], layout)
        runs.append(assert_gradients(draw(x.shape, layout), x, RELU, settings_of(x, splits)))
    assert all(torch.equal(a, b) for a, b in zip(runs[1], runs[2], strict=True))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sums_far_from_zero(layout):
    """|mean|/std = 1e4, no activation: sum g x would lose four digits, sum g (x - m) loses what m was rounded by."""
    torch.manual_seed(0)
    x, dy = draw((2, 3, 9, 9), layout, mean=1e4), draw((2, 3, 9, 9), layout)
    mean, _ = reference.instance_moments(x)
    scale, shift = torch.randn(2, 2, 3, device=DEVICE)
    dcentred, dshift, _ = gradient_sums(dy, x, mean, scale, shift, None)
    centred = dy.double() * (x.double() - spread(mean.double(), x))
    assert_as_exact(dcentred, centred.float().sum((2, 3)), centred.sum((2, 3)), roundings=16)
    assert_as_exact(dshift, dy.sum((2, 3)), dy.double().sum((2, 3)), roundings=16)


def test_non_finite_gradients_propagate():
    """A NaN in dy or x reaches the sums and dx of its own row only; relu blocks it where its input is negative."""
    x = torch.ones(2, 2, 3, 3, device=DEVICE)
    dy = torch.ones_like(x)
    dy[0, 0, 1, 1], x[1, 1, 0, 0] = float("nan"), float("nan")
    x[0, 1], dy[0, 1, 0, 0] = -1.0, float("inf")
    rows = torch.ones(2, 2, device=DEVICE)
    zeros = torch.zeros_like(rows)
    for layout in LAYOUTS:
        dcentred, dshift, g = gradient_sums(dy, lay_out(x, layout), zeros, rows, zeros, RELU)
        assert dcentred.isnan().tolist() == [[True, False], [False, True]]
        assert dshift.tolist()[0][1] == 0
        dx = input_gradient(g, lay_out(x, layout), zeros, rows, zeros, zeros, zeros, RELU)
        assert dx.isnan().nonzero().tolist() == [[0, 0, 1, 1], [1, 1, 0, 0]]


def test_empty_batch():
    empty, rows = torch.empty(0, 3, 4, 4, device=DEVICE), torch.empty(0, 3, device=DEVICE)
    dcentred, dshift, g = gradient_sums(empty, empty, rows, rows, rows, RELU)
    assert_close(dcentred, rows)
    assert_close(dshift, rows)
    assert input_gradient(g, empty, rows, rows, rows, rows, rows, RELU).shape == empty.shape
