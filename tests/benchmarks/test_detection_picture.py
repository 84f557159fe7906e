"""The sheet of pictures: sizes and colours by hand."""

import json

import pytest
from PIL import Image, ImageChops

from attnorm.data import CocoConfig
from benchmarks import detection_picture
from tests.training.saved_detector import write_three_images


def test_a_row_for_each_image_and_a_column_for_each_network(tmp_path, monkeypatch: pytest.MonkeyPatch):
    """Three images of 80x60 at half of their width; what scores 0.4 is not drawn, the others are where they should."""
    monkeypatch.setattr(detection_picture, "WIDTH", 40)
    root = write_three_images(tmp_path / "coco")
    low = [{"image_id": 41, "category_id": 3, "bbox": [0, 0, 64, 48], "score": 0.4}]
    high = [{**low[0], "score": 0.9}]
    for name, entries in (("low", low), ("high", high)):
        (tmp_path / f"{name}.json").write_text(json.dumps(entries))
    results = [tmp_path / "low.json", tmp_path / "high.json"]
    detection_picture.draw(root, CocoConfig(), results, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (3 * 40 + 2 * 6, 3 * 30 + 2 * 6)
        second = [sheet.crop((46 * column, 36, 46 * column + 40, 66)) for column in range(3)]
    truth, low, high = (ImageChops.difference(each, second[1]).getbbox() for each in second)
    assert low is None
    for box in (truth, high):  # of 64x48 pixels from the corner, at half of the width, and its label
        assert box is not None
        assert box[:2] == (0, 0)
        assert box[2] >= 30
        assert 23 <= box[3] <= 27  # as wide as its line, more or less
