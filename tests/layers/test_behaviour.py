"""The layers behave as their torch.nn siblings: shapes, states, memory, errors, compilation."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from attnorm import (
    AttentiveBatchNorm1d,
    AttentiveBatchNorm2d,
    AttentiveBatchNormAct2d,
    AttentiveGroupNorm,
    AttentiveGroupNormAct,
    backend,
    freeze_norm,
)

KINDS = [AttentiveBatchNorm2d, AttentiveGroupNorm]


def make(kind: type, channels: int = 8, **options) -> nn.Module:
    torch.manual_seed(0)
    groups = {"num_groups": 4} if issubclass(kind, AttentiveGroupNorm) else {}
    return kind(channels, num_components=3, **groups, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_parameter_count(kind):
    """Reference 1.10: 3KC + 2K for the batch variant, 3KC + K for the heads' group variant."""
    count = sum(p.numel() for p in make(kind).parameters())
    assert count == 3 * 3 * 8 + (6 if kind is AttentiveBatchNorm2d else 3)


def test_initialisation_is_the_released_one():
    """Reference 1.7: W ~ N(1, 0.1^2), bias ~ N(0, 0.1^2), attention N(0, 2/K) in front of a norm."""
    torch.manual_seed(0)
    layer = AttentiveBatchNorm2d(4096, 16)
    error = 5 / (4096 * 16) ** 0.5  # five standard errors of a mean
    assert abs(layer.weight.mean() - 1) < 0.1 * error
    assert abs(layer.weight.std() - 0.1) < 0.1 * error
    assert abs(layer.bias.mean()) < 0.1 * error
    assert abs(layer.bias.std() - 0.1) < 0.1 * error
    assert abs(layer.attention.logits.weight.std() - (2 / 16) ** 0.5) < (2 / 16) ** 0.5 * error
    head = AttentiveGroupNorm(4096, 32, 16)
    bound = 1 / 4096**0.5
    for parameter in (head.attention.logits.weight, head.attention.logits.bias):
        assert parameter.abs().max() <= bound
    assert abs(head.attention.logits.weight.std() - bound / 3**0.5) < bound * error


@pytest.mark.parametrize("gate", ["hard_sigmoid", "sigmoid"])
@pytest.mark.parametrize("kind", KINDS)
def test_constant_gates_make_the_plain_norm(kind, gate):
    """With lambda pinned to one component, AN is the plain norm with that component's affine transform."""
    layer = make(kind, gate=gate, logit_norm=None)
    attention = layer.attention.logits
    with torch.no_grad():
        attention.weight.zero_()
        attention.bias.copy_(torch.tensor([-50.0, 50.0, -50.0]))
    plain = nn.BatchNorm2d(8) if kind is AttentiveBatchNorm2d else nn.GroupNorm(4, 8)
    with torch.no_grad():
        plain.weight.copy_(layer.weight[1])
        plain.bias.copy_(layer.bias[1])
    x = torch.randn(4, 8, 6, 5) * 2 + 1
    for training in (True, False):
        assert_close(layer.train(training)(x), plain.train(training)(x), rtol=1e-5, atol=1e-5)


def test_group_variant_ends_are_instance_and_layer_norm():
    x = torch.randn(4, 8, 6, 5, dtype=torch.float64) * 2 + 1
    for groups, plain in ((8, nn.InstanceNorm2d(8)), (1, nn.LayerNorm((8, 6, 5), elementwise_affine=False))):
        layer = AttentiveGroupNorm(8, groups, 3, dtype=torch.float64)
        weights = layer.mixture_weights(x)
        gamma, beta = weights @ layer.weight, weights @ layer.bias
        expected = gamma[..., None, None] * plain(x) + beta[..., None, None]
        assert_close(layer(x), expected, rtol=1e-10, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 6), st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**31))
def test_permuting_the_batch_permutes_the_output(samples, height, width, seed):
    layer = make(AttentiveBatchNorm2d).double()
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 8, height, width, dtype=torch.float64, generator=generator)
    order = torch.randperm(samples, generator=generator)
    assert_close(layer(x)[order], layer(x[order]), rtol=1e-9, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31))
