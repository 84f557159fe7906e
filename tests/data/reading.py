"""What is done with hostile files in processes of their own; imports little, so that these begin at once."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from attnorm.data.annotations import Annotations
from attnorm.data.coco_reader import CocoReader
from attnorm.data.image_files import read_image
from attnorm.detection.average_precision import average_precision
from attnorm.errors import DataError


def pixels_or_message(file: str) -> np.ndarray | str:
    """The pixels, uint8 (H, W, 3), or why there are none."""
    try:
        image = read_image(file)
    except DataError as error:
        return str(error)
    assert image.mode == "RGB"
    return np.asarray(image)


def read_all(files: list[str], lenient: bool = False) -> list[np.ndarray | str]:
    """Each file; `lenient`: where a program has told Pillow to give what there is of files cut short."""
    ImageFile.LOAD_TRUNCATED_IMAGES = lenient
    return [pixels_or_message(file) for file in files]


def size_or_message(file: str, limit: int | None) -> tuple[int, int] | str:
    """The size of the image alone, where a program has set Pillow's limit."""
    Image.MAX_IMAGE_PIXELS = limit
    try:
        return read_image(file).size
    except DataError as error:
        return str(error)


def annotations_or_message(file: str) -> Annotations | str:
    """What a COCO file says, masks included, or why it is refused."""
    try:
        return CocoReader(Path(file), "coco val").read(masks=True, skip_bad=False, skip_empty=False)
    except DataError as error:
        return str(error)


def measured_or_message(truth: str, results: str, iou_type: Any) -> dict[str, Any] | str:
    """COCO's numbers of a results file, or why there are none."""
    try:
        return average_precision(truth, results, iou_type)
    except DataError as error:
        return str(error)
