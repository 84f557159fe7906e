"""What a run reads: built-in sets, folders and archives of images, and the loader that makes batches of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from attnorm.data.config import BUILTIN, DataConfig, ImageData
from attnorm.data.loader import make_loader

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

__all__ = ["DataConfig", "ImageData", "eval_transform", "load_data", "make_loader"]


def load_data(
    config: DataConfig, parts: Sequence[str] = ("train", "val"), classes: Sequence[str] | None = None
) -> ImageData:
    """Find, check and (for the built-in sets) read the data.

    Args:
        config: what to read.
        parts: "train", "val" or both; the other is None in the result.
        classes: the class names that labels count in, such as those of a checkpoint. None: those of the training part
            (of the evaluation part, where there is no other).

    Raises:
        ConfigError: the settings cannot be followed.
        DataError: the data are missing, empty or damaged.
    """
    if config.dataset in BUILTIN:
        from attnorm.data.builtin import load_builtin

        return load_builtin(config, parts, classes)
    if config.reader is not None:
        from attnorm.data.readers import load_reader

        return load_reader(config, parts, classes)
    from attnorm.data.folder import load_folder

    return load_folder(config, parts, classes)


def eval_transform(
    image_size: int, crop_pct: float = 0.875, interpolation: str = "bilinear", in_chans: int = 3
) -> Callable[[Image], Tensor]:
    """What the evaluation part does to an image; see `attnorm.data.images.eval_transform`."""
    from attnorm.data.images import eval_transform as make

    return make(image_size, crop_pct, interpolation, in_chans)
