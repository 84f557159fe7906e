"""The middle's kernels against the same formulas in float64, which tests/layers/test_coefficients.py checks."""

import pytest
import torch
from torch.testing import assert_close

from attnorm.layers import coefficients as pytorch
from attnorm.layers.kernels import coefficients, coefficients_backward, middle
from attnorm.layers.kernels.launch import LARGEST_BATCH, LARGEST_MIXTURE
from attnorm.layers.middle import Options, Parameters, Statistics
from tests.layers.kernels.samples import DEVICE, assert_as_exact

# N, C, K: two blocks of channels and one of samples; three of samples; one of each.
SIZES = [(5, 20, 3), (70, 17, 4), (2, 1, 1)]
# gate, logit norm, groups (0: batch), running statistics given
CASES = [
    ("hard_sigmoid", "batch", 0, False),
    ("hard_sigmoid", "batch", 0, True),
    ("sigmoid", "batch", 0, False),
    ("softmax", "batch", 0, False),
    ("sigmoid", "layer", 0, False),
    ("softmax", "layer", 0, True),
    ("hard_sigmoid", None, 0, True),
    ("softmax", None, 0, False),
    ("hard_sigmoid", None, 5, False),
    ("sigmoid", "layer", 1, False),
    ("softmax", "batch", 20, False),
    ("hard_sigmoid", "batch", 4, True),
    ("hard_sigmoid", "group", 0, False),  # served by PyTorch's operations
]


def draw(sizes, gate, logit_norm, groups, running, ratio=1.0):
    """Moments, parameters, given statistics, options, and gradients of the sums; float32."""
    samples, channels, components = sizes
    torch.manual_seed(0)

    def rand(*shape):
        return torch.rand(shape, device=DEVICE) + 0.5

    def randn(*shape):
        return torch.randn(shape, device=DEVICE)

    parameters = Parameters(
        randn(components, channels),
        randn(components, channels),
        randn(components, channels) / channels**0.5,
        randn(components) if logit_norm is None else None,
        None if logit_norm is None else rand(components),
        None if logit_norm is None else randn(components),
    )
    mu = (randn(channels) + ratio, rand(channels)) if running and not groups else (None, None)
    logit = (randn(components), rand(components)) if running and logit_norm == "batch" else (None, None)
    given = Statistics(*mu, *logit)
    options = Options(9, 1e-5, 1e-3, gate, logit_norm, 3 if logit_norm == "group" else 1, 1e-5, groups)
    moments = randn(samples, channels) + ratio - 1, rand(samples, channels)
    return moments, parameters, given, options, (randn(samples, channels), randn(samples, channels))


def wide(tensors):
    return [None if t is None else t.double() for t in tensors]


def everything(module, moments, parameters, given, options, sums):
    """Coefficients, statistics and all gradients, in one flat list."""
    made = module.coefficients(*moments, parameters, given, options)
    pooled, logit_pooled = given.mean is None, given.logit_mean is None
    gradients = module.coefficients_backward(*sums, *moments, made, parameters, options, pooled, logit_pooled)
    return [*made[:4], *made.statistics, gradients.mean, gradients.var, *gradients.parameters]


def assert_middle(case):
    moments, parameters, given, options, sums = case
    ours = everything(middle, *case)
    plain = everything(pytorch, *case)
    truth = everything(
        pytorch, wide(moments), Parameters(*wide(parameters)), Statistics(*wide(given)), options, wide(sums)
    )
    for actual, low, exact in zip(ours, plain, truth, strict=True):
        assert (actual is None) == (exact is None)
        if actual is not None:
            # Several products in a row, sums in another order, and rsqrt that is off by up to two roundings.
            assert_as_exact(actual, low, exact, roundings=16)
    return ours


@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients(case):
    assert_middle(draw(SIZES[0], *case))


@pytest.mark.parametrize("sizes", SIZES[1:], ids=str)
def test_sizes(sizes):
    """More samples than a tile has, with a rest; a single channel and component."""
    assert_middle(draw(sizes, "hard_sigmoid", "batch", 0, False))


def test_groups_far_from_zero_and_of_many_channels():
    """Group statistics are centred before squaring: |mean|/std = 1e4 leaves the group's variance its digits."""
    moments, parameters, given, options, _ = draw((2, 24, 3), "sigmoid", None, 2, False, ratio=1e4)
    made = coefficients(*moments, parameters, given, options)
    grouped = [m.double().view(2, 2, 12) for m in moments]
    mu = grouped[0].mean(2, keepdim=True)
    sigma2 = (grouped[1] + (grouped[0] - mu).square()).mean(2, keepdim=True).expand(2, 2, 12).reshape(2, 24)
    # mu is rounded by 6e-8 * 1e4 = 6e-4 standard deviations, whose square is added to the variance.
    assert_close(made.statistics.var.double(), sigma2, rtol=1e-6, atol=1e-6)


