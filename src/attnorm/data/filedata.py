"""A data set of image files, decoded when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from attnorm.data.arrays import check_labels
from attnorm.data.augment import SampleKey, augment_batch, erase, resized_crop_flip, sample_generator
from attnorm.data.auto_augment import Policy
from attnorm.data.bad_images import LONGEST, BadImages, UnreadableImagesError
from attnorm.data.image_files import read_image
from attnorm.data.images import RESAMPLE, eval_transform, to_tensor
from attnorm.data.shard_order import ShardWindows
from attnorm.errors import DataError, shown


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where files come from: what a folder, a tar, shards or a timm reader give to `FileDataset`.

    Attributes:
        classes: class names, in the order of the labels.
        labels: int64 (N,).
        names: a name per image, for messages.
        open: from an index to a path or an open binary file. Must not keep anything open (workers are forked).
        shards: for images that lie one after another in S files: the number of each file's first image, and at the end
            the number of images, int64 (S + 1,). None: each image is a file, or they are in no such order.
    """

    classes: tuple[str, ...]
    labels: Tensor
    names: Sequence[str]
    open: Callable[[int], str | IO[bytes]]
    shards: np.ndarray | None = None


class FileDataset(Dataset[tuple[Tensor, int]]):
    """Images that are decoded when asked for.

    An unreadable image is named in a warning, once. In training (a `SampleKey` is asked for) the next readable image of
    the same class takes its place; in evaluation (a plain index) it is left out, so that a batch can be shorter, even
    empty. More than `max_bad_images` of them end the run.

    Args:
        source: the files.
        augment: none, flip, crop_flip or rrc_flip: what a `SampleKey` asks for.
        image_size: side of the result, pixels.
        crop_pct: see `DataConfig`.
        interpolation: see `DataConfig`.
        max_bad_images: see `DataConfig`.
        title: the part's name in messages.
        aa: see `DataConfig`; without effect unless augment is rrc_flip, as is reprob.
        reprob: see `DataConfig`.
        mean: per channel, on the scale 0 to 1: the colour that aa and random erasing fill with.
        shard_window: see `DataConfig`; for sources with shards.

    Raises:
        DataError: there are no images or a label is out of range.
    """

    def __init__(
        self,
        source: Source,
        *,
        augment: str,
        image_size: int,
        crop_pct: float,
        interpolation: str,
        max_bad_images: int,
        title: str,
        aa: str | None = None,
        reprob: float = 0.0,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        shard_window: int | None = None,
    ) -> None:
        check_labels(source.labels, len(source.classes), title)
        self.source, self.labels = source, source.labels
        self.augment, self.image_size, self.title = augment, image_size, title
        self._resample = RESAMPLE[interpolation]
        self._policy = Policy(aa, image_size=image_size, resample=self._resample, mean=mean) if aa else None
        self._reprob, self._fill = reprob, torch.tensor([round(255 * value) for value in mean], dtype=torch.uint8)
        self._transform = eval_transform(image_size, crop_pct, interpolation)
        self.windows: ShardWindows | None = None
        if shard_window is not None and source.shards is not None:
            self.windows = ShardWindows(starts=source.shards, window=shard_window)
        self._bad = BadImages(source.names, max_bad_images, title)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: int | SampleKey) -> tuple[Tensor, int]:
        images, labels = self.__getitems__([key])
        if len(labels) == 0:
            index = key.sample if isinstance(key, SampleKey) else key
            raise DataError(f"{shown(self.source.names[index], LONGEST)} is not a readable image")
        return images[0], int(labels[0])

    def __getitems__(self, keys: Sequence[int | SampleKey]) -> tuple[Tensor, Tensor]:
        """A batch: images, uint8 (B, 3, size, size), and labels, int64 (B,); B < len(keys) where images are bad."""
        images: list[Tensor] = []
        labels: list[int] = []
        for key in keys:
            index = key.sample if isinstance(key, SampleKey) else key
            image = self._read_similar(index) if isinstance(key, SampleKey) else self._read(index)
            if image is not None:
                images.append(self._augment(image, key) if isinstance(key, SampleKey) else self._transform(image))
                labels.append(int(self.labels[index]))
        if not images:
            return torch.empty(0, 3, self.image_size, self.image_size, dtype=torch.uint8), torch.empty(0).long()
        return torch.stack(images), torch.tensor(labels)

    def bad_files(self) -> list[str]:
        """The names of the images found unreadable so far, by this process and its workers."""
        return self._bad.names()

    def _augment(self, image: Image.Image, key: SampleKey) -> Tensor:
        rng = sample_generator(key)
        if self.augment != "rrc_flip":
            draws = torch.from_numpy(rng.random((1, 3)))
            return augment_batch(self._transform(image)[None], draws, self.augment)[0]
        image = resized_crop_flip(image, self.image_size, self._resample, rng)
        if self._policy is not None:
            image = self._policy(image, rng)
        pixels = to_tensor(image)
        return erase(pixels, self._fill, rng) if self._reprob and rng.random() < self._reprob else pixels

    def _read(self, index: int) -> Image.Image | None:
        if index in self._bad:
            return None
        try:
            return read_image(self.source.open(index))
        except (DataError, OSError) as error:
            self._bad.add(index, error)
            return None

    def _read_similar(self, index: int) -> Image.Image:
        """Read the image, or the next readable one of its class (in the order of the data set, round about)."""
        image = self._read(index)
        if image is not None:
            return image
        same = (self.labels == self.labels[index]).nonzero()[:, 0]
        start = int(torch.searchsorted(same, index))
        for other in torch.roll(same, -start - 1)[:-1].tolist():
            image = self._read(other)
            if image is not None:
                return image
        raise UnreadableImagesError(
            f"{self.title}: class {self.source.classes[int(self.labels[index])]} must have a readable image; none of "
            f"its {len(same)} is, e.g. {shown(self.source.names[index], LONGEST)}: mend or remove the class"
        )
