"""What a network costs in time: a training step and an evaluation pass, measured side by side.

The networks take turns, round by round, so that whatever else the machine does falls on all of them alike; of the
rounds the median counts, and the quartiles show how steady it was.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnorm.training.evaluation import autocast

ROUNDS = 9


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Milliseconds per image over the rounds: the median, and the quartiles on both sides of it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, seconds: Sequence[float], images: int) -> "Timing":
        """Summarise the rounds' durations, each of which served `images` images."""
        low, median, high = (1000 * q / images for q in statistics.quantiles(seconds, n=4, method="inclusive"))
        return cls(median=median, low=low, high=high)


class Batch(Protocol):
    """What the networks are timed on: one and the same batch for all."""

    @property
    def count(self) -> int:
        """Its images."""
        ...

    def to(self, device: torch.device, memory_format: torch.memory_format) -> "Batch":
        """The batch on a device."""
        ...

    def loss(self, model: nn.Module) -> Tensor:
        """Forward and loss, in training mode."""
        ...

    def infer(self, model: nn.Module) -> object:
        """Forward, in evaluation mode."""
        ...


@dataclass(frozen=True)
class ClassifiedImages:
    """Images (N, C, H, W) with labels (N,)."""

    images: Tensor
    labels: Tensor

    @classmethod
    def random(cls, count: int, input_size: Sequence[int], num_classes: int) -> "ClassifiedImages":
        """So many random images of (C, H, W), every class in turn."""
        return cls(torch.randn(count, *input_size), torch.arange(count) % num_classes)

    @property
    def count(self) -> int:
        """The number of images."""
        return len(self.labels)

    def to(self, device: torch.device, memory_format: torch.memory_format) -> "ClassifiedImages":
        """The batch on a device."""
        return ClassifiedImages(self.images.to(device).to(memory_format=memory_format), self.labels.to(device))

    def loss(self, model: nn.Module) -> Tensor:
        """The cross entropy."""
        return F.cross_entropy(model(self.images).float(), self.labels)

    def infer(self, model: nn.Module) -> object:
        """The logits."""
        return model(self.images)


@dataclass(frozen=True)
class ImagesWithObjects:
    """Images (3, H, W) with a target each, see `attnorm.detection.detector.Detector`."""

    images: list[Tensor]
    targets: list[dict[str, Tensor]]

    @property
    def count(self) -> int:
        """The number of images."""
        return len(self.images)

    def to(self, device: torch.device, memory_format: torch.memory_format) -> "ImagesWithObjects":
        """The batch on a device; images of their own sizes have no memory format."""
        targets = [{name: value.to(device) for name, value in target.items()} for target in self.targets]
        return ImagesWithObjects([image.to(device) for image in self.images], targets)

    def loss(self, model: nn.Module) -> Tensor:
        """The sum of the detector's losses."""
        return torch.stack(list(model(self.images, self.targets).values())).sum()

    def infer(self, model: nn.Module) -> object:
        """The detections, masks in their small form."""
        return cast(Any, model).detect(self.images)


def time_networks(
    models: Mapping[str, nn.Module],
    batch: Batch,
    *,
    device: torch.device | str = "cpu",
    precision: str = "32",
    channels_last: bool = False,
    rounds: int = ROUNDS,
) -> dict[str, dict[str, Timing]]:
    """Times every network on one and the same batch.

    Args:
        models: the networks by name; their running statistics and gradients are changed.
        batch: images, with what is to be learnt of them.
        device: where they run.
        precision: "32", "bf16" or "fp16".
        channels_last: memory format of weights and images.
        rounds: how often each is timed, after one pass to warm up.

    Returns:
        By name "train" (forward, loss, backward; no optimizer step) and "eval" (forward).
    """
    device = torch.device(device)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    batch = batch.to(device, memory_format)
    seconds: dict[tuple[str, str], list[float]] = {}
    placed = {name: model.to(device).to(memory_format=memory_format) for name, model in models.items()}  # pyright: ignore
    for round_number in range(rounds + 1):
        for name, model in placed.items():
            train = _duration(lambda model=model: _train_step(model, batch, precision, device), device)
            evaluate = _duration(lambda model=model: _eval_pass(model, batch, precision, device), device)
            if round_number > 0:
                seconds.setdefault((name, "train"), []).append(train)
                seconds.setdefault((name, "eval"), []).append(evaluate)
    return {name: {kind: Timing.of(seconds[name, kind], batch.count) for kind in ("train", "eval")} for name in models}


def _duration(run: Callable[[], object], device: torch.device) -> float:
    """Seconds that one call takes, the device's work included."""
    wait(device)
    start = time.perf_counter()
    run()
    wait(device)
    return time.perf_counter() - start


def wait(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _train_step(model: nn.Module, batch: Batch, precision: str, device: torch.device) -> None:
    model.train()
    model.zero_grad(set_to_none=True)
    with autocast(precision, device):
        loss = batch.loss(model)
    loss.backward()


def _eval_pass(model: nn.Module, batch: Batch, precision: str, device: torch.device) -> None:
    model.eval()
    with torch.no_grad(), autocast(precision, device):
        batch.infer(model)
