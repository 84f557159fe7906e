"""The picture of what was found: colours where boxes and masks are, labels within the picture, at every size."""

import colorsys

import numpy as np
import pytest
from PIL import Image, ImageDraw

from attnorm.data.coco_masks import encode
from attnorm.detection import draw
from attnorm.detection.draw import OPACITY, class_colour, draw_detections

NAMES = {3: "cat", 7: "traffic light", 90: "Vögel"}


def entry(size, bbox, category=3, score=0.9):
    """A detection whose mask is the left half of its box."""
    x, y, width, height = bbox
    mask = np.zeros((1, size[1], size[0]), dtype=bool)
    mask[0, y : y + height, x : x + width // 2] = True
    return {"category_id": category, "bbox": [float(v) for v in bbox], "score": score, "segmentation": encode(mask)[0]}


def test_colours_are_those_of_boxes_and_masks():
    """On grey of 100: the mask's pixels are mixed with the class's colour, the box's outline is of that colour."""
    image = Image.new("RGB", (800, 700), (100, 100, 100))
    pixels = np.asarray(draw_detections(image, [entry(image.size, (100, 200, 200, 300), category=7)], NAMES)).copy()
    assert pixels.shape == (700, 800, 3)
    colour = np.array(class_colour(1))  # 7 is the second category
    np.testing.assert_array_equal(pixels[350, 150], np.round((1 - OPACITY) * 100 + OPACITY * colour))
    np.testing.assert_array_equal(pixels[350, 250], [100] * 3)  # in the box, not in the mask
    for y, x in ((350, 100), (350, 299), (499, 250), (200, 290)):
        np.testing.assert_array_equal(pixels[y, x], colour)
    pixels[150:500, 100:300] = 100  # box and label above it
    assert (pixels == 100).all()


def test_small_images_are_enlarged():
    """64 pixels become 640: each pixel ten; the object at (8, 16) lies at (80, 160)."""
    image = Image.new("RGB", (64, 64), (100, 100, 100))
    picture = draw_detections(image, [entry(image.size, (8, 16, 40, 40))], NAMES)
    assert picture.size == (640, 640)
    pixels = np.asarray(picture)
    np.testing.assert_array_equal(pixels[300, 80], class_colour(0))
    np.testing.assert_array_equal(pixels[300, 479], class_colour(0))
    np.testing.assert_array_equal(pixels[300, 490], [100] * 3)
    assert draw_detections(Image.new("RGB", (640, 10)), [], NAMES).size == (640 * 6, 60)


@pytest.mark.parametrize("size", [(64, 64), (512, 512), (2000, 300), (300, 2000), (31, 700), (3000, 2000)])
def test_labels_stay_within_the_picture(monkeypatch, size):
    """Objects in all corners, of one pixel and beyond the border; the letters themselves are looked at."""
    written = []
    text = ImageDraw.ImageDraw.text

    def watch(self, place, words, font, fill):
        written.append((self.textbbox(place, words, font=font), self.im.size))
        text(self, place, words, font=font, fill=fill)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", watch)
    width, height = size
    boxes = [(0, 0, 1, 1), (width - 1, 0, 1, 1), (0, height - 1, 1, 1), (width - 20, height - 20, 20, 20)]
    entries = [entry(size, box, category) for box, category in zip(boxes, (3, 3, 7, 90), strict=True)]
    entries.append(entries[-1] | {"bbox": [-30.0, -20.0, width + 90.0, height + 60.0]})
    draw_detections(Image.new("RGB", size), entries, NAMES)
    assert len(written) == 5
    for (left, top, right, bottom), (wide, high) in written:
        assert left >= 0
        assert top >= 0
        assert bottom <= high
        assert right <= wide or size == (31, 700)  # 124 x 2800: narrower than a long name
        assert bottom - top >= 7  # letters of at least so many pixels


@pytest.mark.parametrize("name", ["two\nlines", "\ud800 half a letter", "\0", "", "雪 العربية", "endless" * 999])
def test_names_of_every_kind_are_written(name):
    """As they are if a font can write them, else by their codes; and in no more than the picture."""
    image = Image.new("RGB", (700, 650), (100, 100, 100))
    pixels = np.asarray(draw_detections(image, [entry(image.size, (100, 200, 200, 300))], {3: name}))
    assert pixels.shape == (650, 700, 3)
    np.testing.assert_array_equal(pixels[350, 299], class_colour(0))
    assert (pixels[190, 102:104] != 100).all()  # the label above the box


def test_labels_keep_clear_of_each_other(monkeypatch):
    """Two objects in the same place and one beside them: no label covers another."""
    areas = []
    write = draw._write
    monkeypatch.setattr(draw, "_write", lambda canvas, area, *rest: (areas.append(area), write(canvas, area, *rest)))
    size = (640, 480)
    entries = [entry(size, (100, 100, 200, 200), 3), entry(size, (102, 101, 200, 200), 7, 0.8)]
    entries.append(entry(size, (150, 100, 80, 40), 90, 0.7))
    draw_detections(Image.new("RGB", size), entries, NAMES)
    for n, one in enumerate(areas):
        for other in areas[:n]:
            assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


def test_colours_of_classes():
    """Stable, bright, and any eight that follow each other apart by their hues."""
    assert class_colour(0) == (255, 38, 38)
    colours = [class_colour(n) for n in range(80)]
    assert len(set(colours)) == 80
    hues = [colorsys.rgb_to_hsv(*(value / 255 for value in colour))[0] for colour in colours]
    for start in range(72):
        near = sorted(hues[start : start + 8])
        gaps = [b - a for a, b in zip(near, [*near[1:], near[0] + 1], strict=True)]
        assert min(gaps) > 0.05


def test_nothing_found_leaves_the_image_as_it_is():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (650, 700, 3), dtype=np.uint8))
    np.testing.assert_array_equal(np.asarray(draw_detections(image, [], NAMES)), np.asarray(image))
