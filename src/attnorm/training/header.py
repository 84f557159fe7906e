"""The header of a weights file: which network, which classes, which preprocessing. Whoever reads it trusts nothing."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from inspect import formatannotation
from pathlib import Path
from typing import Any, get_type_hints

from attnorm.detection.config import DetectorConfig
from attnorm.errors import CheckpointError, shown
from attnorm.kinds import is_of

FORMAT_VERSION = 1
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
        if content["format_version"] > FORMAT_VERSION:
            raise CheckpointError(
                f"{path} has header version {content['format_version']}, this attnorm reads {FORMAT_VERSION}; update it"
            )
        meta = CheckpointMeta(**_with_tuples(content))
        _check_types(CheckpointMeta, vars(meta), "")
        _check_numbers(meta)
        if meta.detector is not None:
            _check_types(DetectorConfig, _with_tuples(meta.detector), "detector.")
            _check_categories(meta)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"the attnorm header of {path} is damaged: {error}") from None
    return meta


def _with_tuples(content: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}


def _check_types(settings: type[Any], values: Mapping[str, Any], prefix: str) -> None:
    """Refuse values that are not of the fields' types; names that are no fields are for the dataclass to refuse."""
    for name, kind in get_type_hints(settings).items():
        if name in values and not is_of(values[name], kind):
            value = shown(repr(values[name]))
            raise TypeError(f"{prefix}{name} must be {formatannotation(kind)}; got {value}")


def _check_numbers(meta: CheckpointMeta) -> None:
    if min(meta.in_chans, meta.image_size) < 1 or meta.num_classes < 0:
        raise ValueError("in_chans and image_size must be at least 1, num_classes at least 0")
    if not len(meta.mean) == len(meta.std) == meta.in_chans:
        raise ValueError(f"mean and std must have a value for each of {meta.in_chans} channels")
    if not all(map(math.isfinite, meta.mean)) or not all(0 < value < math.inf for value in meta.std):
        raise ValueError("mean and std must be finite numbers, std above 0")


def _check_categories(meta: CheckpointMeta) -> None:
    ids = meta.category_ids or ()
    if not len(set(ids)) == len(ids) == len(meta.classes) == meta.num_classes - 1:
        raise ValueError(
            f"classes and category_ids must be {meta.num_classes - 1} of each, no id twice, as num_classes counts the "
            f"background; there are {len(meta.classes)} and {len(ids)}"
        )
