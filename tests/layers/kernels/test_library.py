"""The whole layer as an operator: values and gradients against the definition, and what compilers ask of operators."""

import pytest
import torch
from torch.library import opcheck
from torch.testing import assert_close

from attnorm.layers import reference
from attnorm.layers.activation import Activation
from attnorm.layers.attention import GATES
from attnorm.layers.kernels import attentive_norm
from attnorm.layers.kernels.library import _backward, _forward
from attnorm.layers.middle import Options, Parameters, Statistics
from tests.layers.kernels.samples import DEVICE, DTYPES, assert_as_exact
from tests.layers.kernels.samples import draw as draw_input

RELU = Activation("relu")
# Of three samples, normalised logits leave a gradient that is the small rest of large terms, whose error varies from
# CPU to CPU; of seven it does not.
SHAPE, COMPONENTS = (7, 6, 3, 5), 4
TRAINING = Options(15, 1e-5, 1e-3, "hard_sigmoid", "batch", 1, 1e-5, 0)
GROUPS = Options(15, 1e-5, 1e-3, "sigmoid", None, 1, 0.0, 3)
LAYER_NORM = Options(15, 1e-5, 1e-3, "softmax", "layer", 1, 1e-5, 0)
NOTHING = Statistics(None, None, None, None)


def draw_parameters(options, dtype=torch.float32):
    shapes = [(COMPONENTS, SHAPE[1])] * 3 + [(COMPONENTS,)] * 3
    present = [True] * 3 + [options.logit_norm is None] + [options.logit_norm is not None] * 2
    drawn = (torch.randn(s, device=DEVICE, dtype=dtype) if p else None for s, p in zip(shapes, present, strict=True))
    return Parameters(*drawn)


def draw_statistics(options):
    if options.num_groups:
        return NOTHING
    channels, components = (torch.rand(2, size, device=DEVICE) + 0.5 for size in (SHAPE[1], COMPONENTS))
    return Statistics(*channels, *(components if options.logit_norm == "batch" else (None, None)))


def definition(x, parameters, given, options, activation):
    """The layer in plain PyTorch."""

    def attend(statistic):
        logits = statistic @ parameters.logit_weight.T
        if options.logit_norm is None:
            return GATES[options.gate](logits + parameters.logit_bias)
        mean, rstd = given.logit_mean, given.logit_rstd
        if mean is None:
            over = {"dim": 0} if options.logit_norm == "batch" else {"dim": 1, "keepdim": True}
            var, mean = torch.var_mean(logits, correction=0, **over)
            rstd = (var + options.logit_eps).rsqrt()
        return GATES[options.gate]((logits - mean) * rstd * parameters.norm_weight + parameters.norm_bias)

    y = reference.attentive_norm(
        x,
        parameters.weight,
        parameters.bias,
        attend,
        eps=options.eps,
        var_eps=options.var_eps,
        num_groups=options.num_groups or None,
        running=None if given.mean is None else (given.mean, given.var),
    )
    return y if activation is None else activation(y)


def results(function, x, parameters, given, options, dy, dtype=None):
    """Output and the gradients of x and of every parameter, computed in another dtype where one is named."""

    def leaf(tensor):
        return None if tensor is None else tensor.detach().to(dtype or tensor.dtype).requires_grad_()

    x, parameters = leaf(x), Parameters(*map(leaf, parameters))
    given = Statistics(*(None if g is None else g.to(dtype or g.dtype) for g in given))
    y = function(x, parameters, given, options, RELU)
    y = y[0] if isinstance(y, tuple) else y
    return [y, *torch.autograd.grad(y, [p for p in (x, *parameters) if p is not None], dy.to(y.dtype))]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("options", "layout", "running"),
    [
        (TRAINING, "contiguous", False),
        (TRAINING, "channels_last", True),
        (GROUPS, "channels_last", False),
        (LAYER_NORM, "sliced", False),
    ],
)
def test_values_and_gradients(options, layout, running, dtype):
    torch.manual_seed(0)
    x, dy = draw_input(SHAPE, layout, dtype, mean=1.0), draw_input(SHAPE, dtype=dtype)
    parameters = draw_parameters(options)
    given = draw_statistics(options) if running else NOTHING
    case = (x, parameters, given, options, dy)
    ours = results(attentive_norm, *case)
    plain = results(definition, *case)
    truth = results(definition, *case, dtype=torch.float64)
    for actual, low, exact in zip(ours, plain, truth, strict=True):
        # The gradients go through sums over the batch and both passes: 32 roundings.
        assert_as_exact(actual, low, exact, roundings=32)


