"""Settings of a data set for detection. Imports nothing heavy: the command line takes its flags from here."""

from dataclasses import dataclass
from typing import Literal

from attnorm.errors import ConfigError

DETECTION = ("coco", "shapes")  # data sets of boxes and masks


@dataclass(frozen=True, kw_only=True)
class CocoConfig:
    """Where a COCO-format data set keeps its files, and what training does to its images.

    Attributes:
        train_annotations: JSON file of the training part, seen from data_dir; found by name when not given
            (annotations/instances_train2017.json, instances_train.json, ...).
        val_annotations: the same of the evaluation part.
        train_images: folder of the training images, seen from data_dir; found when not given (train2017,
            images/train, ...).
        val_images: the same of the evaluation part.
        augment: flip (left-right, half of the images), none, or lsj (large-scale jitter: flip, the image scaled by 0.1
            to 2 and cut or padded to jitter_size).
        jitter_size: side in pixels of the square that lsj makes; detector.min_size and max_size must be the same.
        aspect_grouping: batches of images that are all wider than high, or all higher than wide; less padding.
        empty_images: train on images without annotations (keep) or leave them out (skip).
        bad_annotations: refuse a data set with unusable annotations (a box outside the image, without area or not
            finite, ...), or skip those annotations. Counted and named in either case.
    """

    train_annotations: str | None = None
    val_annotations: str | None = None
    train_images: str | None = None
    val_images: str | None = None
    augment: Literal["flip", "none", "lsj"] = "flip"
    jitter_size: int = 1024
    aspect_grouping: bool = True
    empty_images: Literal["skip", "keep"] = "skip"
    bad_annotations: Literal["refuse", "skip"] = "refuse"

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            ConfigError: for an unknown name or a number out of range.
        """
        for name, known in (
            ("augment", ("flip", "none", "lsj")),
            ("empty_images", ("skip", "keep")),
            ("bad_annotations", ("refuse", "skip")),
        ):
            if getattr(self, name) not in known:
                raise ConfigError(f"coco.{name} must be one of {', '.join(known)}; got {getattr(self, name)!r}")
        if self.jitter_size < 32:
            raise ConfigError(f"coco.jitter_size must be at least 32 pixels; got {self.jitter_size}")