def test_permuting_channels_with_their_parameters_permutes_the_output(seed):
    generator = torch.Generator().manual_seed(seed)
    layer = make(AttentiveBatchNorm2d).double()
    order = torch.randperm(8, generator=generator)
    permuted = copy.deepcopy(layer)
    with torch.no_grad():
        for ours in (permuted.weight, permuted.bias, permuted.attention.logits.weight):
            ours.copy_(ours[:, order])
    x = torch.randn(4, 8, 5, 3, dtype=torch.float64, generator=generator)
    assert_close(permuted(x[:, order]), layer(x)[:, order], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(2, 1, 7, 3), (5, 16, 1, 1), (3, 6, 13, 1), (2, 33, 5, 5)])
def test_odd_shapes_agree_between_the_paths(kind, shape):
    groups = {"num_groups": 1} if kind is AttentiveGroupNorm else {}
    torch.manual_seed(0)
    layer = kind(shape[1], num_components=3, **groups)
    x = torch.randn(shape)
    fast = layer(x)
    with backend("reference"):
        assert_close(layer(x), fast, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [True, False])
def test_channels_last_is_kept(kind, training):
    """User ask 8: values as for the contiguous tensor, output and gradient in channels_last."""
    layer = make(kind).train(training)
    x = torch.randn(4, 8, 6, 5)
    expected = copy.deepcopy(layer)(x)
    last = x.to(memory_format=torch.channels_last).requires_grad_()
    y = layer(last)
    y.square().sum().backward()
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert last.grad is not None
    assert last.grad.is_contiguous(memory_format=torch.channels_last)
    assert_close(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_strided_input_and_gradient(kind):
    layer = make(kind)
    wide = torch.randn(4, 16, 5, 12)
    strided, dense = wide[:, ::2, :, ::3], wide[:, ::2, :, ::3].contiguous()
    results = []
    for x in (strided, dense):
        x = x.detach().requires_grad_()
        dy = torch.arange(4.0 * 5 * 8).reshape(4, 5, 8, 1).permute(0, 2, 1, 3).expand(4, 8, 5, 4)
        results.append(torch.autograd.grad(copy.deepcopy(layer)(x), x, dy)[0])
    assert_close(results[0], results[1], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_empty_batch(kind):
    """Detection has images without boxes (user ask 20): an empty output, zero gradients, statistics left alone."""
    layer = make(kind)
    before = copy.deepcopy(layer.state_dict())
    x = torch.randn(0, 8, 5, 5, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert y.shape == x.shape
    for name, parameter in layer.named_parameters():
        assert parameter.grad is None or not parameter.grad.any(), name
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_batch_of_one_names_the_ways_out():
    """User ask 5: the attention's norm has one value per component; the message names what can be done instead."""
    layer = make(AttentiveBatchNorm2d)
    before = copy.deepcopy(layer.state_dict())
    x = torch.randn(1, 8, 4, 4)
    with pytest.raises(ValueError, match=r"batch of 1: use model.eval\(\), attnorm.freeze_norm\(model\), or .*'layer'"):
        layer(x)
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name]), f"{name} changed although the layer refused the input"
    assert layer.eval()(x).isfinite().all()
    assert freeze_norm(layer.train())(x).isfinite().all()
    for norm in ("layer", None):
        assert make(AttentiveBatchNorm2d, logit_norm=norm)(x).isfinite().all()


def test_one_value_per_channel_is_refused():
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        make(AttentiveBatchNorm2d, logit_norm=None)(torch.randn(1, 8, 1, 1))
    with pytest.raises(ValueError, match="more than 1 value per group"):
        AttentiveGroupNorm(8, 8, 3)(torch.randn(2, 8, 1, 1))


def test_wrong_input_says_what_came():
    with pytest.raises(ValueError, match=r"4-D input; got shape \(4, 8, 5\)"):
        make(AttentiveBatchNorm2d)(torch.randn(4, 8, 5))
    with pytest.raises(ValueError, match=r"8 channels in dimension 1; got shape \(4, 5, 2, 2\)"):
        make(AttentiveGroupNorm)(torch.randn(4, 5, 2, 2))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: AttentiveBatchNorm2d(8, 0), "num_components must be at least 1; got 0"),
        (lambda: AttentiveBatchNorm2d(0), "channels must be at least 1; got 0"),
        (lambda: AttentiveBatchNorm2d(8, gate="relu"), "gate must be one of .*'softmax'; got 'relu'"),
        (lambda: AttentiveBatchNorm2d(8, logit_norm="batchnorm"), "logit_norm must be one of"),
        (lambda: AttentiveGroupNorm(30), "num_groups must divide the 30 channels; got 32"),
        (lambda: AttentiveGroupNorm(8, 4, 3, logit_norm="group", logit_groups=2), "must divide the 3 logits; got 2"),
    ],
)
def test_wrong_arguments_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_an_unknown_option_is_refused():
    with pytest.raises(TypeError, match="temperature"):
        AttentiveBatchNorm2d(8, temperature=3)  # type: ignore[call-arg]


