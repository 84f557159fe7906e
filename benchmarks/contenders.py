"""The layers that are compared, each with its reason, and the check that they compute what they claim."""

import copy
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from timm.layers.squeeze_excite import SEModule
from torch import Tensor, nn

import attnorm
from attnorm.evidence.interleaved import Step
from benchmarks.authors import ReleasedFormulation

COMPILERS = ("g++", "c++", "clang++")


@dataclass(frozen=True, kw_only=True)
class Case:
    """What a layer is measured on.

    Attributes:
        channels: C.
        side: H and W.
        components: K of the AN layers.
        layout: "NCHW" or "channels_last".
        dtype: Of x: "float32", or "bfloat16" under autocast with float32 parameters.
        batch: N.
        device: Where.
    """

    channels: int
    side: int
    components: int
    layout: str
    dtype: str = "float32"
    batch: int = 32
    device: str = "cpu"

    @property
    def name(self) -> str:
        """For example "64x56x56 NCHW float32"."""
        return f"{self.shape} {self.layout} {self.dtype}"

    @property
    def shape(self) -> str:
        """For example "64x56x56"."""
        return f"{self.channels}x{self.side}x{self.side}"

    def tensor(self) -> Tensor:
        """A random (N, C, H, W) tensor of the case's dtype and layout, on its device."""
        form = torch.channels_last if self.layout == "channels_last" else torch.contiguous_format
        x = torch.randn(self.batch, self.channels, self.side, self.side, device=self.device)
        return x.to(dtype=getattr(torch, self.dtype), memory_format=form)

    def autocast(self) -> AbstractContextManager[object]:
        """As a network runs: autocast where x is in half precision."""
        if self.dtype == "float32":
            return nullcontext()
        return torch.autocast(self.device, getattr(torch, self.dtype))


# ResNet-50's stages at 224x224, where AN stands, with the paper's number of components.
SHAPES = ((64, 56, 10), (128, 28, 10), (256, 14, 20), (512, 7, 20))
LAYOUTS = ("NCHW", "channels_last")


