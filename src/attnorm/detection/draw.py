"""A picture of what was found: boxes, translucent masks, labels with scores."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from attnorm.data.coco_masks import decode
from attnorm.detection.coco_entries import Entry
from attnorm.errors import shown

Colour = tuple[int, int, int]
Area = tuple[float, float, float, float]  # left, top, right, bottom
LONGEST, NARROWEST, LARGEST = 640, 160, 4000  # pixels; see `_enlargement`
MANY = 20  # objects, from which on labels are smaller
OPACITY = 0.45  # of masks
GOLDEN = (math.sqrt(5) - 1) / 2


def class_colour(label: int) -> Colour:
    """The colour of a class: always the same one, and far from those of the classes before it."""
    # Steps of the golden section never come near an earlier hue; every third class is paler, every third darker.
    saturation, value = ((0.85, 1.0), (0.55, 1.0), (0.9, 0.75))[label % 3]
    red, green, blue = colorsys.hsv_to_rgb(label * GOLDEN % 1, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_detections(image: Image.Image, entries: Sequence[Entry], names: dict[int, str]) -> Image.Image:
    """A new picture: small objects lie above large ones, and sure labels above others.

    Args:
        image: in RGB.
        entries: COCO result entries of the image: category_id, bbox, score and, of masks, segmentation.
        names: of all categories, by their ids; their order gives the colours.

    Returns:
        The picture, as large as the image or, if that is small, a whole number of times as large.
    """
    entries = sorted(entries, key=lambda entry: entry["bbox"][2] * entry["bbox"][3], reverse=True)
    colours = {number: class_colour(place) for place, number in enumerate(names)}
    scale = _enlargement(image.size)
    picture = _with_masks(image, entries, colours)
    picture = picture.resize((scale * image.width, scale * image.height), Image.Resampling.NEAREST)
    canvas = ImageDraw.Draw(picture)
    extent = math.sqrt(picture.width * picture.height)
    line = max(1, round(extent / 350))
    boxes = [_corners(entry["bbox"], scale, picture) for entry in entries]
    for entry, box in zip(entries, boxes, strict=True):
        canvas.rectangle(box, outline=colours[entry["category_id"]], width=line)
    font = _font(max(11, round(extent / (50 if len(entries) < MANY else 70))))
    taken: list[Area] = []
    labels: list[tuple[Area, str, Colour]] = []
    for entry, box in sorted(zip(entries, boxes, strict=True), key=lambda pair: pair[0]["score"], reverse=True):
        text = f"{shown(names[entry['category_id']])} {entry['score']:.2f}"
        area = _place(canvas, text, font, box, picture, taken)
        taken.append(area)
        labels.append((area, text, colours[entry["category_id"]]))
    for area, text, colour in reversed(labels):
        _write(canvas, area, text, font, colour)
    return picture


def _enlargement(size: tuple[int, int]) -> int:
    """How many times as large a picture must be, that writing in it can be read."""
    return max(1, math.ceil(LONGEST / max(size)), min(math.ceil(NARROWEST / min(size)), LARGEST // max(size)))


def _with_masks(image: Image.Image, entries: Sequence[Entry], colours: dict[int, Colour]) -> Image.Image:
    pixels = np.array(image, dtype=np.uint8)
    for entry in entries:
        if "segmentation" in entry:
            mask = decode([entry["segmentation"]], (image.height, image.width))[0].to(torch.bool).numpy()
            colour = np.array(colours[entry["category_id"]])
            pixels[mask] = ((1 - OPACITY) * pixels[mask] + OPACITY * colour).round()
    return Image.fromarray(pixels)


def _corners(bbox: Sequence[float], scale: int, picture: Image.Image) -> Area:
    """A box on the picture, with no side of nothing."""
    x, y, width, height = (scale * value for value in bbox)
    left, top = min(max(x, 0), picture.width - 1), min(max(y, 0), picture.height - 1)
    right, bottom = min(x + width, picture.width) - 1, min(y + height, picture.height) - 1
    return left, top, max(left, right), max(top, bottom)


def _font(size: int) -> ImageFont.FreeTypeFont:
    # matplotlib's font has more of the world's letters than Pillow's own.
    from matplotlib import get_data_path

    return ImageFont.truetype(str(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)


def _place(
    canvas: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont, box: Area, picture: Image.Image,
    taken: Sequence[Area],
) -> Area:  # fmt: skip
    """Where a label goes: above its box, in it, or below, the first that is free; always within the picture."""
    pad = font.size // 6
    width = canvas.textlength(text, font=font) + 2 * pad
    height = sum(font.getmetrics()) + pad
    left = max(0, min(box[0], picture.width - width))
    tops = (box[1] - height, box[1], box[3] - height, box[3])
    inside = [max(0, min(top, picture.height - height)) for top in tops]
    places = [(left, top, left + width, top + height) for top in inside]
    return next((place for place in places if not any(_overlap(place, other) for other in taken)), places[0])


def _overlap(one: Area, other: Area) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _write(canvas: ImageDraw.ImageDraw, area: Area, text: str, font: ImageFont.FreeTypeFont, colour: Colour) -> None:
    canvas.rectangle(area, fill=colour)
    brightness = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    pad = font.size // 6
    canvas.text((area[0] + pad, area[1] + pad // 2), text, font=font, fill="black" if brightness > 128 else "white")
