"""The header of a weights file: which network, which classes, which preprocessing. Whoever reads it trusts nothing."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from inspect import formatannotation
from pathlib import Path
from typing import Any, get_type_hints

from attnorm.data.config import IMAGENET, INTERPOLATION
from attnorm.detection.config import DetectorConfig
from attnorm.errors import CheckpointError, shown
from attnorm.kinds import is_of

FORMAT_VERSION = 1
MAX_SIDE = 8192  # pixels; what a file asks for must not fill the memory: an image of this size has 0.8 GB
KEY = "attnorm"  # the one entry in the file's header; its value is JSON


@dataclass(frozen=True, kw_only=True)
class CheckpointMeta:
    """What stands in the header of a weights file.

    Attributes:
        model: name of the network.
        num_classes: classes of the network; 0 without classifier.
        in_chans: image channels.
        classes: their names, in the order of the network's outputs.
        dataset: name of the data set it was trained on.
        image_size: side of the square images, in pixels; of a detector's, the shorter side.
        mean: channel means for pixels from 0 to 1; likewise std.
        crop_pct: part of the image that the evaluation's crop keeps; see DataConfig. A detector crops nothing.
        interpolation: how the evaluation resizes.
        detector: settings of a detector, all fields of DetectorConfig; None for other networks.
        category_ids: of a detector's `classes`, COCO's numbers. Its `num_classes` counts the background, class 0.
        epoch: epochs done.
        metrics: of the evaluation part, see RunRecord.
        attnorm_version: version that wrote the file.
        provenance: of weights that were converted: where they come from, what is published of them, their terms.
        format_version: of this header.
    """

    model: str
    num_classes: int
    in_chans: int
    classes: tuple[str, ...]
    dataset: str
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float
    interpolation: str
    detector: dict[str, Any] | None = None
    category_ids: tuple[int, ...] | None = None
    epoch: int = 0
    metrics: dict[str, float] | None = None
    attnorm_version: str = "unknown"
    provenance: dict[str, Any] | None = None
    format_version: int = FORMAT_VERSION


def parse_header(path: Path, header: Mapping[str, str]) -> CheckpointMeta:
    """The content of a file's header.

    Args:
        path: of the file, for messages.
        header: the texts in the file's header, by their names.

    Raises:
        CheckpointError: it is of another program or a later version, or its content cannot be meant.
    """
    if KEY not in header:
        raise CheckpointError(
            f"{path} has no attnorm header, so its network is not known; use a file that `attnorm train` wrote"
        )
    try:
        content: dict[str, Any] = json.loads(header[KEY])
        version = content["format_version"]
        if type(version) is int and version > FORMAT_VERSION:
            raise CheckpointError(
                f"{path} has header version {shown(str(version))}, this attnorm reads {FORMAT_VERSION}; update it"
            )
        meta = CheckpointMeta(**with_tuples(content))
        check_types(CheckpointMeta, vars(meta), "")
        if meta.detector is not None:
            check_types(DetectorConfig, with_tuples(meta.detector), "detector.")
        check_numbers(meta)
        if meta.detector is not None:
            _check_categories(meta)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"the attnorm header of {path} is damaged: {shown(str(error), 300)}") from None
    return meta


def with_tuples(content: dict[str, Any]) -> dict[str, Any]:
    """JSON's lists as the tuples that settings hold."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}


def check_types(settings: type[Any], values: Mapping[str, Any], prefix: str) -> None:
    """Refuse values that are not of the fields' types; names that are no fields are for the dataclass to refuse.

    Args:
        settings: a dataclass.
        values: by the names of its fields; some may be missing.
        prefix: of the names in the message.

    Raises:
        TypeError: names the first that is of another type.
    """
    for name, kind in get_type_hints(settings).items():
        if name in values and not is_of(values[name], kind):
            value = shown(repr(values[name]))
            raise TypeError(f"{prefix}{name} must be {formatannotation(kind)}; got {value}")


def check_numbers(meta: CheckpointMeta) -> None:
    """Refuse numbers that no network and no image can have.

    Raises:
        ValueError: names the first.
    """
    if min(meta.in_chans, meta.image_size) < 1 or meta.num_classes < 0:
        raise ValueError("in_chans and image_size must be at least 1, num_classes at least 0")
    if max(meta.image_size, *_sizes(meta.detector or {})) > MAX_SIDE:
        raise ValueError(f"image_size, and a detector's min_size and max_size, must be at most {MAX_SIDE} pixels")
    if not 0 < meta.crop_pct <= 1 or meta.interpolation not in INTERPOLATION:
        raise ValueError(f"crop_pct must be above 0 and at most 1, interpolation one of {', '.join(INTERPOLATION)}")
    if 0 < meta.num_classes < len(meta.classes):
        raise ValueError(f"classes must be no more than num_classes, {meta.num_classes}; there are {len(meta.classes)}")
    if not len(meta.mean) == len(meta.std) == meta.in_chans:
        raise ValueError(f"mean and std must have a value for each of {meta.in_chans} channels")
    if not all(map(math.isfinite, meta.mean)) or not all(0 < value < math.inf for value in meta.std):
        raise ValueError("mean and std must be finite numbers, std above 0")


def _sizes(detector: Mapping[str, Any]) -> list[int]:
    """The sizes that a detector's images are brought to."""
    found = [detector.get("min_size", 0), detector.get("max_size", 0)]
    return [side for size in found for side in (size if isinstance(size, (list, tuple)) else (size,))]


def _check_categories(meta: CheckpointMeta) -> None:
    ids = meta.category_ids or ()
    if not len(set(ids)) == len(ids) == len(meta.classes) == meta.num_classes - 1:
        raise ValueError(
            f"classes and category_ids must be {meta.num_classes - 1} of each, no id twice, as num_classes counts the "
            f"background; there are {len(meta.classes)} and {len(ids)}"
        )


def class_names(num_classes: int, dataset: str) -> tuple[str, ...]:
    """WordNet ids for ImageNet's 1000 classes, in the order of their folders; else "class 0" and so on."""
    if num_classes == 1000 and dataset in IMAGENET:
        from timm.data.imagenet_info import ImageNetInfo

        return tuple(ImageNetInfo("imagenet-1k").label_names())
    return tuple(f"class {index}" for index in range(num_classes))
