"""The two passes over x: which code runs, what it saves, how autograd, compilers and transforms go through it."""

import copy

import pytest
import torch
from torch.testing import assert_close

from attnorm import (
    AttentiveBatchNorm1d,
    AttentiveBatchNorm2d,
    AttentiveGroupNorm,
    backend,
)
from tests.layers.small import KINDS, make


@pytest.mark.parametrize("kind", [*KINDS, AttentiveBatchNorm1d])
@pytest.mark.parametrize("training", [True, False])
def test_compiles_without_graph_break(kind, training):
    """User ask 9. Inductor fuses the reference; values and gradients as in eager mode, for changing sizes."""
    torch.compiler.reset()
    layer = make(kind, **({"momentum": None} if kind is AttentiveBatchNorm2d else {})).train(training)
    compiled = torch.compile(copy.deepcopy(layer), fullgraph=True, backend="aot_eager", dynamic=True)
    for size in (5, 7):
        x = torch.randn(4, 8, size) if kind is AttentiveBatchNorm1d else torch.randn(4, 8, size, size)
        ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
        y, expected = compiled(ours), layer(theirs)
        assert_close(y, expected, rtol=1e-5, atol=1e-5)
        y.square().sum().backward()
        expected.square().sum().backward()
        assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-4)


def test_exports_with_dynamic_sizes():
    layer = make(AttentiveBatchNorm2d).eval()
    dims = {0: torch.export.Dim("n", min=2), 2: torch.export.Dim("h", min=2), 3: torch.export.Dim("w", min=2)}
    program = torch.export.export(layer, (torch.randn(4, 8, 5, 5),), dynamic_shapes=({**dims},))
    x = torch.randn(3, 8, 9, 4)
    assert_close(program.module()(x), layer(x), rtol=1e-5, atol=1e-5)


def test_functional_transforms():
    """torch.func runs on the reference path: per-sample gradients, and forward-mode derivatives."""
    layer = make(AttentiveGroupNorm).double()
    x = torch.randn(4, 8, 3, 3, dtype=torch.float64)
    per_sample = torch.func.vmap(torch.func.grad(lambda s: layer(s.unsqueeze(0)).square().sum()))(x)
    leaf = x.clone().requires_grad_()
    layer(leaf).square().sum().backward()
    assert_close(per_sample, leaf.grad, rtol=1e-9, atol=1e-9)
    tangent = torch.randn_like(x)
    _, derivative = torch.func.jvp(lambda x: layer(x).square().sum(), (x,), (tangent,))
    assert_close(derivative, (leaf.grad * tangent).sum(), rtol=1e-9, atol=1e-9)


def test_saved_for_backward_is_x_and_nothing_else_of_its_size():
    """design.md 2: as BatchNorm saves."""
    layer = make(AttentiveBatchNorm2d, channels=8)
    x = torch.randn(4, 8, 32, 32, requires_grad=True)
    saved: dict[int, int] = {}

    def pack(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        layer(x)
    assert saved.pop(x.data_ptr()) == x.nbytes
    assert sum(saved.values()) < x.nbytes / 20


def test_gradient_of_x_survives_coefficients_without_x():
    """The affine step hands its gradient over to the moments; they must run even if nothing else leads to them."""
    layer = make(AttentiveBatchNorm2d).double().eval()
    layer.attention.forward = lambda mean, *_: torch.full((len(mean), 3), 0.5, dtype=mean.dtype)  # type: ignore
    x = torch.randn(4, 8, 5, 5, dtype=torch.float64, requires_grad=True)
    layer(x).sum().backward()
    gamma = 0.5 * layer.weight.sum(0) * (layer.running_var + layer.eps).rsqrt()
    assert_close(x.grad, gamma[None, :, None, None].expand_as(x), rtol=1e-12, atol=1e-12)


def test_checkpointed_and_repeated_backward():
    """Activation checkpointing, and two backward passes through one graph, give the gradients of one pass each."""
    layer = make(AttentiveBatchNorm2d).double().eval()
    x = torch.randn(4, 8, 5, 5, dtype=torch.float64, requires_grad=True)
    y = layer(x)
    first = torch.autograd.grad(y.square().sum(), x, retain_graph=True)[0]
    second = torch.autograd.grad(y.square().sum(), x)[0]
    assert torch.equal(first, second)
    for reentrant in (True, False):
        z = torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=reentrant)
        z.square().sum().backward()
        assert_close(x.grad, first)
        x.grad = None


def test_one_layer_called_several_times():
    """User ask 18: heads shared over pyramid levels. Each call's gradient is its own, in either order of backward."""
    layer = make(AttentiveGroupNorm).double()
    levels = [torch.randn(2, 8, size, size, dtype=torch.float64, requires_grad=True) for size in (6, 3)]
    sum(layer(x).square().sum() for x in levels).backward()
    together = [x.grad.clone() for x in levels]
    for x, expected in zip(levels, together, strict=True):
        assert_close(torch.autograd.grad(layer(x).square().sum(), x)[0], expected)
    nested = torch.autograd.grad(layer(layer(levels[0])).square().sum(), levels[0])[0]
    with backend("reference"):
        truth = torch.autograd.grad(layer(layer(levels[0])).square().sum(), levels[0])[0]
    assert_close(nested, truth, rtol=1e-9, atol=1e-9)


def test_two_runs_agree_bit_for_bit():
    grads = []
    for _ in range(2):
        layer = make(AttentiveBatchNorm2d)
        torch.manual_seed(1)
        x = torch.randn(4, 8, 16, 16, requires_grad=True)
        layer(x).square().sum().backward()
        grads.append([x.grad, *(p.grad for p in layer.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_backend_names_forces_and_explains():
    x = torch.randn(2, 8, 3, 3)
    assert backend().name == "auto"
    assert backend().explain(x) == "closed_form: eager torch.float32 tensor on cpu"
    with backend("reference"):
        assert backend().name == "reference"
        assert "asked for by name" in backend().explain(x)
        with backend("closed_form"):
            assert backend().name == "closed_form"
            with pytest.raises(RuntimeError, match=r"'closed_form' was asked for.*meta tensor.*use attnorm.backend"):
                make(AttentiveBatchNorm2d, device="meta")(x.to("meta"))
        assert backend().name == "reference"
    assert backend().name == "auto"
    with pytest.raises(ValueError, match="one of auto, reference, closed_form, triton; got 'cudnn'"):
        backend("cudnn")
