"""Random changes of an image together with its boxes and masks."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from attnorm.data.annotations import Target

JITTER = (0.1, 2.0)  # of large-scale jitter: how large the image becomes, 1 where it just fits the square


def flip(image: Image.Image, target: Target) -> tuple[Image.Image, Target]:
    """The mirror image, left to right."""
    boxes = target["boxes"].clone()
    boxes[:, [0, 2]] = image.width - boxes[:, [2, 0]]
    target = {**target, "boxes": boxes}
    if "masks" in target:
        target["masks"] = target["masks"].flip(-1)
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), target


def large_scale_jitter(
    image: Image.Image, target: Target, *, side: int, fill: tuple[int, int, int], rng: np.random.Generator
) -> tuple[Image.Image, Target]:
    """G. Ghiasi et al.'s large-scale jitter (arXiv 2012.07177): scaled by 0.1 to 2, then a square of `side` pixels.

    What is larger than the square is cut at a random place; what is smaller lies in the upper left corner, the rest has
    the colour `fill`. Boxes are cut to what is left of the image, not fitted anew to what is left of their masks. An
    object with nothing left, of its box or of its mask, is dropped.
    """
    scale = rng.uniform(*JITTER) * min(side / image.width, side / image.height)
    width, height = max(1, int(image.width * scale)), max(1, int(image.height * scale))
    left, upper = (int(rng.integers(0, max(0, length - side) + 1)) for length in (width, height))
    w, h = min(width, side), min(height, side)
    ratio_x, ratio_y = image.width / width, image.height / height
    right, lower = min((left + w) * ratio_x, image.width), min((upper + h) * ratio_y, image.height)
    part = (left * ratio_x, upper * ratio_y, right, lower)
    square = Image.new("RGB", (side, side), fill)
    square.paste(image.resize((w, h), Image.Resampling.BILINEAR, box=part))

    boxes = target["boxes"] / torch.tensor([ratio_x, ratio_y] * 2) - torch.tensor([left, upper] * 2)
    boxes = boxes.float().clamp(min=0).minimum(torch.tensor([w, h] * 2))
    keep = (boxes[:, 2:] > boxes[:, :2]).all(1)
    moved = {**target, "boxes": boxes, "area": target["area"] / (ratio_x * ratio_y)}
    if "masks" in target:
        rows = ((upper + torch.arange(h) + 0.5) * ratio_y).long()
        columns = ((left + torch.arange(w) + 0.5) * ratio_x).long()
        masks = torch.zeros(len(keep), side, side, dtype=torch.uint8)
        masks[:, :h, :w] = target["masks"][:, rows][:, :, columns]
        keep &= masks.flatten(1).amax(1) > 0
        moved["masks"] = masks
    return square, {name: value if name == "image_id" else value[keep] for name, value in moved.items()}
