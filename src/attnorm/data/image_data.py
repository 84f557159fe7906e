"""What comes of the settings: images with labels, in one or two parts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor


class BatchDataset(Protocol):
    """A data set that is read by the batch: what `make_loader` takes.

    A key is a plain index (the image as evaluation sees it) or a `SampleKey` (augmented as its seed and epoch say).
    """

    def __len__(self) -> int:
        """The number of images."""
        ...

    def __getitem__(self, key: int) -> tuple[Tensor, int | Tensor]:
        """One image, uint8 (C, H, W), and its label (or its set of labels, see `__getitems__`)."""
        ...

    def __getitems__(self, keys: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Images, uint8 (B, C, H, W), and labels, int64 (B,).

        Where any of several labels is right the labels are (B, S): the set of each image, filled up with -1.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class ImageData:
    """Images with labels, checked and ready for `make_loader`.

    Attributes:
        name: the data set's name as it was asked for.
        train: the training part (None when not asked for).
        val: the evaluation part (None when not asked for).
        classes: class names; a label is a position in it.
        in_chans: 1 or 3.
        image_size: side of the square images, pixels.
        mean: per channel, on the scale 0 to 1; of the training part as published (ImageNet's for files).
        std: likewise.
        crop_pct: what `eval_transform` must be given to treat a file as the evaluation part was treated.
        interpolation: likewise.
        outputs: the network's outputs that may answer, in ascending order: the data set's protocol restricts the logits
            to them. None: all.
        measure: "accuracy", or "outliers" where the question is not which class an image has but whether it has one:
            labels are then 0 for images of the classes in `outputs` and 1 for images of none of them.
        left_out: images of the evaluation part that the protocol does not count.
    """

    name: str
    train: BatchDataset | None
    val: BatchDataset | None
    classes: tuple[str, ...]
    in_chans: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float
    interpolation: str
    outputs: tuple[int, ...] | None = None
    measure: Literal["accuracy", "outliers"] = "accuracy"
    left_out: int = 0
