"""Values and gradients of the layers against the definition in float64."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from attnorm import (
    AttentiveBatchNorm1d,
    AttentiveBatchNorm2d,
    AttentiveBatchNorm3d,
    AttentiveGroupNorm,
    backend,
)
from attnorm.layers.reference import attentive_norm

SHAPES = {
    AttentiveBatchNorm1d: [(4, 8, 7), (5, 8)],
    AttentiveBatchNorm2d: [(4, 8, 5, 3), (3, 8, 1, 1), (2, 8, 1, 9)],
    AttentiveBatchNorm3d: [(3, 8, 2, 3, 4)],
    AttentiveGroupNorm: [(4, 8, 5, 3), (1, 8, 5, 3), (4, 8, 6), (3, 8, 2, 3, 4), (3, 8)],
}
CASES = [(kind, shape) for kind, shapes in SHAPES.items() for shape in shapes]
OPTIONS = [
    {},
    {"gate": "sigmoid"},
    {"gate": "softmax", "logit_norm": "layer"},
    {"logit_norm": None, "head": "mlp"},
    {"logit_norm": "group", "logit_groups": 3, "statistic": "mean"},
    {"statistic": "mean_plus_max", "logit_bias": True},
]


def make(kind: type, **options) -> nn.Module:
    torch.manual_seed(0)
    groups = {"num_groups": 2} if kind is AttentiveGroupNorm else {}
    return kind(8, num_components=6, dtype=torch.float64, **groups, **options)


def definition(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The definition, with the layer's own parameters and attention."""
    maps = x.flatten(2) if x.ndim > 2 else x.unsqueeze(2)

    def attend(statistic):
        if layer.attention.statistic == "mean":
            statistic = maps.mean(2)
        elif layer.attention.statistic == "mean_plus_max":
            statistic = maps.mean(2) + maps.amax(2)
        branch = layer.attention
        hidden = statistic if branch.hidden is None else branch.hidden(statistic).relu()
        logits = branch.logits(hidden)
        if branch.gate == "hard_sigmoid":
            return (logits + 3).clamp(0, 6) / 6
        return logits.sigmoid() if branch.gate == "sigmoid" else logits.softmax(1)

    groups = layer.num_groups if isinstance(layer, AttentiveGroupNorm) else None
    running = None
    if groups is None and not layer.training:
        running = layer.running_mean, layer.running_var
    y = attentive_norm(maps, layer.weight, layer.bias, attend, num_groups=groups, running=running)
    return y.view_as(x)


def results(function, x: torch.Tensor, dy: torch.Tensor, parameters: list) -> list[torch.Tensor]:
    x = x.detach().requires_grad_()
    y = function(x)
    return [y, *torch.autograd.grad(y, [x, *parameters], dy, allow_unused=True, materialize_grads=True)]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("kind", "shape"), CASES, ids=lambda v: v.__name__ if isinstance(v, type) else str(v))
