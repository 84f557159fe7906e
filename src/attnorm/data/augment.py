"""Random augmentation that depends on (seed, epoch, sample) and on nothing else.

Numbers come from Philox, a counter-based generator: its key is (seed, epoch), its counter the sample. So neither the
order in which samples are read, nor the number of workers or processes, nor a resume in mid-epoch changes an image.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from PIL import Image

PADDING = 4  # pixels of black on each side before a random crop, as is usual for CIFAR
RRC_SCALE = (0.08, 1.0)  # torchvision's RandomResizedCrop: share of the area ...
RRC_RATIO = (3 / 4, 4 / 3)  # ... and width / height
ERASE_SCALE = (0.02, 1 / 3)  # timm's random erasing, likewise
ERASE_RATIO = (0.3, 1 / 0.3)
BOX_TRIES = 10

_ORDER, _BATCH, _SAMPLE = 0, 1, 2  # streams: what the numbers are for
_STREAMS = 3


Box = tuple[int, int, int, int]  # left, upper, right, lower


class SampleKey(NamedTuple):
    """What the training sampler hands to a data set: which image, and the draw that augments it."""

    sample: int
    epoch: int
    seed: int


def _generator(seed: int, epoch: int, stream: int, counter: int = 0) -> np.random.Generator:
    # The counter's lowest word is left to count the numbers of one sample.
    key = np.array([seed, epoch * _STREAMS + stream], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=np.array([0, counter, 0, 0], dtype=np.uint64)))


def epoch_order(count: int, seed: int, epoch: int, part: int = 0) -> np.ndarray:
    """The order of an epoch: a permutation of range(count), int64 (count,); `part` tells several in it apart."""
    return _generator(seed, epoch, _ORDER, part).permutation(count)


def epoch_draws(count: int, seed: int, epoch: int) -> Tensor:
    """Three uniform numbers in [0, 1) for each sample of an epoch: flip, crop's row, crop's column; (count, 3)."""
    return torch.from_numpy(_generator(seed, epoch, _BATCH).random((count, 3), dtype=np.float32))


def sample_generator(key: SampleKey) -> np.random.Generator:
    """The stream of random numbers of one sample in one epoch."""
    return _generator(key.seed, key.epoch, _SAMPLE, key.sample)


def augment_batch(images: Tensor, draws: Tensor, augment: str) -> Tensor:
    """Augment a batch at once.

    Args:
        images: uint8 (B, C, H, W).
        draws: uniform numbers (B, 3), as `epoch_draws` gives them.
        augment: none, flip or crop_flip.

    Returns:
        A new tensor of the same shape (the same tensor for "none").
    """
    if augment == "none":
        return images
    if augment == "crop_flip":
        offsets = (draws[:, 1:] * (2 * PADDING + 1)).long().clamp_(max=2 * PADDING)
        images = _crop(F.pad(images, (PADDING,) * 4), offsets, images.shape[-2], images.shape[-1])
    return torch.where((draws[:, 0] < 0.5)[:, None, None, None], images.flip(-1), images)


def _crop(padded: Tensor, offsets: Tensor, height: int, width: int) -> Tensor:
    """Cut (height, width) out of each image, its upper left corner at offsets[i] = (row, column)."""
    # A view of all possible crops, of which one per image is copied: whole rows are moved, not single pixels.
    crops = padded.unfold(2, height, 1).unfold(3, width, 1)
    return crops[torch.arange(len(padded)), :, offsets[:, 0], offsets[:, 1]]


def _random_box(
    width: int, height: int, rng: np.random.Generator, scale: tuple[float, float], ratio: tuple[float, float]
) -> Box | None:
    """A box of an area and an aspect ratio in the given ranges, anywhere; None when 10 of them did not fit."""
    log_ratio = (math.log(ratio[0]), math.log(ratio[1]))
    for _ in range(BOX_TRIES):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(*log_ratio))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            upper, left = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
            return left, upper, left + w, upper + h
    return None


def resized_crop_box(width: int, height: int, rng: np.random.Generator) -> Box:
    """A random box (left, upper, right, lower) as torchvision's RandomResizedCrop draws it.

    After 10 boxes that do not fit it is the largest central one of an allowed aspect ratio.
    """
    box = _random_box(width, height, rng, RRC_SCALE, RRC_RATIO)
    if box is not None:
        return box
    ratio = width / height
    w = round(height * RRC_RATIO[1]) if ratio > RRC_RATIO[1] else width
    h = round(width / RRC_RATIO[0]) if ratio < RRC_RATIO[0] else height
    left, upper = (width - w) // 2, (height - h) // 2
    return left, upper, left + w, upper + h


def resized_crop_flip(
    image: Image.Image, size: int, resample: Image.Resampling, rng: np.random.Generator
) -> Image.Image:
    """A random part of the image, resized to (size, size), flipped left to right in half of the cases."""
    box = resized_crop_box(image.width, image.height, rng)
    # crop, then resize: resize's own `box` would let pixels from outside the box bleed in at its edges
    image = image.crop(box).resize((size, size), resample)
    if rng.random() < 0.5:
        from PIL import Image as pil

        image = image.transpose(pil.Transpose.FLIP_LEFT_RIGHT)
    return image


def erase(image: Tensor, fill: Tensor, rng: np.random.Generator) -> Tensor:
    """Z. Zhong et al.'s random erasing (arXiv 1708.04896): a box of 2 to 33 % of the area gets one colour.

    Args:
        image: uint8 (C, H, W); changed in place. In the rare case that no box fits it stays as it is.
        fill: the colour, uint8 (C,).
        rng: gives the box.
    """
    box = _random_box(image.shape[2], image.shape[1], rng, ERASE_SCALE, ERASE_RATIO)
    if box is not None:
        left, upper, right, lower = box
        image[:, upper:lower, left:right] = fill[:, None, None]
    return image
