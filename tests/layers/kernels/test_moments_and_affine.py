"""The kernels of the forward pass against the definition in float64."""

import pytest
import torch
from torch.testing import assert_close

from attnorm.layers import reference
from attnorm.layers.activation import Activation
from attnorm.layers.kernels import apply, measure
from attnorm.layers.kernels.launch import pass_settings
from tests.layers.kernels.samples import DEVICE, DTYPES, LAYOUTS, SHAPES, assert_as_exact, draw, lay_out

# Rows that three programs share, the last of them with fewer pixels: four blocks of 1024, or five of 64, and a rest.
SPLIT_SHAPES = {"contiguous": (1, 2, 60, 70), "channels_last": (1, 70, 20, 19)}
ACTIVATIONS = [None, *map(Activation, ("relu", "relu6", "silu", "hard_swish")), Activation("leaky_relu", 0.1)]


def assert_measured(x):
    mean, var = measure(x)
    plain_mean, plain_var = reference.instance_moments(x)
    true_mean, true_var = reference.instance_moments(x.double())
    assert mean.dtype is var.dtype is torch.float32
    assert_as_exact(mean, plain_mean, true_mean)
    assert_as_exact(var, plain_var, true_var)


def assert_applied(x, activation):
    scale, shift = torch.randn(2, *x.shape[:2], device=DEVICE)
    y = apply(x, scale, shift, activation)
    plain = reference.affine(x, scale, shift)
    truth = reference.affine(x.double(), scale.double(), shift.double())
    if activation is not None:
        plain, truth = activation(plain), activation(truth)
    assert_as_exact(y, plain, truth)
    return y


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values(shape, layout, dtype):
    torch.manual_seed(0)
    x = draw(shape, layout, dtype, mean=1.0)
    assert_measured(x)
    y = assert_applied(x, Activation("relu"))
    assert y.stride() == x.stride()


@pytest.mark.parametrize("layout", ["sliced", "sliced channels_last", "transposed", "expanded"])
def test_strided_input(layout):
    """Inputs with gaps, repeats or another order are made dense; y has the memory format that x is nearest to."""
    torch.manual_seed(0)
    x = draw((2, 6, 3, 5), layout)
    assert_measured(x)
    y = assert_applied(x, None)
    assert y.is_contiguous(
        memory_format=torch.channels_last if layout == "sliced channels_last" else torch.contiguous_format
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_activations(activation, dtype):
    torch.manual_seed(0)
    assert_applied(draw((2, 3, 5, 5), dtype=dtype) * 4, activation)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("splits", [1, 2])
def test_variance_far_from_zero(layout, splits):
    """|mean|/std = 1e4: mean of squares minus squared mean has no correct digit in float32."""
    torch.manual_seed(0)
    x = draw((2, 3, 50, 60), layout, mean=1e4)
    mean, var = measure(x, settings_of(x, splits))
    true_mean, true_var = reference.instance_moments(x.double())
    assert_close(mean.double(), true_mean, rtol=1e-7, atol=0)
    # Splits are combined through float32 means, each off by up to 6e-8 * 1e4 = 6e-4 standard deviations. That times
    # twice the distance of the splits' means, about 2/sqrt(L) = 0.04, is what the variance may be off by.
    assert_close(var.double(), true_var, rtol=1e-6 if splits == 1 else 5e-5, atol=0)


def settings_of(x, splits):
    return pass_settings(
        x.shape[0],
        x.shape[1],
        x[0, 0].numel(),
        channels_last=not x.is_contiguous(),
        itemsize=x.element_size(),
        processors=1,
        splits=splits,
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_splits_agree_with_one_program_and_repeat_to_the_bit(layout):
    torch.manual_seed(0)
    x = draw(SPLIT_SHAPES[layout], layout, mean=3.0)
    whole = measure(x, settings_of(x, 1))
    settings = settings_of(x, 3)
    assert settings.splits == 3
    split = measure(x, settings)
    for ours, theirs in zip(split, whole, strict=True):
        assert_close(ours, theirs, rtol=1e-6, atol=0)  # some ten roundings of positive sums
    assert all(torch.equal(a, b) for a, b in zip(split, measure(x, settings), strict=True))


def test_constant_input_has_variance_zero():
    x = torch.full((2, 3, 33, 37), 0.1, device=DEVICE)
    for layout in LAYOUTS:
        for splits in (1, 2):
            mean, var = measure(lay_out(x, layout), settings_of(lay_out(x, layout), splits))
            assert torch.equal(var, torch.zeros_like(var))
            assert torch.equal(mean, x[:, :, 0, 0])


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")  # the interpreter's NumPy; meant here
def test_extremes_of_half_precision():
    """The squares of 65504 and of the least subnormal are finite and not 0 in float32; y overflows as PyTorch's."""
    big = torch.tensor([65504.0, -65504.0, 65504.0, 0.0], dtype=torch.float16, device=DEVICE).view(1, 1, 2, 2)
    small = torch.tensor([0.0, 6e-8, 1.2e-7, 0.0], dtype=torch.float16, device=DEVICE).view(1, 1, 2, 2)
    x = torch.cat([big, small], 1)
    assert_measured(x)
    assert (measure(x)[1] > 0).all()
    scale, shift = torch.tensor([[2.0, 1e5]], device=DEVICE), torch.zeros(1, 2, device=DEVICE)
    y = apply(x, scale, shift, None)
    assert torch.isinf(y).sum() == 3
    assert_close(y, reference.affine(x, scale, shift))


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # the interpreter's NumPy; meant here
def test_infinities_and_nan_propagate():
    """As in the definition: a row with either has no finite variance, and its neighbours do not notice."""
    x = torch.randn(3, 2, 3, 3, device=DEVICE)
    x[0, 0, 1, 1], x[1, 1, 0, 0], x[2, 0, 2, 2] = float("inf"), float("-inf"), float("nan")
    for layout in LAYOUTS:
        mean, var = measure(lay_out(x, layout))
        plain_mean, plain_var = reference.instance_moments(x)
        assert torch.equal(mean.isfinite(), plain_mean.isfinite())
        assert torch.equal(var.isfinite(), plain_var.isfinite())
    scale, shift = torch.randn(2, 3, 2, device=DEVICE)
    for activation in ACTIVATIONS:
        y, plain = apply(x, scale, shift, activation), reference.affine(x, scale, shift)
        assert_close(y, plain if activation is None else activation(plain), equal_nan=True)


def test_nothing_to_do():
    """An empty batch makes empty results; maps without pixels have no mean."""
    empty = torch.empty(0, 3, 4, 4, device=DEVICE)
    rows = torch.empty(0, 3, device=DEVICE)
    assert [tuple(t.shape) for t in measure(empty)] == [(0, 3), (0, 3)]
    assert apply(empty, rows, rows, None).shape == empty.shape
    mean, var = measure(torch.empty(2, 3, 0, 4, device=DEVICE))
    assert mean.isnan().all()
    assert var.isnan().all()