def test_closed_form_equals_the_definition(kind, shape, options, training):
    """Output and every gradient, float64; the error is a few roundings of sums over the batch."""
    layer = make(kind, **options).train(training)
    single = options.get("logit_norm", "batch" if kind is not AttentiveGroupNorm else None) == "batch" and shape[0] == 1
    assert not single
    if kind is not AttentiveGroupNorm:
        layer.running_mean.normal_()
        layer.running_var.uniform_(0.5, 1.5)
    x, dy = torch.randn(2, *shape, dtype=torch.float64)
    x = x * 2 + 0.3
    parameters = list(layer.parameters())
    truth = results(lambda x: definition(layer, x), x, dy, parameters)
    ours = results(layer, x, dy, parameters)
    for name, a, b in zip(["y", "dx", *dict(layer.named_parameters())], ours, truth, strict=True):
        assert_close(a, b, rtol=1e-10, atol=1e-11, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("path", ["closed_form", "reference"])
@pytest.mark.parametrize("kind", [AttentiveBatchNorm2d, AttentiveGroupNorm])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("seed", [0, 1])
def test_gradcheck_to_second_order(kind, path, training, seed):
    layer = make(kind).train(training)
    torch.manual_seed(seed)
    x = torch.randn(3, 8, 2, 3, dtype=torch.float64, requires_grad=True)
    parameters = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    names = [name for name, _ in layer.named_parameters()]

    def function(x, *parameters):
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

    with backend(path):
        assert torch.autograd.gradcheck(function, (x, *parameters))
        assert torch.autograd.gradgradcheck(function, (x, *parameters))


@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_statistics_follow_batch_norm(momentum):
    """The same input through nn.BatchNorm2d leaves the same running statistics, three batches long."""
    layer = AttentiveBatchNorm2d(8, 3, momentum=momentum).double()
    plain = nn.BatchNorm2d(8, momentum=momentum).double()
    for seed in range(3):
        torch.manual_seed(seed)
        x = torch.randn(4, 8, 5, 3, dtype=torch.float64) * 3 + 1
        layer(x)
        plain(x)
    for name, value in plain.named_buffers():
        assert_close(layer.get_buffer(name), value, rtol=1e-12, atol=1e-12)


def test_running_statistics_of_the_attention_follow_batch_norm():
    layer = AttentiveBatchNorm2d(8, 3).double()
    plain = nn.BatchNorm1d(3).double()
    x = torch.randn(6, 8, 5, 3, dtype=torch.float64)
    statistic = x.mean((2, 3)) * (x.var((2, 3), unbiased=True) + 1e-3).rsqrt()
    plain(statistic @ layer.attention.logits.weight.T)
    layer(x)
    for name, value in plain.named_buffers():
        assert_close(layer.attention.logits.norm.get_buffer(name), value, rtol=1e-12, atol=1e-12)


def test_without_running_statistics_evaluation_uses_the_batch():
    layer = AttentiveBatchNorm2d(8, 3, track_running_stats=False, dtype=torch.float64)
    x = torch.randn(4, 8, 5, 3, dtype=torch.float64)
    trained = layer(x)
    assert_close(layer.eval()(x), trained, rtol=1e-12, atol=1e-12)
    assert not list(layer.buffers())


@pytest.mark.parametrize("ratio", [1.0, 1e2, 1e3, 1e4])
@pytest.mark.parametrize("path", ["closed_form", "reference"])
@pytest.mark.parametrize("kind", [AttentiveBatchNorm2d, AttentiveGroupNorm])
def test_a_mean_far_above_the_spread(ratio, path, kind):
    """design.md 2: float32 stays within 1e-3 of float64 up to |mean|/std = 1e4, where a sum of squares has no digits.

    The floor is the rounding of the mean itself: 1e4 * 2^-24 = 6e-4 of the standard deviation.
    """
    layer = make(kind)
    x = torch.randn(8, 8, 16, 16, dtype=torch.float32) + ratio
    truth = definition(layer, x.double())
    with backend(path):
        ours = layer.float()(x)
    assert (ours.double() - truth).norm() / truth.norm() < max(1e-3 * ratio / 1e4, 3e-6)


@pytest.mark.parametrize("value", [0.0, 5.0])
def test_constant_input_is_finite(value):
    """A constant channel has no variance; the output is the shift."""
    layer = AttentiveBatchNorm2d(8, 3)
    x = torch.full((4, 8, 5, 5), value, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    weights = layer.eval().mixture_weights(x)
    assert y.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert weights.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [AttentiveBatchNorm2d, AttentiveGroupNorm])
def test_half_precision_input_keeps_float32_statistics(kind, dtype):
    """The error is one rounding of the output, as if float32 had been computed and cast (user ask 7)."""
    layer = make(kind).float()
    x = (torch.randn(4, 8, 9, 9) * 4 + 20).to(dtype)
    truth = definition(copy.deepcopy(layer).double(), x.double())
    y = layer(x)
    assert y.dtype == dtype
    assert_close(y.double(), truth, rtol=torch.finfo(dtype).eps, atol=1e-4)


def test_half_precision_gradients():
    """Gradients of a bfloat16 input equal float64's to the rounding of bfloat16."""
    layer = make(AttentiveBatchNorm2d).float()
    x, dy = torch.randn(2, 4, 8, 9, 9).bfloat16()
    truth = results(lambda x: definition(copy.deepcopy(layer).double(), x), x.double(), dy.double(), [])
    _, dx = results(layer, x, dy, [])
    assert dx.dtype == torch.bfloat16
    # A gradient is a sum of terms of both signs: the error is relative to the largest of them.
    assert_close(dx.double(), truth[1], rtol=2**-7, atol=2**-7 * truth[1].abs().max().item())


def test_a_whole_module_in_bfloat16():
    layer = make(AttentiveBatchNorm2d).bfloat16()
    x = torch.randn(4, 8, 9, 9).bfloat16()
    y = layer(x)
    assert y.dtype == torch.bfloat16
    assert layer.running_mean.dtype == torch.bfloat16
    truth = definition(copy.deepcopy(layer).double().train(), x.double())
    assert_close(y.double(), truth, rtol=2**-6, atol=2**-6)
    assert_close(layer.running_mean.float(), 0.1 * x.float().mean((0, 2, 3)), rtol=2**-7, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_does_not_touch_the_coefficients(dtype):
    """Autocast runs products in half precision; inside the layer they stay float32, and the input's dtype is kept."""
    layer = make(AttentiveBatchNorm2d).float()
    x = torch.randn(4, 8, 9, 9).to(dtype)
    plain = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        cast = layer(x)
    assert cast.dtype == dtype
    assert torch.equal(cast, plain)
