"""From the bytes of one image file to a uint8 tensor."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable
from functools import partial
from typing import IO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from attnorm.errors import DataError

EXTENSIONS = (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
RESAMPLE = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
_LONGEST = 100  # times the shorter side: beyond that an image is cut before it is resized
# All that Pillow's decoders are known to raise for damaged files; MemoryError: a header that lies about the size.
_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    EOFError,
    OverflowError,
    RuntimeError,
    MemoryError,
    struct.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


def read_image(file: str | IO[bytes], in_chans: int = 3, size: tuple[int, int] | None = None) -> Image.Image:
    """Read an image upright and in RGB (in_chans 3) or grey (in_chans 1), 8 bits.

    EXIF's orientation is applied; of an animation the first frame is taken; 16-bit grey is scaled to 8 bits; alpha is
    dropped, as torchvision and timm do.

    Args:
        file: a path or an open binary file.
        in_chans: 3 or 1.
        size: (width, height) that the image is said to have; where the stored image has it and the upright one has not,
            the image stays as it is stored.

    Raises:
        DataError: the file is damaged, is no image, or claims more pixels than Pillow's decompression-bomb guard allows
            (its warning counts as an error here).
    """
    try:
        # Warnings about damaged EXIF data and the like do not touch the pixels.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                image.load()
                upright = _upright(image)
                as_stored = size == image.size != upright.size
                return _convert(image if as_stored else upright, in_chans)
    except _DAMAGED as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"not a readable image: {reason}") from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except _DAMAGED:  # the pixels are good, only the EXIF block is not
        return image


def _convert(image: Image.Image, in_chans: int) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        # Pillow's own conversion clips at 255, which makes 16-bit images white.
        image = Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) // 257).astype(np.uint8))
    elif image.mode in ("P", "PA", "L", "RGB") and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB" if in_chans == 3 else "L")


def to_tensor(image: Image.Image) -> Tensor:
    """An RGB or grey image as uint8 (C, H, W)."""
    array = np.array(image, dtype=np.uint8)
    tensor = torch.from_numpy(array)
    return tensor[None] if tensor.ndim == 2 else tensor.permute(2, 0, 1).contiguous()


def eval_transform(
    image_size: int, crop_pct: float = 0.875, interpolation: str = "bilinear", in_chans: int = 3
) -> Callable[[Image.Image], Tensor]:
    """What the evaluation part does to an image: resize, take the central square, make it a tensor.

    Args:
        image_size: side of the result, pixels.
        crop_pct: the image's shorter side is first resized to round(image_size / crop_pct).
        interpolation: nearest, bilinear or bicubic.
        in_chans: 3 for RGB, 1 for grey; an image of another mode is converted.

    Returns:
        A function from an image to uint8 (in_chans, image_size, image_size). It can be pickled.
    """
    short = max(image_size, round(image_size / crop_pct))
    return partial(_resize_crop, size=image_size, short=short, resample=RESAMPLE[interpolation], in_chans=in_chans)


def _middle(image: Image.Image) -> Image.Image:
    """Cut a very long image to its middle: only that is used, while resizing all of it could fill the memory."""
    limit = _LONGEST * min(image.size)
    left, upper = max(0, image.width - limit) // 2, max(0, image.height - limit) // 2
    return image.crop((left, upper, image.width - left, image.height - upper))


def _resize_crop(image: Image.Image, *, size: int, short: int, resample: Image.Resampling, in_chans: int) -> Tensor:
    image = _convert(image, in_chans)
    if max(image.size) > _LONGEST * min(image.size):
        image = _middle(image)
    # the longer side is rounded down, as in torchvision's Resize
    if image.width <= image.height:
        shape = (short, max(short, int(short * image.height / image.width)))
    else:
        shape = (max(short, int(short * image.width / image.height)), short)
    if image.size != shape:
        image = image.resize(shape, resample)
    left, upper = round((image.width - size) / 2), round((image.height - size) / 2)
    return to_tensor(image.crop((left, upper, left + size, upper + size)))
