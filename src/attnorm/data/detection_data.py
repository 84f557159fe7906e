"""What comes of the settings of a detection set: images with boxes and masks, in one or two parts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from attnorm.data.annotations import Annotations, Category, Target
from attnorm.data.augment import SampleKey, sample_generator
from attnorm.data.bad_images import LONGEST, BadImages, UnreadableImagesError
from attnorm.data.coco_augment import flip, large_scale_jitter
from attnorm.data.coco_config import CocoConfig
from attnorm.data.images import to_tensor
from attnorm.errors import DataError, shown


class DetectionDataset(Dataset[tuple[Tensor, Target]]):
    """Images with what is to be found in them, decoded when asked for.

    A plain index gives the image itself, without masks: evaluation compares with `ground_truth`, and those of a large
    image, decoded, can fill gigabytes. A `SampleKey` gives it augmented, as the key alone says, with masks. An
    unreadable image is named in a warning, once. In training the next readable one takes its place (of the same
    orientation, if there is one); in evaluation it is left out, so that a batch can be shorter, even empty. More than
    `max_bad_images` of them end the run.

    Args:
        annotations: of the images.
        read: gives an image in RGB, of the size that `annotations` says; DataError or OSError where it cannot.
        coco: the augmentation that a `SampleKey` asks for, and whether batches are to be grouped.
        max_bad_images: see `DataConfig`.
        title: the part's name in messages.
        fill: the colour that lsj fills with, 0 to 255.
    """

    def __init__(
        self,
        annotations: Annotations,
        read: Callable[[int], Image.Image],
        *,
        coco: CocoConfig,
        max_bad_images: int,
        title: str,
        fill: tuple[int, int, int],
    ) -> None:
        self.annotations, self.coco, self.title = annotations, coco, title
        self._read_image, self._fill = read, fill
        self._bad = BadImages(annotations.files, max_bad_images, title)

    def __len__(self) -> int:
        return len(self.annotations.files)

    def __getitem__(self, key: int | SampleKey) -> tuple[Tensor, Target]:
        images, targets = self.__getitems__([key])
        if not images:
            index = key.sample if isinstance(key, SampleKey) else key
            raise DataError(f"{shown(self.annotations.files[index], LONGEST)} is not a readable image")
        return images[0], targets[0]

    def image(self, index: int) -> Image.Image:
        """An image itself, in RGB.

        Raises:
            DataError: it is unreadable.
        """
        return self._read_image(index)

    def __getitems__(self, keys: Sequence[int | SampleKey]) -> tuple[list[Tensor], list[Target]]:
        """A batch: images, uint8 (3, H, W) each of its own size, and a target for each, see `Annotations.target`."""
        pairs = [pair for key in keys if (pair := self._pair(key)) is not None]
        return [to_tensor(image) for image, _ in pairs], [target for _, target in pairs]

    @property
    def has_masks(self) -> bool:
        """Whether there are masks."""
        return self.annotations.segmentations is not None

    @property
    def aspect_ratios(self) -> np.ndarray:
        """Width / height of each image, (N,)."""
        return self.annotations.sizes[:, 1] / self.annotations.sizes[:, 0]

    @property
    def groups(self) -> np.ndarray | None:
        """For each image the number of the group that shares its batches, (N,); None: batches are not grouped."""
        if not self.coco.aspect_grouping or self.coco.augment == "lsj":  # which makes squares of all
            return None
        return (self.aspect_ratios > 1).astype(np.int64)

    def ground_truth(self, image_ids: Collection[int] | None = None) -> dict[str, Any]:
        """What COCO's evaluation compares with, see `Annotations.ground_truth`."""
        return self.annotations.ground_truth(image_ids)

    def bad_files(self) -> list[str]:
        """The names of the images found unreadable so far, by this process and its workers."""
        return self._bad.names()

    def _pair(self, key: int | SampleKey) -> tuple[Image.Image, Target] | None:
        if not isinstance(key, SampleKey):
            image = self._read(key)
            return None if image is None else (image, self.annotations.target(key, masks=False))
        for index in self._instead_of(key.sample):
            image = self._read(index)
            if image is not None:
                return self._augment(image, self.annotations.target(index), sample_generator(key))
        raise UnreadableImagesError(
            f"{self.title}: there must be a readable image; none of {len(self)} is: mend or replace them"
        )

    def _augment(self, image: Image.Image, target: Target, rng: np.random.Generator) -> tuple[Image.Image, Target]:
        if self.coco.augment != "none" and rng.random() < 0.5:
            image, target = flip(image, target)
        if self.coco.augment == "lsj":
            return large_scale_jitter(image, target, side=self.coco.jitter_size, fill=self._fill, rng=rng)
        return image, target

    def _instead_of(self, index: int) -> Iterator[int]:
        """The image itself, then those that take its place one after the other."""
        yield index
        following = np.roll(np.arange(len(self)), -index - 1)[:-1]
        wide = self.aspect_ratios > 1
        yield from following[wide[following] == wide[index]].tolist()
        yield from following[wide[following] != wide[index]].tolist()

    def _read(self, index: int) -> Image.Image | None:
        if index in self._bad:
            return None
        try:
            return self._read_image(index)
        except (DataError, OSError) as error:
            self._bad.add(index, error)
            return None


@dataclass(frozen=True, kw_only=True)
class DetectionData:
    """Images with boxes and masks, checked and ready for `make_loader`.

    Attributes:
        name: the data set's name as it was asked for.
        train: the training part (None when not asked for).
        val: the evaluation part (None when not asked for).
        categories: in the order of the labels, of which the first is 1.
        has_masks: whether there are masks, in both parts.
        mean: per channel, on the scale 0 to 1.
        std: likewise.
        notes: sentences with the counts of what was left out or changed; for the log.
    """

    name: str
    train: DetectionDataset | None
    val: DetectionDataset | None
    categories: tuple[Category, ...]
    has_masks: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    notes: tuple[str, ...]
