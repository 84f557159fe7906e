"""What is done with hostile files in processes of their own; imports little, so that these begin at once."""

import numpy as np
from PIL import Image, ImageFile

from attnorm.data.image_files import read_image
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
