"""What a run of a detector says of its data before it begins."""

import pytest

from attnorm.detection.config import DetectorConfig
from attnorm.training.config import TrainConfig
from attnorm.training.task import make_task
from tests.data.coco_sets import annotation, content, write


@pytest.mark.parametrize(("scheme", "left_out"), [("modern", 0), ("v1", 3)])
def test_objects_that_conventions_leave_out_are_counted(tmp_path, scheme, left_out):
    """In v1 those under a pixel high or wide, as cut to the image, and those whose file says that their area is 0."""
    boxes = [[2, 3, 1, 1], [2, 3, 9, 0.9], [19.5, 3, 9, 9]]
    annotations = [annotation(i, 1, bbox=box) for i, box in enumerate(boxes, 1)] + [annotation(4, 1, area=0)]
    runs = {"size": [16, 20], "counts": [300, 20]}
    annotations += [annotation(5, 2), annotation(6, 2, iscrowd=1, bbox=[0, 0, 0.5, 9], segmentation=runs)]
    config = TrainConfig(
        model="mask_rcnn_resnet18_fpn",
        dataset="coco",
        data_dir=str(write(tmp_path, content(annotations))),
        output=str(tmp_path / "run"),
        detector=DetectorConfig(conventions=scheme),
    )
    task = make_task(config)
    notes = [note for note in task.notes if "less than a pixel" in note]
    assert notes == [
        "coco train: 3 of 5 objects are less than a pixel wide or high, or without area, and not learnt from "
        "(detector.conventions v1)"
    ] * (left_out > 0)
    assert task.facts()["notes"] == list(task.notes)
