"""Images to begin with on the demo page, drawn here: none has an owner, and none is of a data set."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from attnorm.data.shapes import draw as draw_shapes
from attnorm.models import shipped
from attnorm.training.checkpoint import CheckpointMeta

SIDE = 280  # pixels; ten times Fashion-MNIST's
Points = tuple[tuple[int, int], ...]

# Outlines in Fashion-MNIST's 28 x 28 pixels.
CLOTHES: dict[str, tuple[Points, ...]] = {
    "T-shirt": (((9, 3), (12, 5), (16, 5), (19, 3), (26, 9), (22, 13), (20, 11), (20, 25), (8, 25), (8, 11), (6, 13),
                 (2, 9)),),
    "trousers": (((9, 1), (19, 1), (21, 27), (16, 27), (14, 8), (12, 27), (7, 27)),),
    "dress": (((10, 1), (12, 3), (16, 3), (18, 1), (18, 10), (22, 27), (6, 27), (10, 10)),),
    "boot": (((15, 4), (24, 4), (24, 25), (21, 25), (20, 23), (14, 25), (2, 25), (2, 21), (9, 18), (14, 13)),),
    "bag": (((3, 11), (25, 11), (26, 25), (2, 25)), ((9, 11), (9, 6), (19, 6), (19, 11), (17, 11), (17, 8), (11, 8),
                                                       (11, 11))),
}  # fmt: skip


def example_images(checkpoint: str, meta: CheckpointMeta) -> dict[str, Image.Image]:
    """Images by name that suit what a network was trained on; none for data that nothing is drawn for.

    Args:
        checkpoint: name of a shipped network, or a path.
        meta: its header.
    """
    card = shipped.cards().get(checkpoint)
    draw = EXAMPLES.get(meta.dataset if card is None else card["tag"])
    return draw() if draw is not None else {}


def clothes() -> dict[str, Image.Image]:
    """Silhouettes, light on black like Fashion-MNIST's."""
    scale = SIDE // 28
    made: dict[str, Image.Image] = {}
    for name, outlines in CLOTHES.items():
        image = Image.new("L", (SIDE, SIDE))
        for outline in outlines:
            ImageDraw.Draw(image).polygon([(scale * x, scale * y) for x, y in outline], fill=190)
        made[name] = image.filter(ImageFilter.GaussianBlur(scale / 3)).convert("RGB")
    return made


def nuclei() -> dict[str, Image.Image]:
    """Blurred ellipses as a fluorescence microscope shows nuclei, few and many."""
    return {"a few nuclei": _cells(count=9, seed=1), "many nuclei": _cells(count=28, seed=2)}


def _cells(count: int, seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    image = Image.new("L", (256, 256), 8)
    for _ in range(count):
        x, y = rng.uniform(10, 246, 2)
        width, height = rng.uniform(7, 15, 2)
        box = (x - width, y - height, x + width, y + height)
        ImageDraw.Draw(image).ellipse(box, fill=int(rng.uniform(60, 140)))
    pixels = np.asarray(image.filter(ImageFilter.GaussianBlur(1.2)), dtype=float) + rng.normal(0, 3, (256, 256))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert("RGB")


def digits() -> dict[str, Image.Image]:
    """The first image of each digit that comes with scikit-learn."""
    from sklearn.datasets import load_digits

    data: Any = load_digits()
    first = {str(label): data.images[list(data.target).index(label)] for label in range(10)}
    return {name: Image.fromarray((pixels * 15.9).astype(np.uint8)).convert("RGB") for name, pixels in first.items()}


def shapes() -> dict[str, Image.Image]:
    """Pictures of the evaluation part of the data set that is drawn."""
    return {f"shapes {number}": Image.fromarray(draw_shapes("val", number, 128)[0]) for number in range(3)}


EXAMPLES: Mapping[str, Callable[[], dict[str, Image.Image]]] = {
    "fashion_mnist": clothes,
    "nuclei": nuclei,
    "digits": digits,
    "shapes": shapes,
}
