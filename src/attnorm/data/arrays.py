"""A data set that is held in memory as one tensor and read by the batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from attnorm.data.augment import SampleKey, augment_batch, epoch_draws
from attnorm.errors import ConfigError, DataError


class ArrayDataset(Dataset[tuple[Tensor, int]]):
    """Images (N, C, H, W), uint8, with labels (N,), int64.

    Batches are cut out and augmented as a whole, with no Python per image: an epoch of Fashion-MNIST takes well under a
    second on one core, so that reading never is what a run waits for.

    Args:
        images: uint8 (N, C, H, W).
        labels: integers (N,), each in 0 .. num_classes - 1.
        num_classes: how many classes there are.
        augment: none, flip or crop_flip: what a `SampleKey` asks for. A plain index always gives the image itself.
        source: where the data came from, for messages.

    Raises:
        DataError: a label is out of range, or there are not as many labels as images, or there are none.
        ConfigError: the augmentation is one that needs files.
    """

    def __init__(self, images: Tensor, labels: Tensor, *, num_classes: int, augment: str, source: str) -> None:
        if augment == "rrc_flip":
            raise ConfigError(f"augment must be none, flip or crop_flip for {source}; got rrc_flip, which is for files")
        if len(images) != len(labels):
            raise DataError(f"{source}: there must be one label per image; got {len(images)} and {len(labels)}")
        check_labels(labels, num_classes, source)
        self.images = images
        self.labels = labels.long()
        self.augment = augment
        self._draws: tuple[int, int, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: int | SampleKey) -> tuple[Tensor, int]:
        images, labels = self.__getitems__([key])
        return images[0], int(labels[0])

    def __getitems__(self, keys: Sequence[int | SampleKey]) -> tuple[Tensor, Tensor]:
        """A batch: images, uint8 (B, C, H, W), and labels, int64 (B,). The keys of one batch are all of one kind."""
        first = keys[0]
        if not isinstance(first, SampleKey):
            index = torch.tensor(keys)
            return self.images[index], self.labels[index]
        index = torch.tensor([key.sample for key in keys if isinstance(key, SampleKey)])
        draws = self._epoch_draws(first.seed, first.epoch)[index]
        return augment_batch(self.images[index], draws, self.augment), self.labels[index]

    def _epoch_draws(self, seed: int, epoch: int) -> Tensor:
        if self._draws is None or self._draws[:2] != (seed, epoch):
            self._draws = (seed, epoch, epoch_draws(len(self), seed, epoch))
        return self._draws[2]


def check_labels(labels: Tensor, num_classes: int, source: str) -> None:
    """Raise DataError unless there are labels and all of them are in 0 .. num_classes - 1."""
    if len(labels) == 0:
        raise DataError(f"{source}: there must be at least one image; found none")
    wrong = ((labels < 0) | (labels >= num_classes)).nonzero()[:, 0]
    if len(wrong):
        first = int(wrong[0])
        raise DataError(
            f"{source}: labels must be 0 to {num_classes - 1}; {len(wrong)} of {len(labels)} are not "
            f"(image {first} has {int(labels[first])}): the label file belongs to other data or is damaged"
        )