def cases(dtype: str = "float32", batch: int = 32, device: str = "cpu") -> list[Case]:
    """All shapes in both layouts."""
    return [
        Case(channels=c, side=side, components=k, layout=layout, dtype=dtype, batch=batch, device=device)
        for layout in LAYOUTS
        for c, side, k in SHAPES
    ]


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A layer to be measured.

    Attributes:
        name: As tables show it.
        reason: Why it is compared.
        make: Builds it for a case.
        definition: Builds a layer of the same parameters that, in float64 and with the reference backend, says what
            the values must be.
        passes: Times that x-sized tensors are read or written by a training step and by an evaluation, at least.
        compiled: Whether torch.compile is part of it.
    """

    name: str
    reason: str
    make: Callable[[Case], nn.Module]
    definition: Callable[[Case], nn.Module]
    passes: tuple[int, int] | None = None
    compiled: bool = False


def _an(case: Case) -> attnorm.AttentiveBatchNorm2d:
    torch.manual_seed(0)  # every form of AN gets the same parameters
    return attnorm.AttentiveBatchNorm2d(case.channels, case.components)


def _an_relu(case: Case) -> nn.Module:
    torch.manual_seed(0)
    return attnorm.AttentiveBatchNormAct2d(case.channels, case.components, act_layer=nn.ReLU)


def _an_groups(case: Case) -> nn.Module:
    torch.manual_seed(0)
    return attnorm.AttentiveGroupNorm(case.channels, 32, case.components)


def _bn(case: Case) -> nn.Module:
    return nn.BatchNorm2d(case.channels)


def _bn_relu(case: Case) -> nn.Module:
    return nn.Sequential(nn.BatchNorm2d(case.channels), nn.ReLU(inplace=True))


def _bn_se(case: Case) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.BatchNorm2d(case.channels), SEModule(case.channels, rd_ratio=1 / 16))


def _gn(case: Case) -> nn.Module:
    return nn.GroupNorm(32, case.channels)


def _compiled(case: Case) -> nn.Module:
    layer = _an(case)
    layer.compile(dynamic=False)  # in place: the parameters keep their names
    return layer


def _plain(
    name: str, reason: str, make: Callable[[Case], nn.Module], passes: tuple[int, int] | None = None
) -> Contender:
    return Contender(name=name, reason=reason, make=make, definition=make, passes=passes)


CONTENDERS = {
    contender.name: contender
    for contender in (
        # Forward two reads and a write, backward four and one; ReLU alone two more there and three back.
        _plain("BN", "nn.BatchNorm2d, what AN replaces", _bn, (8, 2)),
        _plain("AN", "attnorm.AttentiveBatchNorm2d", _an, (8, 3)),
        _plain("BN+ReLU", "nn.BatchNorm2d, nn.ReLU(inplace=True): how BN stands in a network", _bn_relu, (13, 4)),
        _plain("AN+ReLU", "attnorm.AttentiveBatchNormAct2d with ReLU", _an_relu, (8, 3)),
        _plain("BN+SE", "nn.BatchNorm2d and timm's SE at ratio 1/16: the attention that AN competes with", _bn_se),
        _plain("GN", "nn.GroupNorm(32), torch's own norm by sample", _gn),
        _plain("AN groups", "attnorm.AttentiveGroupNorm(groups=32)", _an_groups),
        Contender(
            name="AN compiled",
            reason="torch.compile of AN's definition, fused by Inductor",
            make=_compiled,
            definition=_an,
            compiled=True,
        ),
        Contender(
            name="released AN",
            reason="the released layer's formulation (benchmarks/authors.py)",
            make=lambda case: ReleasedFormulation.like(_an(case)),
            definition=_an,
        ),
    )
}


def compiler() -> str | None:
    """The C++ compiler that Inductor would use on a CPU, or None."""
    return next((name for name in COMPILERS if shutil.which(name)), None)


def layer_steps(module: nn.Module, case: Case, x: Tensor, dy: Tensor) -> Step:
    """One call of the layer as a network makes it: in training mode forward and backward, else forward alone.

    Args:
        module: In the mode that is to be measured.
        case: Says whether autocast is on.
        x: (N, C, H, W), requiring a gradient where the module trains.
        dy: The gradient of the output, of x's dtype and layout.
    """

    def train() -> Iterator[str]:
        with case.autocast():
            y = module(x)
        yield "forward"
        y.backward(dy)
        x.grad = None
        del y  # freeing is part of the price
        yield "backward"
        module.zero_grad(set_to_none=True)

    def evaluate() -> Iterator[str]:
        with torch.no_grad(), case.autocast():
            module(x)
        yield "eval"

    return train if module.training else evaluate


def worst_error(contender: Contender, module: nn.Module, case: Case, x: Tensor, dy: Tensor) -> float:
    """The largest relative error, in the 2-norm, of the output and (in training) of any gradient.

    The truth is the contender's definition in float64; parameters are compared where both have one of that name.
    Running statistics change, as in any call.
    """
    definition = contender.definition(case).to(device=case.device, dtype=torch.float64).train(module.training)
    truth_x = x.detach().double().requires_grad_(module.training)
    with attnorm.backend("reference"):
        truth = definition(truth_x)
    with case.autocast(), torch.set_grad_enabled(module.training):
        y = module(x)
    errors = [relative_error(y, truth)]
    if module.training:
        truth.backward(dy.double())
        y.backward(dy)
        assert x.grad is not None
        assert truth_x.grad is not None
        errors.append(relative_error(x.grad, truth_x.grad))
        truths = dict(definition.named_parameters())
        for name, parameter in module.named_parameters():
            if name in truths:
                gradient, expected = parameter.grad, truths[name].grad
                assert gradient is not None
                assert expected is not None
                errors.append(relative_error(gradient, expected))
        x.grad = None
        module.zero_grad(set_to_none=True)
    return max(errors)


def relative_error(value: Tensor, truth: Tensor) -> float:
    """In the 2-norm; NaN where the truth is 0, which no bound lets pass."""
    return float((value.detach().double() - truth.detach()).norm() / truth.detach().norm())


# Relative errors in the 2-norm: float32 makes about 1e-6; bfloat16 rounds y to 2^-9 = 0.002, and what keeps its
# intermediate results in bfloat16, as the released formulation does under autocast, adds several of those.
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.05, "float16": 0.01}


def checked(contender: Contender, case: Case, training: bool, x: Tensor, dy: Tensor) -> nn.Module:
    """Builds the contender and checks its values.

    Raises:
        RuntimeError: If they are wrong: nothing that is wrong is worth timing.
    """
    module = contender.make(case).to(case.device).train(training)
    error = worst_error(contender, module, case, x, dy)
    if not error <= TOLERANCE[case.dtype]:
        raise RuntimeError(
            f"{contender.name} on {case.name}, {'training' if training else 'evaluation'}: relative error "
            f"{error:.2g} against the definition in float64, allowed {TOLERANCE[case.dtype]:.2g}; not timed"
        )
    return module


def twin(module: nn.Module) -> nn.Module:
    """An identical layer, to see by how much two of the same differ in time."""
    return copy.deepcopy(module)
