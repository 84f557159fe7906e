"""The generated detection set: ellipses, triangles, rectangles and stars that cover each other, with their masks.

A picture is a function of (part, number, size) alone. Its random numbers are NumPy's Philox, and a pixel belongs to a
shape where its centre lies inside, so masks are the same everywhere; a colour may differ by one level where another
library computes another last digit of a cosine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from attnorm.data.annotations import Annotations, Category
from attnorm.data.coco_masks import encode, pack, piece
from attnorm.data.config import DataConfig
from attnorm.data.detection_data import DetectionData, DetectionDataset
from attnorm.errors import ConfigError

CATEGORIES = tuple(Category(id, name) for id, name in enumerate(("ellipse", "triangle", "rectangle", "star"), 1))
COUNTS = {"train": 240, "val": 60}
IMAGE_SIZE = 128
MIN_SIZE = 32  # pixels: in smaller pictures the shapes cannot be told apart
MAX_SHAPES = 8
RADIUS = (0.08, 0.24)  # of a shape, in sides of the picture
VISIBLE = 0.5  # share of a shape that others leave uncovered at least
NOISE = 30  # levels that a pixel's colour is changed by at most
SEED = 20240601
# Of the training part at 128 pixels
MEAN = (0.4, 0.4, 0.4)
STD = (0.19, 0.19, 0.19)

Drawing = tuple[np.ndarray, np.ndarray, np.ndarray]


def draw(part: str, number: int, size: int) -> Drawing:
    """Draw one picture.

    Args:
        part: "train" or "val".
        number: of the picture within the part, from 0.
        size: side in pixels.

    Returns:
        The picture, uint8 (size, size, 3); the visible part of each shape, bool (n, size, size); labels, int64 (n,).
    """
    key = np.array([SEED, list(COUNTS).index(part)], dtype=np.uint64)
    rng = np.random.Generator(np.random.Philox(key=key, counter=np.array([0, number, 0, 0], dtype=np.uint64)))
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    picture = _background(rng, x, y)
    masks: list[np.ndarray] = []
    labels: list[int] = []
    whole: list[int] = []
    for _ in range(1 + int(rng.random() * MAX_SHAPES)):
        label, colour = 1 + int(rng.random() * len(CATEGORIES)), _colour(rng)
        mask = _shape(rng, CATEGORIES[label - 1].name, x, y)
        if any((m & ~mask).sum() < VISIBLE * area for m, area in zip(masks, whole, strict=True)):
            continue
        masks = [*(m & ~mask for m in masks), mask]
        labels.append(label)
        whole.append(int(mask.sum()))
        picture[mask] = colour
    picture += (rng.random(picture.shape) * 2 - 1) * NOISE
    return picture.clip(0, 255).round().astype(np.uint8), np.stack(masks), np.array(labels)


def _background(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Waves of medium brightness, each colour its own; (size, size, 3)."""
    wave_x, wave_y, phase = rng.random((3, 3)) * 4 * math.pi
    return 100 + 40 * np.cos(wave_x * x[..., None] + wave_y * y[..., None] + phase)


def _colour(rng: np.random.Generator) -> np.ndarray:
    """Three levels, each dark or bright: unlike the background in all."""
    return np.where(rng.random(3) < 0.5, 0, 190) + rng.random(3) * 40


def _shape(rng: np.random.Generator, name: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The pixels of a shape at a random place, turned and stretched at random; bool (size, size)."""
    centre_x, centre_y = 0.1 + 0.8 * rng.random(2)
    radius = RADIUS[0] + (RADIUS[1] - RADIUS[0]) * rng.random()
    turn, stretch = 2 * math.pi * rng.random(), 0.5 + 0.5 * rng.random()
    cos, sin = math.cos(turn), math.sin(turn)
    u = (cos * (x - centre_x) + sin * (y - centre_y)) / radius
    v = (cos * (y - centre_y) - sin * (x - centre_x)) / (radius * stretch)
    if name == "ellipse":
        return u * u + v * v <= 1
    if name == "rectangle":
        return (abs(u) <= 0.8) & (abs(v) <= 0.8)
    corners = 3 if name == "triangle" else 10
    radii = [1.0 if name == "triangle" or i % 2 == 0 else 0.45 for i in range(corners)]
    angles = [2 * math.pi * i / corners for i in range(corners)]
    return _inside([(r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, angles, strict=True)], u, v)


def _inside(polygon: Sequence[tuple[float, float]], u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Whether points lie in a polygon: a ray from inside crosses its sides an odd number of times."""
    odd = np.zeros(u.shape, dtype=bool)
    for (u1, v1), (u2, v2) in zip(polygon, [*polygon[1:], polygon[0]], strict=True):
        if v1 != v2:
            odd ^= ((v1 > v) != (v2 > v)) & (u < u1 + (v - v1) * (u2 - u1) / (v2 - v1))
    return odd


@dataclass(frozen=True)
class DrawImage:
    """Draws a picture by its number."""

    part: str
    size: int

    def __call__(self, index: int) -> Image.Image:
        """Draw it."""
        return Image.fromarray(draw(self.part, index, self.size)[0])


def load_shapes(config: DataConfig, parts: Sequence[str], masks: bool = True) -> DetectionData:
    """Draw the parts; see `load_detection`."""
    size = config.image_size or IMAGE_SIZE
    if size < MIN_SIZE:
        raise ConfigError(f"image_size must be at least {MIN_SIZE} pixels for shapes; got {size}")
    red, green, blue = (round(255 * value) for value in MEAN)
    datasets = {
        part: DetectionDataset(
            _annotate(part, size, masks),
            DrawImage(part, size),
            coco=config.coco,
            max_bad_images=config.max_bad_images,
            title=f"shapes {part}",
            fill=(red, green, blue),
        )
        for part in COUNTS
        if part in parts
    }
    return DetectionData(
        name="shapes",
        train=datasets.get("train"),
        val=datasets.get("val"),
        categories=CATEGORIES,
        has_masks=masks,
        mean=MEAN,
        std=STD,
        notes=(),
    )


def _annotate(part: str, size: int, masks: bool) -> Annotations:
    drawings = [draw(part, number, size) for number in range(COUNTS[part])]
    shapes = np.concatenate([visible for _, visible, _ in drawings])
    counts = [len(labels) for _, _, labels in drawings]
    return Annotations(
        categories=CATEGORIES,
        files=[f"{number:04d}.png" for number in range(len(drawings))],
        image_ids=np.arange(1, len(drawings) + 1),
        sizes=np.full((len(drawings), 2), size),
        starts=np.concatenate(([0], np.cumsum(counts))),
        boxes=np.array([_box(shape) for shape in shapes]),
        labels=np.concatenate([labels for _, _, labels in drawings]),
        areas=shapes.sum((1, 2)).astype(np.float64),
        crowd=np.zeros(len(shapes), dtype=bool),
        segmentations=pack([piece(rle, (size, size)) for rle in encode(shapes)]) if masks else None,
    )


def _box(mask: np.ndarray) -> list[float]:
    """x, y, width and height of the pixels of a mask."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return [float(columns[0]), float(rows[0]), float(np.ptp(columns) + 1), float(np.ptp(rows) + 1)]
