"""What a run reads: built-in sets, folders and archives of images, and the loader that makes batches of them.

The settings are here at once; what needs torch is loaded when it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from attnorm.data.coco_config import DETECTION, CocoConfig
from attnorm.data.config import BUILTIN, IMAGENET, DataConfig
from attnorm.errors import ConfigError
from attnorm.extras import naming_extras

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from attnorm.data.annotations import Category
    from attnorm.data.coco import load_detection
    from attnorm.data.detection_data import DetectionData
    from attnorm.data.image_data import ImageData
    from attnorm.data.loader import make_loader

__all__ = [
    "Category",
    "CocoConfig",
    "DataConfig",
    "DetectionData",
    "ImageData",
    "eval_transform",
    "load_data",
    "load_detection",
    "make_loader",
]


def load_data(
    config: DataConfig,
    parts: Sequence[str] = ("train", "val"),
    classes: Sequence[str] | None = None,
    *,
    id_dir: str | None = None,
) -> ImageData:
    """Find, check and (for the built-in sets) read the data of a classification task; see also `load_detection`.

    Args:
        config: what to read.
        parts: "train", "val" or both; the other is None in the result.
        classes: the class names that labels count in, such as those of a checkpoint. None: those of the training part
            (of the evaluation part, where there is no other).
        id_dir: for imagenet_o alone: the folder of ImageNet, or of its validation images, whose images of the data
            set's classes its own are to be told from. None: data_dir.

    Raises:
        ConfigError: the settings cannot be followed.
        DataError: the data are missing, empty or damaged.
    """
    if config.dataset in DETECTION:
        raise ConfigError(
            f"dataset {config.dataset} has boxes, which a detector learns; a classification network needs classes: "
            "take a model mask_rcnn_..., faster_rcnn_... or cascade_mask_rcnn_..., or another dataset"
        )
    if id_dir is not None and config.dataset != "imagenet_o":
        raise ConfigError(f"id_dir belongs to dataset imagenet_o; got it with {config.dataset}")
    if config.dataset in BUILTIN:
        from attnorm.data.builtin import load_builtin

        return load_builtin(config, parts, classes)
    if config.dataset in IMAGENET:
        from attnorm.data.imagenet import load_imagenet

        return load_imagenet(config, parts, classes, id_dir=id_dir)
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


_HOMES = {
    "Category": "attnorm.data.annotations",
    "DetectionData": "attnorm.data.detection_data",
    "ImageData": "attnorm.data.image_data",
    "load_detection": "attnorm.data.coco",
    "make_loader": "attnorm.data.loader",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with naming_extras(f"{__name__}.{name}"):
        return getattr(import_module(_HOMES[name]), name)
