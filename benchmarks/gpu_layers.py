"""The parts of benchmarks/gpu.py that concern one layer, and what all parts are made of.

A part is a generator of entries: a name with a ratio and its target, or with a text.
"""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import attnorm
from attnorm.evidence.interleaved import Interleaved, Ratio, Step
from attnorm.layers.activation import Activation
from benchmarks import gpu_kernels
from benchmarks.contenders import CONTENDERS, SHAPES, Case, checked, layer_steps
from benchmarks.network_cost import check_values

DEVICE = "cuda"
QUEUED = 20  # layer calls between two waits for the device, which then never runs dry, as it does not in a network

Entry = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Sizes of what is measured."""

    batch_size: int
    side: int


def entry(name: str, ratio: Ratio, target: str = "") -> Entry:
    """A ratio under a name, with the key of its target."""
    return {"name": name, "ratio": ratio.as_dict(), "target": target}


def queued(step: Step, count: int) -> Step:
    """The step `count` times without waiting in between; one phase, "queued"."""

    def run() -> Iterator[str]:
        for _ in range(count):
            for _ in step():
                pass
        yield "queued"

    return run


def values(settings: Settings) -> Iterator[Entry]:
    """The kernels and the layers on this device against float64."""
    from attnorm.layers import kernels

    x = Case(channels=64, side=56, components=10, layout="channels_last", batch=2, device=DEVICE).tensor()
    yield {"name": "backend", "text": attnorm.backend().explain(x)}
    worst, wrong = gpu_kernels.check_kernels(kernels, gpu_kernels.small_cases(DEVICE))
    yield {"name": "kernels, worst error as a share of the allowed", "text": f"{worst:.2g}"}
    if wrong:
        raise RuntimeError("; ".join(wrong))
    with attnorm.backend("triton"):  # by name, so that nothing else can stand in for the kernels
        for case in _checked_cases():
            for name in ("AN", "AN+ReLU", "AN groups"):
                for training in (True, False):
                    checked(CONTENDERS[name], case, training, case.tensor().requires_grad_(training), case.tensor())
    yield {"name": "layers, outputs and all gradients", "text": "as defined"}
    yield {"name": "resnet50_an, float32, relative error of its logits", "text": f"{check_values(DEVICE):.1e}"}


def _checked_cases() -> list[Case]:
    """The shapes that are measured, and two in float32 and NCHW."""
    plain = [
        Case(channels=c, side=side, components=k, layout="NCHW", batch=32, device=DEVICE)
        for c, side, k in (SHAPES[0], SHAPES[-1])
    ]
    return _cases(Settings(batch_size=32, side=0)) + plain


def kernels_alone(settings: Settings) -> Iterator[Entry]:
    """Each pass over x alone, from CUDA graphs: the share of the device's copy bandwidth."""
    from attnorm.layers import kernels

    bandwidth = gpu_kernels.copy_bandwidth(DEVICE)
    yield {"name": "copy of 1 GiB", "text": f"{bandwidth / 1e9:.0f} GB/s"}
    for case in _cases(settings):
        for activation in (None, Activation("relu")):
            for name, share in gpu_kernels.shares(kernels, case, activation, bandwidth).items():
                if name != "measure" or activation is None:
                    fused = "" if activation is None else f" with {activation.name}"
                    # The small maps' kernels are so short that starting them shows: the bound is for the big ones.
                    big = case.shape in ("64x56x56", "128x28x28")
                    yield entry(f"{name}{fused}, {case.shape}, share of copy", share, "share" if big else "")


def layers(settings: Settings) -> Iterator[Entry]:
    """AN against BN: eager with the queue kept full, and the device's work alone, from CUDA graphs."""
    for case in _cases(settings):
        for names, target in ((("AN", "BN"), "an_bn_train"), (("AN+ReLU", "BN+ReLU"), "an_bn_relu_train")):
            torch.manual_seed(1)
            x, dy = case.tensor().requires_grad_(), case.tensor()
            modules = {name: checked(CONTENDERS[name], case, True, x, dy) for name in names}
            what = f"{' / '.join(names)}, {case.shape}, forward and backward"
            steps = {name: queued(layer_steps(module, case, x, dy), QUEUED) for name, module in modules.items()}
            timed = Interleaved(steps, DEVICE)
            timed.run(25)
            yield entry(f"{what}, eager", timed.ratio(*names), target)
            alone = {name: gpu_kernels.graph_seconds([_graphed(m, case, x, dy)] * 4) for name, m in modules.items()}
            yield entry(f"{what}, device alone", Ratio.of(alone[names[0]], alone[names[1]]), target)
            medians = (f"{name} {1000 * statistics.median(seconds):.4g} ms" for name, seconds in alone.items())
            yield {"name": f"{case.shape}, device alone", "text": ", ".join(medians)}


def _graphed(module: nn.Module, case: Case, x: torch.Tensor, dy: torch.Tensor) -> Callable[[], object]:
    """A training step that leaves no gradients behind, as a capture wants it."""
    inputs = (x, *module.parameters())

    def run() -> object:
        with case.autocast():
            y = module(x)
        return torch.autograd.grad(y, inputs, dy)

    return run


def _cases(settings: Settings) -> list[Case]:
    size = settings.batch_size
    return [
        Case(channels=c, side=s, components=k, layout="channels_last", dtype="bfloat16", batch=size, device=DEVICE)
        for c, s, k in SHAPES
    ]