@pytest.mark.parametrize(
    ("options", "running", "dtype"),
    [(TRAINING, False, torch.float32), (TRAINING, True, torch.float16), (GROUPS, False, torch.float32)],
)
def test_operators_are_what_they_declare(options, running, dtype):
    """Schema, fake implementation and autograd registration; what is given is neither returned nor changed."""
    torch.manual_seed(0)
    x = draw_input(SHAPE, "channels_last", dtype)
    given = draw_statistics(options) if running else NOTHING
    parameters = draw_parameters(options)
    flat = (*options[1:], "relu", 0.0)
    leaves = [None if p is None else p.clone().requires_grad_() for p in (x, *parameters)]
    opcheck(_forward, (*leaves, *given, *flat))
    made = _forward(x, *parameters, *given, *flat)[1:]
    opcheck(_backward, (torch.randn_like(x), x, *parameters, list(made), *flat, not running, not running))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_into_one_graph(dynamic):
    """No graph break, for changing sizes; values and gradients to the bit those of eager mode."""
    torch.compiler.reset()
    parameters = [None if p is None else p.requires_grad_() for p in draw_parameters(TRAINING)]

    def step(x, parameters):
        y, made, mean, _ = attentive_norm(x, Parameters(*parameters), NOTHING, TRAINING, RELU)
        return y.sin(), made.statistics.mean, mean

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for samples in (2, 3) if dynamic else (2,):
        x = torch.randn(samples, *SHAPE[1:], device=DEVICE, requires_grad=True)
        live = [x, *(p for p in parameters if p is not None)]
        runs = []
        for function in (step, compiled):
            y, *statistics = function(x, parameters)
            assert not any(s.requires_grad for s in statistics)
            runs.append([y, *statistics, *torch.autograd.grad(y.square().sum(), live)])
        assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_saves_x_and_nothing_else_of_its_size():
    x = torch.randn(2, 6, 12, 12, device=DEVICE, requires_grad=True)
    saved = {}

    def pack(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        attentive_norm(x, draw_parameters(TRAINING), NOTHING, TRAINING._replace(pixels=144), RELU)
    assert saved.pop(x.data_ptr()) == x.nbytes
    assert sum(saved.values()) < x.nbytes / 5


def test_frozen_parameters_and_input():
    """Gradients come for what asks for them, in its dtype."""
    parameters = draw_parameters(TRAINING, torch.float16)
    parameters.bias.requires_grad_()
    y, *_ = attentive_norm(draw_input(SHAPE), parameters, NOTHING, TRAINING, None)
    y.square().sum().backward()
    assert parameters.bias.grad.dtype is torch.float16
    assert parameters.weight.grad is None


def test_second_derivative_is_refused():
    """Differentiating the gradient again would need what the operators do not compute; PyTorch says so."""
    x = draw_input(SHAPE).requires_grad_()
    y, *_ = attentive_norm(x, draw_parameters(TRAINING), NOTHING, TRAINING, None)
    (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula was registered"):
        dx.sum().backward()


def test_empty_batch():
    x = torch.empty(0, 6, 3, 5, device=DEVICE, requires_grad=True)
    parameters = Parameters(*(None if p is None else p.requires_grad_() for p in draw_parameters(TRAINING)))
    y, made, mean, _ = attentive_norm(x, parameters, NOTHING, TRAINING, RELU)
    y.sum().backward()
    assert y.shape == x.grad.shape == x.shape
    assert made.scale.shape == mean.shape == (0, 6)
    assert_close(parameters.weight.grad, torch.zeros_like(parameters.weight))


@pytest.mark.skipif(DEVICE == "cpu", reason="CUDA graphs need a CUDA device")
def test_cuda_graph_captures_forward_and_backward():
    """Nothing waits for the device, so that a captured step replays on new values."""
    parameters = draw_parameters(TRAINING)
    x = draw_input(SHAPE).requires_grad_()

    def step():
        y, *_ = attentive_norm(x, parameters, NOTHING, TRAINING, RELU)
        return torch.autograd.grad(y.square().sum(), x)[0]

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):  # compile the kernels outside of the capture
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        dx = step()
    with torch.no_grad():
        x.copy_(draw_input(SHAPE, mean=2.0))
    graph.replay()
    assert torch.equal(dx, step())
