"""Numbers that break norms: constant channels, one pixel, huge means, empty images, the ends of float16; no NaN."""

import copy

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import attnorm.models  # noqa: F401  # registers the networks
from attnorm import AttentiveBatchNorm2d, AttentiveGroupNorm, freeze_norm
from attnorm.layers.plain import BatchNorm
from tests.layers.small import KINDS, make

PRECISIONS = ["float32", "bf16", "fp16"]
IMAGES = ["ordinary", "zeros", "constant", "huge mean", "one of each"]
FAMILIES = ["resnet18_an", "resnetv1d50_an", "mobilenetv2_100_an", "densenet121_an", "aognet_1m_cifar_an"]


def make_images(kind: str, size: int = 8) -> Tensor:
    """Four images (4, 3, size, size)."""
    x = torch.randn(4, 3, size, size)
    kinds = {
        "ordinary": x,
        "zeros": torch.zeros_like(x),
        "constant": torch.full_like(x, 5.0),
        "huge mean": x + 1e4,
    }
    return torch.stack([images[0] for images in kinds.values()]) if kind == "one of each" else kinds[kind]


def train(network: nn.Module, images: Tensor, precision: str, steps: int = 4) -> None:
    """Some optimizer steps, as PyTorch's examples make them; everything is looked at after each."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, enabled=precision == "fp16")
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    labels = torch.arange(len(images)) % 10
    taken = 0
    for step in range(steps):
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            output = network(images)
        loss = nn.functional.cross_entropy(output.float(), labels)
        assert loss.isfinite(), f"step {step}"
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        finite = all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())
        assert finite or precision == "fp16", f"step {step}: a gradient"
        taken += finite
        scaler.step(optimizer)  # leaves a step out whose gradients are not finite
        scaler.update()
        for name, value in network.state_dict().items():
            assert value.isfinite().all(), f"step {step}: {name}"
    assert taken, "every step was left out"
    with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype is not None):
        assert network.eval()(images).isfinite().all()


@pytest.mark.parametrize("images", IMAGES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_training_stays_finite(precision, images, tally):
    """Images of 8 x 8 pixels, so that the last maps have 2 x 2: AN trains where its BatchNorm twin does."""
    for name in ("resnet8_cifar", "resnet8_cifar_an"):
        torch.manual_seed(0)
        train(timm.create_model(name, num_classes=10), make_images(images), precision)
        tally["networks"] += 1


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_stays_finite(family, tally):
    """In bf16 with one image of each kind; 32 x 32 pixels, so that the last maps of most have one pixel."""
    torch.manual_seed(0)
    train(timm.create_model(family, num_classes=10), make_images("one of each", 32), "bf16", steps=2)
    tally["networks"] += 1


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_batch_of_one_stays_finite(precision):
    """With frozen norms, as detection trains, or with the group variant."""
    for kind in ("zeros", "huge mean"):
        torch.manual_seed(0)
        frozen = freeze_norm(timm.create_model("resnet8_cifar_an", num_classes=10))
        train(frozen, make_images(kind)[:1] / 1e3, precision)


def test_a_step_with_infinite_gradients_is_left_out_and_no_divergence():
    """A loss scale too large for float16: the scaler skips steps and halves; weights stay, the loss is finite."""
    torch.manual_seed(0)
    network = timm.create_model("resnet8_cifar_an", num_classes=10)
    before = copy.deepcopy(dict(network.named_parameters()))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    with torch.autocast("cpu", torch.float16):
        output = network(make_images("ordinary"))
    loss = nn.functional.cross_entropy(output.float(), torch.arange(4))
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    assert loss.isfinite()
    assert scaler.get_scale() == 2.0**39
    assert all(torch.equal(p, before[name]) for name, p in network.named_parameters())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kind", KINDS)
def test_float16_gradients_that_cancel_do_not_overflow(kind, layout):
    """A gradient scale g + ... is a difference; its terms, 316 times g for a constant channel, are beyond float16.

    They were rounded to float16 before they were added: inf - inf.
    """
    layer = make(kind)
    x = torch.full((4, 8, 2, 2), 3.0).half().to(memory_format=layout).requires_grad_()
    dy = torch.full_like(x, 2000.0)
    truth = torch.autograd.grad(copy.deepcopy(layer).double()(x.double()), x, dy.double())[0]
    dx = torch.autograd.grad(layer(x), x, dy)[0]
    scale = 2000 * 316 * layer.weight.abs().sum(0).max().item()
    # A float32 difference of such terms; float16 then rounds it.
    assert_close(dx.double(), truth.double(), rtol=2**-10, atol=64 * 2**-24 * scale)


@pytest.mark.parametrize("head", ["linear", "mlp"])
@pytest.mark.parametrize(("shape", "value"), [((4, 8, 1, 1), 1e4), ((4, 8, 3, 3), 1e4), ((4, 8, 1, 1), 100.0)])
def test_gradients_of_maps_without_spread(shape, value, head):
    """Where x = m, the variance's gradient multiplies x - m = 0.

    The pass over x computed slope x - slope m, with a slope of up to (1e-3)^-3/2 m: its rounding was larger than all
    else in dx.
    """
    torch.manual_seed(0)
    layer = AttentiveGroupNorm(8, 1, 3, head=head)
    with torch.no_grad():
        for parameter in layer.attention.parameters():
            parameter.mul_(1e-6)  # the gate's middle, whatever the mean
    x = (torch.rand(shape[:2]) * value)[..., None, None].expand(shape).contiguous().requires_grad_()
    dy = torch.randn(shape)
    truth = torch.autograd.grad(copy.deepcopy(layer).double()(x.double()), x, dy.double())[0]
    dx = torch.autograd.grad(layer(x), x, dy)[0]
    # Some roundings of g scale, since dx is a difference of such.
    scale = (layer.weight.abs().sum(0).max() / x.detach().std((1, 2, 3)).min()).item()
    assert_close(dx, truth.float(), rtol=1e-5, atol=16 * 2**-24 * dy.abs().max().item() * scale)


@pytest.mark.parametrize("name", ["batch", "group", "plain"])
def test_maps_without_pixels_teach_nothing(name):
    """They were taken for samples: means of nothing, NaN, went into the running statistics."""
    layer = BatchNorm(8) if name == "plain" else make(KINDS[name == "group"])
    before = copy.deepcopy(layer.state_dict())
    x = torch.randn(4, 8, 0, 5, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert y.shape == x.shape
    assert all(p.grad is None or not p.grad.any() for p in layer.parameters())
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())


def test_a_refused_batch_leaves_the_attention_alone():
    """With an attention that is called as a module, its norm followed the batch before the layer refused it."""
    layer = AttentiveGroupNorm(1, 1, 3, logit_norm="batch", head="mlp")
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(ValueError, match="more than 1 value per group"):
        layer(torch.randn(2, 1, 1, 1))
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())


@pytest.mark.parametrize("momentum", [0.01, None])
def test_half_precision_statistics_are_updated_in_float32(momentum):
    """A batch's variance may be beyond float16 while a hundredth of it is not; and 1/3 is not rounded to bfloat16."""
    for dtype, spread in ((torch.float16, 500.0), (torch.bfloat16, 3.0)):
        layer = make(AttentiveBatchNorm2d, momentum=momentum).to(dtype)
        exact = torch.ones(8, dtype=torch.float64)
        layer.num_batches_tracked.fill_(99 if momentum is None else 0)
        x = (torch.randn(4, 8, 5, 5) * spread).to(dtype)
        layer(x)
        var = x.double().transpose(0, 1).flatten(1).var(1)
        assert_close(layer.running_var.double(), exact.lerp(var, 0.01), rtol=torch.finfo(dtype).eps, atol=0)


def test_one_logit_of_one_sample_is_served():
    """F.group_norm refuses it, so the answer depended on the backend."""
    layer = AttentiveGroupNorm(4, 2, 1, logit_norm="layer", head="mlp").eval()
    assert layer(torch.randn(1, 4, 3, 3)).isfinite().all()


@pytest.mark.parametrize("act_layer", ["relu", "relu6", "silu", "hard_swish", "leaky_relu"])
@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
def test_nan_and_infinity_show_in_their_own_sample_alone(bad, act_layer):
    """Promised of an input that is not finite: the sample's output is not either, and other samples do not see it."""
    from attnorm import AttentiveBatchNormAct2d, AttentiveGroupNormAct

    for kind in (AttentiveBatchNormAct2d, AttentiveGroupNormAct):
        layer = make(kind, act_layer=act_layer).eval()
        x = torch.randn(4, 8, 5, 5)
        expected = layer(x)
        x[1, 3, 2, 2] = bad
        y = layer(x)
        assert y[1].isnan().any()
        assert_close(y[[0, 2, 3]], expected[[0, 2, 3]])
