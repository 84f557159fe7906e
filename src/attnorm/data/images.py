"""From an image to a uint8 tensor."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from attnorm.errors import DataError

RESAMPLE = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
_LONGEST = 100  # times the shorter side: beyond that an image is cut before it is resized


def convert(image: Image.Image, in_chans: int) -> Image.Image:
    """An image of any of Pillow's modes in RGB (in_chans 3) or grey (in_chans 1), 8 bits; alpha is dropped.

    Raises:
        DataError: its pixels have 32 bits.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        # Pillow's own conversion clips at 255, which makes 16-bit images white.
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise DataError("pixels must have 8 or 16 bits; these have 32, and nothing says which number is white")
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
    image = convert(image, in_chans)
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
