"""The generated set: always the same, right masks, and the same when it is written as COCO files and read again."""

import hashlib

import numpy as np
import pytest
import torch
from matplotlib.path import Path
from torchvision.ops import masks_to_boxes

from attnorm.data import DataConfig, load_detection
from attnorm.data.coco_writer import write_coco
from attnorm.data.shapes import _inside, draw
from attnorm.errors import ConfigError
from tests.data.coco_sets import config

# SHA-256 of the masks of the first ten pictures; the numbers are those of NumPy's Philox
MASKS = "789ac7a1a4368018baf0fdeb4a6b9b3a2498c9844d8f13c574833045f92e9584"


@pytest.fixture(scope="module")
def data():
    return load_detection(DataConfig(dataset="shapes", image_size=64))


def test_the_masks_are_the_same_everywhere():
    digest = hashlib.sha256()
    for number in range(10):
        for array in draw("train", number, 128)[1:]:
            digest.update(np.packbits(array) if array.dtype == bool else array.astype("<i8").tobytes())
    assert digest.hexdigest() == MASKS


def test_every_picture_is_another_one(data):
    assert (len(data.train), len(data.val)) == (240, 60)
    pictures = [part.image(i).tobytes() for part in (data.train, data.val) for i in range(60)]
    assert len(set(pictures)) == 120


def test_targets_are_the_visible_parts(data):
    for index in range(20):
        target = data.train.annotations.target(index)
        _, masks, labels = draw("train", index, 64)
        assert torch.equal(target["masks"].bool(), torch.from_numpy(masks))
        assert target["labels"].tolist() == labels.tolist()
        assert (target["masks"].sum(0) <= 1).all()  # what is covered belongs to the upper shape alone
        assert torch.equal(target["boxes"], masks_to_boxes(target["masks"]) + torch.tensor([0, 0, 1, 1]))
        assert torch.equal(target["area"], target["masks"].sum((1, 2)).float())
    assert set(data.train.annotations.labels) == {1, 2, 3, 4}


def test_shapes_stand_out_by_their_colour():
    """One colour within a shape up to the noise, brighter or darker than any background in each channel."""
    for number in range(10):
        picture, masks, _ = draw("val", number, 128)
        assert all(np.ptp(picture[mask].astype(int), axis=0).max() <= 60 for mask in masks)
        colours = np.stack([picture[mask].mean(0) for mask in masks])
        assert ((colours < 60) | (colours > 180)).all()
        background = picture[~masks.any(0)].astype(int)
        assert 25 < background.mean() < 175
        assert background.std() > 15


def test_polygons_are_filled_as_matplotlib_fills_them():
    star = [(50, 5), (61, 38), (95, 38), (67, 58), (78, 92), (50, 71), (22, 92), (33, 58), (5, 38), (39, 38)]
    y, x = np.mgrid[:100, :100] + 0.4837  # no point on a side, where conventions differ
    inside = Path(star).contains_points(np.stack([x.ravel(), y.ravel()], 1)).reshape(100, 100)
    np.testing.assert_array_equal(_inside(star, x, y), inside)


def test_written_and_read_again_it_is_the_same(data, tmp_path):
    for part in ("train", "val"):
        write_coco(getattr(data, part), tmp_path, part)
    read = load_detection(config(tmp_path))
    assert read.categories == data.categories
    assert read.notes == ()
    truth, expected = read.val.ground_truth(), data.val.ground_truth()
    assert truth["annotations"] == expected["annotations"]
    assert [image["id"] for image in truth["images"]] == [image["id"] for image in expected["images"]]
    for ours, theirs in ((read.train, data.train), (read.val, data.val)):
        assert len(ours) == len(theirs)
        for index in range(0, len(ours), 7):
            assert torch.equal(ours[index][0], theirs[index][0])
            target, expected = ours.annotations.target(index), theirs.annotations.target(index)
            assert target.keys() == expected.keys()
            assert all(torch.equal(target[name], expected[name]) for name in target)


def test_pictures_that_are_too_small():
    with pytest.raises(ConfigError, match="image_size must be at least 32 pixels for shapes; got 31"):
        load_detection(DataConfig(dataset="shapes", image_size=31))


def test_without_masks():
    data = load_detection(DataConfig(dataset="shapes", image_size=32), ("val",), masks=False)
    assert not data.has_masks
    assert data.train is None
    assert "masks" not in data.val.annotations.target(0)
    assert "segmentation" not in data.val.ground_truth()["annotations"][0]
