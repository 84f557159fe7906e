"""Entries of COCO's result files, and that masks never lie in memory together at their full size."""

import numpy as np
import pytest
import torch
from pycocotools import mask as oracle

from attnorm.detection import results
from attnorm.detection.conventions import conventions
from attnorm.detection.results import coco_results, mask_rles

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # within pycocotools


@pytest.fixture
def detection():
    """Two detections on an image 40 high and 60 wide; the second mask is 1/2 everywhere, which is no mask."""
    probabilities = torch.zeros(2, 28, 28)
    probabilities[0], probabilities[1] = 1.0, 0.5
    return {
        "boxes": torch.tensor([[10.0, 4.0, 30.0, 24.0], [0.0, 0.0, 20.5, 8.25]]),
        "labels": torch.tensor([2, 1]),
        "scores": torch.tensor([0.75, 0.5]),
        "mask_probabilities": probabilities,
        "size": (40, 60),
    }


def whole_boxes(probabilities, boxes, size):
    """A way to paste that can be foreseen: the mean of the map over the box, which ends on whole pixels."""
    masks = torch.zeros(len(boxes), *size)
    for mask, values, box in zip(masks, probabilities, boxes.round().int().tolist(), strict=True):
        mask[box[1] : box[3], box[0] : box[2]] = values.mean()
    return masks


def test_entries(detection):
    first, second = coco_results(detection, 17, (3, 90), whole_boxes)
    rle = first.pop("segmentation")
    assert first == {"image_id": 17, "category_id": 90, "bbox": [10.0, 4.0, 20.0, 20.0], "score": 0.75}
    expected = np.zeros((40, 60), dtype=np.uint8)
    expected[4:24, 10:30] = 1
    assert rle["size"] == [40, 60]
    assert isinstance(rle["counts"], str)
    np.testing.assert_array_equal(oracle.decode(rle), expected)
    assert second["bbox"] == [0.0, 0.0, 20.5, 8.25]
    assert second["category_id"] == 3
    assert oracle.area(second["segmentation"]) == 0  # a probability of exactly 1/2 is not above it


def test_boxes_alone(detection):
    del detection["mask_probabilities"]
    assert [sorted(entry) for entry in coco_results(detection, 1, (1, 2), whole_boxes)] == [
        ["bbox", "category_id", "image_id", "score"]
    ] * 2


def test_masks_are_those_that_are_pasted():
    """Against torchvision's pasting and pycocotools's encoding of all masks at once."""
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.rand(7, 28, 28, generator=generator)
    corners = torch.rand(7, 2, generator=generator) * 40 - 5
    boxes = torch.cat([corners, corners + torch.rand(7, 2, generator=generator) * 40], dim=1)
    paste = conventions("modern").paste
    found = mask_rles(probabilities, boxes, (50, 60), paste)
    for rle, pixels in zip(found, paste(probabilities, boxes, (50, 60)) > 0.5, strict=True):
        np.testing.assert_array_equal(oracle.decode(rle), pixels.numpy())


@pytest.mark.parametrize(("size", "most"), [((100, 100), 10), ((1000, 1000), 1), ((400, 600), 4)])
def test_few_masks_are_pasted_at_once(monkeypatch, size, most):
    monkeypatch.setattr(results, "PIXELS_AT_ONCE", 1_000_00 if size == (100, 100) else 1_000_000)
    pasted = []

    def paste(probabilities, boxes, size):
        pasted.append(len(boxes))
        return torch.zeros(len(boxes), *size)

    boxes = torch.zeros(11, 4)
    assert len(mask_rles(torch.zeros(11, 2, 2), boxes, size, paste)) == 11
    assert max(pasted) == most
    assert sum(pasted) == 11
    assert mask_rles(torch.zeros(0, 2, 2), boxes[:0], size, paste) == []
