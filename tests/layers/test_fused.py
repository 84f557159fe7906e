"""The layer as one autograd node: what it saves, what it costs in dispatches, and when it must not be taken."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from attnorm import AttentiveBatchNorm2d, AttentiveBatchNormAct2d, AttentiveGroupNormAct, backend
from attnorm.layers import eager
from attnorm.layers.attention import GATES
from tests.layers.small import KINDS, make

ACTIVATIONS = [nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, nn.LeakyReLU]


def saved_bytes(layer: nn.Module, x: torch.Tensor) -> dict[int, int]:
    """Bytes of the distinct storages that autograd keeps for the backward pass, by address."""
    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        layer(x)
    return saved


@pytest.mark.parametrize("act_layer", ACTIVATIONS)
@pytest.mark.parametrize("kind", [AttentiveBatchNormAct2d, AttentiveGroupNormAct])
def test_a_fused_activation_saves_nothing_more(kind, act_layer):
    """x, and tensors of the sizes (N, C), (N, K) and (K, C): with the activation the same bytes as without."""
    x = torch.randn(4, 8, 32, 32, requires_grad=True)
    saved = saved_bytes(make(kind, act_layer=act_layer), x)
    assert saved.pop(x.data_ptr()) == x.nbytes
    plain = saved_bytes(make(kind, apply_act=False), x)
    plain.pop(x.data_ptr())
    assert sum(saved.values()) == sum(plain.values())
    # 6 x (N, C) and 2 x (N, K) at most, beside parameters (3 K C) and statistics of channels and logits.
    assert sum(saved.values()) <= 4 * (6 * 4 * 8 + 2 * 4 * 3 + 3 * 3 * 8 + 4 * 8 + 8 * 3)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("act_layer", ACTIVATIONS)
@pytest.mark.parametrize("kind", [AttentiveBatchNormAct2d, AttentiveGroupNormAct])
def test_fused_equals_norm_then_activation(kind, act_layer, training):
    """In timm's order; outputs, all gradients and running statistics in float64."""
    fused = make(kind, act_layer=act_layer).double().train(training)
    apart = make(kind, apply_act=False).double().train(training)
    results = []
    for layer, act in ((fused, nn.Identity()), (apart, act_layer())):
        torch.manual_seed(1)
        x = torch.randn(4, 8, 5, 3, dtype=torch.float64, requires_grad=True)
        y = act(layer(x))
        y.square().sum().backward()
        results.append([y, x.grad, *(p.grad for p in layer.parameters()), *layer.buffers()])
    for ours, theirs in zip(*results, strict=True):
        assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("act_layer", [nn.SiLU, nn.LeakyReLU])
