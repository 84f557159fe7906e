"""An exported file beside the network itself."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from attnorm.deploy.subject import Subject

Runner = Callable[[Tensor], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Difference:
    """How far an exported network's outputs are from the network's own, for one batch.

    Attributes:
        shape: Of the images, (N, C, H, W).
        absolute: The largest difference.
        relative: The largest difference as a share of the largest absolute value of the same output, the worst of all
            outputs.
    """

    shape: tuple[int, ...]
    absolute: float
    relative: float


def sizes(side: int, *, static: bool) -> list[tuple[int, int, int]]:
    """Batch, height and width to compare at, three times; unless static, all others than the traced one."""
    if static:
        return 3 * [(1, side, side)]
    return [(1, side, side), (2, side + 9, side + 32), (4, side + 32, side + 1)]


def compare(run: Runner, subject: Subject, *, static: bool) -> list[Difference]:
    """Runs both on random images; NaN and infinity count as a difference of infinity."""
    generator = torch.Generator().manual_seed(0)
    found: list[Difference] = []
    for batch, height, width in sizes(subject.meta.image_size, static=static):
        # Blobs and noise: images of noise alone all have the same moments.
        coarse = torch.rand(batch, subject.meta.in_chans, 3, 3, generator=generator)
        images = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
        images = 0.7 * images + 0.3 * torch.rand(images.shape, generator=generator)
        pairs = zip(run(images), subject.run(images), strict=True)
        found.append(_difference(tuple(images.shape), list(pairs)))
    return found


def _difference(shape: tuple[int, ...], pairs: list[tuple[Tensor, Tensor]]) -> Difference:
    absolute = relative = 0.0
    for ours, truth in pairs:
        if ours.shape != truth.shape or not (ours.isfinite().all() and truth.isfinite().all()):
            return Difference(shape, float("inf"), float("inf"))
        if not truth.numel():  # a detector may find nothing
            continue
        largest = float((ours - truth).abs().max())
        absolute = max(absolute, largest)
        relative = max(relative, largest / max(float(truth.abs().max()), torch.finfo(torch.float32).tiny))
    return Difference(shape, absolute, relative)
