"""What networks are timed on, and how a timing is summed up: the median counts, quartiles show how steady it was."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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


def wait(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