def test_double_backward_through_a_fused_activation(act_layer):
    layer = make(AttentiveBatchNormAct2d, channels=3, act_layer=act_layer).double()
    x = torch.randn(3, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(layer, x)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_output_may_be_changed_in_place(memory_format):
    """Networks have nn.ReLU(inplace=True) behind their norms: the node must not return a view."""
    layer = make(AttentiveBatchNorm2d)
    x = torch.randn(4, 8, 5, 5).to(memory_format=memory_format).requires_grad_()
    expected = torch.autograd.grad(layer(x).relu().square().sum(), x)[0]
    assert_close(torch.autograd.grad(layer(x).relu_().square().sum(), x)[0], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_hooks_on_the_attention_see_it_at_work(kind):
    """The closed form does not call the attention's modules, so it gives way to whoever listens to them."""
    layer, x = make(kind).eval(), torch.randn(4, 8, 5, 5)
    expected, seen = layer(x), []
    for module in (layer.attention, layer.attention.logits):
        handle = module.register_forward_hook(lambda module, inputs, output: seen.append(output))
        assert not layer.has_closed_form
        assert_close(layer(x), expected)
        handle.remove()
        assert layer.has_closed_form
    assert_close(seen[0], layer.mixture_weights(x))
    assert len(seen) == 2


def test_a_hook_on_the_activation_sees_it_at_work():
    layer, seen = make(AttentiveBatchNormAct2d), []
    layer.act.register_forward_hook(lambda module, inputs, output: seen.append(output.clone()))
    y = layer(torch.randn(4, 8, 5, 5))
    assert torch.equal(seen[0], y)


def test_a_subclass_of_the_attention_is_called():
    class Constant(type(make(AttentiveBatchNorm2d).attention)):
        def forward(self, mean, var, pixels, maximum=None):
            return torch.full((len(mean), 3), 0.25)

    layer = make(AttentiveBatchNorm2d).eval()
    layer.attention.__class__ = Constant
    x = torch.randn(4, 8, 5, 5)
    scale = 0.25 * layer.weight.sum(0) * (layer.running_var + layer.eps).rsqrt()
    shift = 0.25 * layer.bias.sum(0) - scale * layer.running_mean
    assert_close(layer(x), x * scale[:, None, None] + shift[:, None, None])


@pytest.mark.parametrize("kind", KINDS)
def test_a_gate_that_is_added_has_its_own_gradients(kind, monkeypatch):
    """The closed form took every gate that it did not know for softmax on the way back."""
    monkeypatch.setitem(GATES, "halved", lambda logits: torch.sigmoid(logits) / 2)
    x = torch.randn(4, 8, 5, 5, dtype=torch.float64, requires_grad=True)
    layer = make(kind, gate="halved").double()
    known = make(kind, gate="sigmoid").double()
    assert not layer.has_closed_form
    upstream = torch.randn_like(x)
    ours = torch.autograd.grad(layer(x), [x, layer.attention.logits.weight], upstream)
    with torch.no_grad():
        known.weight /= 2
        known.bias /= 2
    theirs = torch.autograd.grad(known(x), [x, known.attention.logits.weight], upstream)
    assert_close(ours, theirs)


def test_a_subclass_with_statistics_of_its_own_is_heard():
    class Shifted(AttentiveBatchNorm2d):
        def standardiser(self, mean, var, pixels):
            mu, sigma2 = super().standardiser(mean, var, pixels)
            return mu + 1, sigma2

    layer, x = make(Shifted).eval(), torch.randn(4, 8, 5, 5)
    moved = make(AttentiveBatchNorm2d).eval()
    moved.running_mean += 1
    assert not layer.has_closed_form
    assert moved.has_closed_form
    assert_close(layer(x), moved(x))


def test_no_input_gradient_is_made_where_none_is_wanted(monkeypatch):
    """The dx pass is the dearest of the step: a layer whose input needs no gradient must not make it."""
    layer, x = make(AttentiveBatchNorm2d).double(), torch.randn(4, 8, 5, 5, dtype=torch.float64)
    layer(x.clone().requires_grad_()).square().sum().backward()
    expected = [parameter.grad for parameter in layer.parameters()]
    layer.zero_grad(set_to_none=True)
    monkeypatch.setattr(eager, "input_gradient", None)
    layer(x).square().sum().backward()
    for parameter, gradient in zip(layer.parameters(), expected, strict=True):
        assert torch.equal(parameter.grad, gradient)


def test_training_after_inference_mode():
    """Constants that are kept between calls must serve both modes, whichever comes first."""
    layer, x = make(AttentiveBatchNorm2d, channels=6), torch.randn(5, 6, 3, 3)
    with torch.inference_mode():
        layer.eval()(x)
    layer.train()(x.requires_grad_()).sum().backward()
    grad = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)[0]
    assert grad.requires_grad


class Count(TorchDispatchMode):
    """Keeps the names of the operations that do something, which views do not."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if not function.is_view:
            self.names.append(str(function))
        return function(*args, **(kwargs or {}))


def test_a_step_takes_few_operations():
    """At 7x7 an operation's dispatch costs as much as its work: a change that adds some should be made knowingly.

    Beside the passes over x these are the middle's and the running statistics'.
    """
    layer, x = make(AttentiveBatchNorm2d, channels=16), torch.randn(4, 16, 7, 7, requires_grad=True)
    layer(x).sum().backward()  # constants are made
    counts = {}
    for name in ("closed_form", "reference"):
        again = copy.deepcopy(layer)
        with backend(name), Count() as forward:
            y = again(x)
        with Count() as backward:
            y.backward(torch.ones_like(y))
        counts[name] = len(forward.names), len(backward.names)
    assert counts["closed_form"][0] <= 45, counts
    assert counts["closed_form"][1] <= 50, counts
    assert sum(counts["closed_form"]) < 0.7 * sum(counts["reference"]), counts