@pytest.mark.parametrize("kind", KINDS)
def test_state_dict_round_trip(kind):
    layer, other = make(kind), make(kind)
    layer(torch.randn(4, 8, 5, 5))
    other.load_state_dict(layer.state_dict())
    x = torch.randn(4, 8, 5, 5)
    assert torch.equal(layer.eval()(x), other.eval()(x))


def test_state_dict_names_are_a_promise():
    assert list(make(AttentiveBatchNorm2d).state_dict()) == [
        "weight",
        "bias",
        "running_mean",
        "running_var",
        "num_batches_tracked",
        "attention.logits.weight",
        "attention.logits.norm.weight",
        "attention.logits.norm.bias",
        "attention.logits.norm.running_mean",
        "attention.logits.norm.running_var",
        "attention.logits.norm.num_batches_tracked",
    ]
    heads = ["weight", "bias", "attention.logits.weight", "attention.logits.bias"]
    assert list(make(AttentiveGroupNorm).state_dict()) == heads


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"])
def test_copies_are_independent(kind, clone):
    layer = make(kind)
    x = torch.randn(4, 8, 5, 5, requires_grad=True)
    layer(x).sum().backward()
    twin = clone(layer)
    assert torch.equal(twin(x), layer(x))
    with torch.no_grad():
        twin.weight.zero_()
    assert layer.weight.any()


def test_reset_parameters_resets_everything():
    layer = make(AttentiveBatchNorm2d)
    layer(torch.randn(4, 8, 5, 5))
    torch.manual_seed(0)
    layer.reset_parameters()
    for name, value in make(AttentiveBatchNorm2d).state_dict().items():
        if not name.endswith("weight") and not name.endswith("bias"):
            assert torch.equal(layer.state_dict()[name], value), name


def test_device_and_dtype_arguments():
    layer = make(AttentiveBatchNorm2d, device="meta", dtype=torch.float16)
    for name, value in layer.state_dict().items():
        assert value.is_meta, name
        assert value.dtype in (torch.float16, torch.long), name
    assert layer(torch.empty(4, 8, 5, 5, device="meta")).shape == (4, 8, 5, 5)


def test_repr_names_every_argument():
    text = repr(make(AttentiveBatchNorm2d, momentum=0.2, gate="sigmoid", var_eps=0.5))
    for part in ("8, num_components=3, eps=1e-05, momentum=0.2", "gate='sigmoid'", "logit_norm='batch'", "var_eps=0.5"):
        assert part in text
    assert "8, 4, num_components=3" in repr(make(AttentiveGroupNorm))


@pytest.mark.parametrize("kind", [AttentiveBatchNormAct2d, AttentiveGroupNormAct])
@pytest.mark.parametrize(
    ("options", "function"),
    [
        ({}, torch.relu),
        ({"act_layer": "silu"}, nn.functional.silu),
        (
            {"act_layer": nn.LeakyReLU, "act_kwargs": {"negative_slope": 0.3}},
            lambda y: nn.functional.leaky_relu(y, 0.3),
        ),
        ({"act_layer": nn.Sigmoid}, torch.sigmoid),
        ({"apply_act": False}, lambda y: y),
    ],
)
def test_norm_act_convention(kind, options, function):
    """The act version is the plain layer, then the activation, with timm's arguments."""
    layer, plain = make(kind, **options), make(kind.__bases__[0])
    x = torch.randn(4, 8, 5, 5)
    assert_close(layer(x), function(plain(x)))
    with pytest.raises(ValueError, match="act_layer must be"):
        make(kind, act_layer="no_such")


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
    with pytest.raises(ValueError, match="one of auto, reference, closed_form; got 'cudnn'"):
        backend("cudnn")


def test_a_layer_is_no_batch_norm():
    """Converters and initialisers that look for BatchNorm, Linear or Conv2d must pass AN by (traps 4 and 5)."""
    searched = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.Linear, nn.Conv2d)
    assert not any(isinstance(m, searched) for m in make(AttentiveBatchNorm2d).modules())
    network = nn.Sequential(make(AttentiveBatchNorm2d), nn.BatchNorm2d(8))
    before = list(network.state_dict())
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    assert isinstance(converted[0], AttentiveBatchNorm2d)
    assert list(converted.state_dict()) == before
