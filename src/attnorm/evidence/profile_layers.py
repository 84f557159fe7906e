"""What each layer of a network costs: parameters, operations, and its share of the time of inference.

A layer is a module that has parameters or computes something itself. Attentive Normalization, and norms with their
activation, are one layer each, whatever they are made of inside. What a module does besides its children, such as the
addition in a residual block, is its own.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase  # pyright: ignore[reportPrivateUsage]

from attnorm.errors import JobError
from attnorm.evidence.operations import counting
from attnorm.evidence.timing import wait
from attnorm.layers.attentive import AttentiveNorm

PASSES = 15
SEEN = 0.005  # share of the time from which a module without parameters or operations is listed
Reading = tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One row of the table.

    Attributes:
        name: of the module in its network, "" for the network itself.
        kind: the module's class.
        parameters: trainable ones of its own.
        macs: as in `attnorm.evidence.operations`, of one image; None where the network cannot be counted.
        elements: likewise the other operations.
        milliseconds: per image, the median over the passes, waiting for the device before and after the layer.
        share: of the sum of all layers' milliseconds, from 0 to 1.
    """

    name: str
    kind: str
    parameters: int
    macs: int | None
    elements: int | None
    milliseconds: float
    share: float


def layers(
    model: nn.Module, image: Any, infer: Callable[[], object], images: int, device: torch.device, passes: int = PASSES
) -> list[Layer]:
    """The layers in the order in which the network lists them, those left out that cost nothing.

    Args:
        model: in evaluation mode, on the device.
        image: one, on the device, for the counts.
        infer: an inference on a batch, for the time.
        images: in that batch.
        device: where it runs.
        passes: how often the time is taken, after one pass to warm up.
    """
    modules = dict(walk(model))
    counts = _counts(model, modules, image)
    infer()
    readings = [_exclusive(modules, infer, lambda: _now(device)) for _ in range(passes)]
    medians = {name: statistics.median(reading[name][0] for reading in readings) for name in modules}
    total = sum(medians.values()) or 1.0
    return [
        Layer(
            name=name,
            kind=type(module).__name__,
            parameters=_own_parameters(module),
            macs=None if counts is None else int(counts[name][0]),
            elements=None if counts is None else int(counts[name][1]),
            milliseconds=1000 * medians[name] / images,
            share=medians[name] / total,
        )
        for name, module in modules.items()
        if _own_parameters(module) or medians[name] >= SEEN * total or (counts is not None and any(counts[name]))
    ]


def walk(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """A module and those in it, by name; not those inside of a norm."""
    yield name, module
    if not _is_whole(module):
        for child_name, child in module.named_children():
            yield from walk(child, f"{name}.{child_name}" if name else child_name)


def _is_whole(module: nn.Module) -> bool:
    return isinstance(module, (AttentiveNorm, _NormBase, nn.GroupNorm, nn.LayerNorm))


def _own_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters(recurse=_is_whole(module)) if p.requires_grad)


def _counts(model: nn.Module, modules: dict[str, nn.Module], image: Any) -> dict[str, Reading] | None:
    try:
        with counting(model) as counter:
            return _exclusive(modules, lambda: model(image), lambda: (counter.macs, sum(counter.elements.values())))
    except JobError:
        return None


def _now(device: torch.device) -> Reading:
    wait(device)
    return (time.perf_counter(),)


def _exclusive(
    modules: dict[str, nn.Module], run: Callable[[], object], read: Callable[[], Reading]
) -> dict[str, Reading]:
    """What a reading grows by while each module runs, and none of those inside of it that are listed too."""
    width = len(read())
    own = {name: [0.0] * width for name in modules}
    running: list[tuple[Reading, list[float]]] = []  # where each began, and what its children took

    def enter(module: nn.Module, args: Any) -> None:
        running.append((read(), [0.0] * width))

    def leave(name: str, module: nn.Module, args: Any, out: Any) -> None:
        end = read()
        start, inside = running.pop()
        taken = [b - a for a, b in zip(start, end, strict=True)]
        for index, (whole, children) in enumerate(zip(taken, inside, strict=True)):
            own[name][index] += whole - children
            if running:
                running[-1][1][index] += whole

    with _hooked(modules, enter, leave):
        run()
    return {name: tuple(values) for name, values in own.items()}


@contextmanager
def _hooked(modules: dict[str, nn.Module], enter: Callable[..., None], leave: Callable[..., None]) -> Iterator[None]:
    handles: list[Any] = []
    for name, module in modules.items():
        handles.append(module.register_forward_pre_hook(enter))
        handles.append(module.register_forward_hook(lambda *given, name=name: leave(name, *given)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
