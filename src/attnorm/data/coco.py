"""Data sets in COCO's format: from the settings to images with boxes and masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from attnorm.data.annotations import Annotations, Category
from attnorm.data.bad_images import LONGEST
from attnorm.data.coco_config import DETECTION
from attnorm.data.coco_files import absent, annotation_file, image_folder
from attnorm.data.coco_reader import CocoReader
from attnorm.data.config import DataConfig, shortened
from attnorm.data.detection_data import DetectionData, DetectionDataset
from attnorm.data.folder import MEAN, STD
from attnorm.data.image_files import read_image
from attnorm.errors import ConfigError, DataError, shown

LARGE = 2**30  # bytes of an image's masks that are worth a word


def load_detection(
    config: DataConfig,
    parts: Sequence[str] = ("train", "val"),
    categories: Sequence[Category] | None = None,
    *,
    masks: bool = True,
) -> DetectionData:
    """Find, check and read what is to be detected; the images are read when they are asked for.

    Args:
        config: what to read.
        parts: "train", "val" or both; the other is None in the result.
        categories: those that the labels count in, such as a checkpoint's; the data must have the same. None: any.
        masks: whether masks are wanted; without, targets and ground truth have boxes only, and what is wrong with
            segmentations is no matter.

    Raises:
        ConfigError: the data set is not one for detection, or its files are not named where they must be.
        DataError: the data are missing, empty or damaged; all problems of the parts are named, in one line.
    """
    if config.dataset not in DETECTION:
        raise ConfigError(
            f"a detector needs boxes, from dataset {' or '.join(DETECTION)}; got {config.dataset}, which has classes"
        )
    if config.dataset == "shapes":
        from attnorm.data.shapes import load_shapes

        data = load_shapes(config, parts, masks)
    else:
        data = _load_coco(config, parts, masks)
    if categories is not None:
        _agree(tuple(categories), data.categories, f"{config.dataset} and the detector")
    return data


def _load_coco(config: DataConfig, parts: Sequence[str], masks: bool) -> DetectionData:
    readers: dict[str, _Part] = {}
    problems: list[str] = []
    for part in ("train", "val"):
        if part in parts:
            try:
                readers[part] = _read_part(config, part, masks)
            except DataError as error:
                problems.append(str(error))
    found = list(readers.values())
    if len(found) == 2:
        try:
            _agree(found[0].annotations.categories, found[1].annotations.categories, "coco train and val")
        except DataError as error:
            problems.append(str(error))
    if problems:
        raise DataError("; ".join(problems))
    notes = [note for part in found for note in part.notes]
    without = [name for name, part in readers.items() if part.annotations.segmentations is None]
    has_masks = masks and not without
    if masks and len(without) == 1 < len(found):
        notes.append(f"coco {without[0]}: there are no masks, so those of the other part are left out too")
    if has_masks and "train" in readers:
        notes += _large_masks(readers["train"].annotations)
    datasets = {name: part.dataset(config, name, has_masks) for name, part in readers.items()}
    return DetectionData(
        name=config.dataset,
        train=datasets.get("train"),
        val=datasets.get("val"),
        categories=found[0].annotations.categories,
        has_masks=has_masks,
        mean=MEAN,
        std=STD,
        notes=tuple(notes),
    )


def _large_masks(annotations: Annotations) -> list[str]:
    """A sentence if masks that are learnt from, a byte for each pixel of the image, could fill the memory."""
    sizes = np.diff(annotations.starts) * annotations.sizes.prod(1)
    large = sizes > LARGE
    if not large.any():
        return []
    most = int(sizes.argmax())
    return [
        f"coco train: the masks of {int(large.sum())} images take more than 1 GiB each in training, those of "
        f"{shown(annotations.files[most], LONGEST)} {sizes[most] / 2**30:.0f} GiB: cut such images into parts"
    ]


@dataclass(frozen=True)
class _Part:
    folder: Path
    annotations: Annotations
    notes: tuple[str, ...]

    def dataset(self, config: DataConfig, part: str, has_masks: bool) -> DetectionDataset:
        annotations = self.annotations if has_masks else replace(self.annotations, segmentations=None)
        red, green, blue = (round(255 * value) for value in MEAN)
        return DetectionDataset(
            annotations,
            ReadImage(self.folder, annotations),
            coco=config.coco,
            max_bad_images=config.max_bad_images,
            title=f"{config.dataset} {part}",
            fill=(red, green, blue),
        )


@dataclass(frozen=True)
class ReadImage:
    """Reads an image of a folder by its number, in RGB.

    Upright, unless the annotations are those of the image as it is stored: their width and height tell, where they can.
    """

    folder: Path
    annotations: Annotations

    def __call__(self, index: int) -> Image.Image:
        """Read it.

        Raises:
            DataError: it is unreadable, or of another size than its annotations say.
        """
        height, width = self.annotations.size(index)
        image = read_image(str(self.folder / self.annotations.files[index]), size=(width, height))
        if image.size != (width, height):
            raise DataError(
                f"its annotations are for {width}x{height} pixels, it has {image.width}x{image.height} pixels"
            )
        return image


def _read_part(config: DataConfig, part: str, masks: bool) -> _Part:
    path = annotation_file(config, part)
    reader = CocoReader(path, f"{config.dataset} {part}")
    if not reader.files:
        raise DataError(f"{reader.title}: {path} must list images; it has {reader.broken or 'none'}: export it again")
    folder = image_folder(config, part, path, reader.files[0])
    missing, escaping = absent(folder, reader.files)
    for kind, names in (("images that are not in", missing), ("file names that lead out of", escaping)):
        for name in names:
            reader.broken.add(f"{kind} {folder}", shown(name, LONGEST))
    annotations = reader.read(
        masks=masks,
        skip_bad=config.coco.bad_annotations == "skip",
        skip_empty=part == "train" and config.coco.empty_images == "skip",
    )
    return _Part(folder, annotations, tuple(reader.notes))


def _agree(first: tuple[Category, ...], second: tuple[Category, ...], title: str) -> None:
    if first == second:
        return
    differing = [f"{category.id} {category.name!r}" for category in sorted({*first} ^ {*second}, key=lambda c: c.id)]
    raise DataError(
        f"{title} must have the same categories, numbers and names; only one of them has {shortened(differing)}"
    )
