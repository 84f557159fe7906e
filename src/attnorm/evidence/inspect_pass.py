"""One pass over a data set: sums of what every AN layer mixes, and a few images with their own weights."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attnorm.errors import DataError, JobError
from attnorm.evidence.inspect_data import Batch, Source
from attnorm.evidence.mixture import MixtureStatistics
from attnorm.evidence.mixture_watch import MixtureWatch


@dataclass
class Example:
    """An image that is shown with its own weights.

    Attributes:
        position: among the images that were looked at, from 0.
        label: number of its class; None without classes.
        picture: uint8 (H, W, C).
        weights: its lambda by layer, of the layers that see images.
    """

    position: int
    label: int | None
    picture: NDArray[np.uint8]
    weights: dict[str, list[float]]


class Seen:
    """What a pass over the data leaves: bounded, whatever the number of images.

    Args:
        affine: `weight` (K, C) of each layer, by name.
        classes: of the images; None without.
        examples: how many images to keep, each of another class: the first of classes that are evenly spread, and where
            some of those have no images, of the other classes that come first.

    Attributes:
        images: how many.
        per_class: images of each class; empty without classes.
        layers: statistics by name, in the order in which the layers first ran.
        examples: in the order of the images.
    """

    def __init__(self, affine: dict[str, NDArray[np.float64]], classes: int | None, examples: int = 0) -> None:
        self.affine, self.groups = affine, classes or 1
        self.images = 0
        self.per_class = [0] * (classes or 0)
        self.layers: dict[str, MixtureStatistics] = {}
        self.examples: list[Example] = []
        self._wanted = _spread(examples, classes) if classes else set(range(examples))  # classes, or positions
        self._spare: dict[int, Example] = {}  # the first of classes that are not wanted, as many as are wanted
        self._most = len(self._wanted)

    def add(self, batch: Batch, calls: dict[str, list[Tensor]]) -> None:
        """Takes a batch and what the layers mixed for it.

        A layer sees images if every forward pass calls it once with as many inputs as there are images. The others,
        such as those of a detector's heads, which see regions, have no classes.

        Raises:
            JobError: a layer's weights are not finite.
        """
        count = len(batch.images)
        labels = np.zeros(count, dtype=np.int64) if batch.classes is None else batch.classes
        own: dict[str, NDArray[np.float64]] = {}  # of the layers that see images
        for name, parts in calls.items():
            weights = _numbers(torch.cat(parts))
            if not np.isfinite(weights).all():
                raise JobError(
                    f"the mixture weights of {name} must be finite, and those of images {self.images} to "
                    f"{self.images + count - 1} are not: the network is damaged, or diverged when it was trained"
                )
            per_image = len(parts) == 1 and len(weights) == count
            if name not in self.layers:
                self.layers[name] = MixtureStatistics(*self.affine[name].shape, classes=self.groups)
            self.layers[name].add(weights, self.affine[name], labels if per_image else None)
            if per_image:
                own[name] = weights
        self._keep_examples(batch, own)
        if batch.classes is not None:
            self.per_class = (np.bincount(batch.classes, minlength=self.groups) + self.per_class).tolist()
        self.images += count

    def _keep_examples(self, batch: Batch, weights: dict[str, NDArray[np.float64]]) -> None:
        kept = {example.label for example in self.examples} | self._spare.keys()
        for i, image in enumerate(batch.images):
            position = self.images + i
            label = None if batch.classes is None else int(batch.classes[i])
            wanted = (position if label is None else label) in self._wanted
            if not wanted and (label is None or label in kept or len(self._spare) >= self._most):
                continue
            own = {name: values[i].tolist() for name, values in weights.items()}
            example = Example(position, label, _picture(image), own)
            kept.add(label)
            if wanted:
                self._wanted.remove(position if label is None else label)
                self.examples.append(example)
            elif label is not None:
                self._spare[label] = example

    def finish(self) -> None:
        """Fills up the examples, in the order of their classes; a layer that did not see every image has no classes."""
        for statistics in self.layers.values():
            statistics.per_image &= statistics.samples == self.images
        self.examples += list(self._spare.values())[: self._most - len(self.examples)]
        self.examples.sort(key=lambda example: -1 if example.label is None else example.label)
        for example in self.examples:
            example.weights = {name: w for name, w in example.weights.items() if self.layers[name].per_image}


@torch.no_grad()
def look(model: nn.Module, watch: MixtureWatch, source: Source, *, examples: int = 0) -> Seen:
    """Runs the network on every image and keeps sums of what its layers mixed.

    Args:
        model: in evaluation mode.
        watch: on its layers.
        source: the images.
        examples: how many images to keep; see `Seen`.

    Raises:
        DataError: there are fewer than two images.
        JobError: a layer's weights are not finite.
    """
    affine = {name: _numbers(layer.weight) for name, layer in watch.layers.items()}
    seen = Seen(affine, None if source.classes is None else len(source.classes), examples)
    for batch in source.batches():
        source.show(model, batch.images)
        seen.add(batch, watch.take())
    if seen.images < 2:
        raise DataError(f"{source.name} must have at least 2 readable images to look at, it has {seen.images}")
    seen.finish()
    return seen


def _spread(wanted: int, classes: int) -> set[int]:
    """So many classes, from the first on at equal distances."""
    return {i * classes // wanted for i in range(wanted)} if wanted < classes else set(range(classes))


def _numbers(values: Tensor) -> NDArray[np.float64]:
    return values.detach().double().cpu().numpy()


def _picture(image: Tensor, side: int = 160) -> NDArray[np.uint8]:
    """The image (C, H, W) at most `side` pixels wide and high, as (H, W, C)."""
    from PIL import Image

    pixels = image.cpu().numpy().transpose(1, 2, 0)
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    picture.thumbnail((side, side))
    return np.asarray(picture.convert("RGB"))
