"""The layers on the Triton kernels, as a user forces them by name: eager and compiled, with all that modules add."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from attnorm import (
    AttentiveBatchNorm1d,
    AttentiveBatchNorm2d,
    AttentiveBatchNormAct2d,
    AttentiveGroupNorm,
    AttentiveGroupNormAct,
    backend,
)
from tests.layers.kernels.samples import DEVICE
from tests.layers.small import make

LAYERS = [
    (AttentiveBatchNorm2d, {}),
    (AttentiveBatchNorm2d, {"gate": "softmax", "logit_norm": "layer"}),
    (AttentiveBatchNorm2d, {"head": "mlp"}),  # no closed form: the two passes, with autograd in between
    (AttentiveBatchNormAct2d, {"act_layer": nn.SiLU}),
    (AttentiveBatchNorm1d, {}),
    (AttentiveGroupNorm, {}),
    (AttentiveGroupNormAct, {"act_layer": "leaky_relu"}),
]


def _input(kind: type) -> torch.Tensor:
    torch.manual_seed(1)
    shape = (4, 8, 11) if kind is AttentiveBatchNorm1d else (4, 8, 5, 3)
    return torch.randn(shape, device=DEVICE) * 2 + 1


def _run(layer: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """Output, gradients and buffers after one training step."""
    x = x.clone().requires_grad_()
    y = layer(x)
    y.square().sum().backward()
    assert x.grad is not None
    return [y.detach(), x.grad, *(p.grad for p in layer.parameters() if p.grad is not None), *layer.buffers()]


@pytest.mark.parametrize(("kind", "options"), LAYERS)
def test_a_training_step_equals_the_reference(kind, options):
    """Values, all gradients, running statistics; float32 against float64."""
    layer, x = make(kind, **options).to(DEVICE), _input(kind)
    truth = copy.deepcopy(layer).double()
    with backend("reference"):
        expected = _run(truth, x.double())
    with backend("triton"):
        assert backend().explain(x) == "triton: asked for by name"
        found = _run(layer, x)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        # Sums of some 60 squares of numbers near 10, in float32: 1e-7 * 60 * 100.
        assert_close(ours.double(), theirs.double(), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("kind", "options"), [case for case in LAYERS if case[1].get("head") != "mlp"])
@pytest.mark.parametrize("training", [True, False])
def test_compiled_code_holds_the_kernels(kind, options, training):
    """`backend("triton")` puts the operator into the graph, without a break; values as in eager mode."""
    torch.compiler.reset()
    layer, x = make(kind, **options).to(DEVICE).train(training), _input(kind)
    operators: list[str] = []

    def record(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> object:
        operators.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    with backend("triton"):
        expected = layer(x)
        again = make(kind, **options).to(DEVICE).train(training)
        compiled = torch.compile(again, fullgraph=True, backend=record)
        assert_close(compiled(x), expected, rtol=1e-6, atol=1e-6)
    assert any("attnorm.attentive_norm" in name for name in operators)
    for ours, theirs in zip(again.buffers(), layer.buffers(), strict=True):
        assert_close(ours, theirs)


def test_compiled_code_without_an_operator_is_traced():
    """An MLP head has no closed form, so no operator. Dynamo once took has_closed_form for true, through super()."""
    torch.compiler.reset()
    layer, x = make(AttentiveBatchNorm2d, head="mlp").to(DEVICE).eval(), _input(AttentiveBatchNorm2d)
    with backend("triton"):
        assert_close(torch.compile(layer, fullgraph=True, backend="eager")(x), layer(x), rtol=1e-5, atol=1e-5)


def test_float64_is_refused_by_name():
    x = torch.randn(2, 8, 3, 3, dtype=torch.float64, device=DEVICE)
    with backend("triton"), pytest.raises(RuntimeError, match=r"'triton' was asked for.*float64 is not float32"):
        make(AttentiveBatchNorm2d).double().to(DEVICE)(x)


def test_autocast_keeps_statistics_in_float32():
    """User ask 7: under autocast the products of the middle are not run in half precision."""
    layer = make(AttentiveBatchNorm2d).to(DEVICE)
    x = _input(AttentiveBatchNorm2d).bfloat16()
    with backend("triton"), torch.autocast(DEVICE, torch.bfloat16):
        y = layer(x)
    with backend("reference"):
        truth = make(AttentiveBatchNorm2d).double().to(DEVICE)(x.double())
    assert y.dtype == torch.bfloat16
    assert_close(layer.running_mean.double(), x.double().mean((0, 2, 3)) * 0.1, rtol=1e-6, atol=1e-6)
    # 2^-8: bfloat16's last bit, which the interpreter truncates rather than rounds.
    assert_close(y.double(), truth.detach(), rtol=2**-7, atol=0.02)