def test_saturated_and_flat_gates():
    """Logits far beyond the gate: lambda is exactly 0 or 1 for hard sigmoid, and no gradient goes through."""
    moments, parameters, given, options, sums = draw((4, 5, 3), "hard_sigmoid", None, 0, False)
    far = parameters._replace(logit_bias=torch.tensor([99.0, -99.0, 99.0], device=DEVICE))
    made = coefficients(*moments, far, given, options)
    assert made.weights.tolist() == [[1.0, 0.0, 1.0]] * 4
    gradients = coefficients_backward(*sums, *moments, made, far, options, True, True)
    assert not gradients.parameters.logit_weight.any()
    assert not gradients.parameters.logit_bias.any()


def test_softmax_of_very_negative_logits():
    """The largest of the K logits is subtracted, not the zeros that a tile has beyond them."""
    moments, parameters, given, options, _ = draw((4, 5, 3), "softmax", None, 0, False)
    far = parameters._replace(logit_bias=torch.full((3,), -200.0, device=DEVICE))
    shifted = coefficients(*moments, far, given, options).weights
    # Logits near -200 are rounded by 1.5e-5 at most, which changes lambda by as much.
    plain = parameters._replace(logit_bias=torch.zeros(3, device=DEVICE))
    assert_close(shifted, coefficients(*moments, plain, given, options).weights, rtol=0, atol=3e-5)


@pytest.mark.parametrize(("logit_norm", "groups"), [("batch", 0), ("layer", 0)])
def test_logit_bias_in_front_of_a_norm(logit_norm, groups):
    """The norm takes the mean of the bias out again: over the batch no gradient is left, over the components some."""
    moments, parameters, given, options, sums = draw((5, 20, 3), "sigmoid", logit_norm, groups, False)
    case = (moments, parameters._replace(logit_bias=torch.randn(3, device=DEVICE)), given, options, sums)
    bias, low = everything(middle, *case)[13], everything(pytorch, *case)[13]
    scale = everything(middle, *case)[15].abs().max().item()  # of the norm's own bias
    # Five gradients of that size, whose sum cancels, each rounded a few times.
    assert_close(bias, low, rtol=0, atol=1e-5 * scale)
    assert (bias.abs().max() < 1e-5 * scale) == (logit_norm == "batch")


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # the interpreter's NumPy; meant here
@pytest.mark.parametrize("gate", ["hard_sigmoid", "sigmoid", "softmax"])
def test_nan_stays_in_its_sample(gate):
    """Without statistics over the batch, a sample with NaN makes its own coefficients NaN, all others finite."""
    (mean, var), parameters, given, options, _ = draw((3, 5, 3), gate, None, 5, False)
    mean[1, 2] = float("nan")
    made = coefficients(mean, var, parameters, given, options)
    plain = pytorch.coefficients(mean, var, parameters, given, options)
    for ours, theirs in zip(made[:4], plain[:4], strict=True):
        assert torch.equal(ours.isnan(), theirs.isnan())


def test_half_precision_parameters_and_repeats():
    """Parameters in half precision are read as they are; gradients are float32; two runs agree to the bit."""
    moments, parameters, given, options, sums = draw((5, 20, 3), "hard_sigmoid", "batch", 0, False)
    half = Parameters(*(None if p is None else p.half() for p in parameters))
    rounded = Parameters(*(None if p is None else p.float() for p in half))
    runs = [everything(middle, moments, p, given, options, sums) for p in (half, rounded, half)]
    for results in zip(*runs, strict=True):
        if results[0] is not None:
            assert results[0].dtype is torch.float32
            assert torch.equal(results[0], results[1])
            assert torch.equal(results[0], results[2])


@pytest.mark.parametrize(("logit_norm", "groups"), [("batch", 0), ("layer", 4), (None, 0)])
def test_empty_batch(logit_norm, groups):
    """Without samples: empty coefficients, statistics of mean 0 and variance 1, gradients 0, nothing launched."""
    moments, parameters, given, options, sums = draw((0, 20, 3), "sigmoid", logit_norm, groups, False)
    results = everything(middle, moments, parameters, given, options, sums)
    assert [tuple(t.shape) for t in results[:4]] == [(0, 20), (0, 20), (0, 3), (0, 3)]
    if not groups:
        assert_close(results[4], torch.zeros(20, device=DEVICE))
        assert_close(results[5], torch.ones(20, device=DEVICE))
    for gradient, parameter in zip(results[10:], parameters, strict=True):
        assert (gradient is None) == (parameter is None)
        assert gradient is None or (gradient.shape == parameter.shape and not gradient.any())


def test_what_the_kernels_leave_to_pytorch():
    options = Options(9, 1e-5, 1e-3, "sigmoid", "batch", 1, 1e-5, 0)
    assert middle.serves(LARGEST_BATCH, LARGEST_MIXTURE, options)
    assert not middle.serves(LARGEST_BATCH + 1, 10, options)
    assert not middle.serves(32, LARGEST_MIXTURE + 1, options)
    assert not middle.serves(32, 10, options._replace(logit_norm="group"))
