"""What a run of a detector says and refuses before it begins."""

from dataclasses import replace

import pytest

from attnorm.detection.config import DetectorConfig
from attnorm.detection.create import create_detector
from attnorm.errors import ConfigError
from attnorm.training.checks import check_batch
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


@pytest.mark.parametrize("policy", ["train", "sync", "eval", "frozen"])
def test_batches_of_one_image_are_refused_where_the_attention_needs_more(tmp_path, policy):
    """In one process there is nobody to share statistics with."""
    config = TrainConfig(
        model="mask_rcnn_resnet18_an_fpn",
        dataset="shapes",
        batch_size=1,
        output=str(tmp_path / "run"),
        detector=DetectorConfig(norm_policy=policy),
    )
    detector = create_detector(config.model, 5, config=config.detector)
    if policy in ("train", "sync"):
        with pytest.raises(ConfigError, match=r"at least 2 for mask_rcnn_resnet18_an_fpn.* got 1: take"):
            check_batch(config, detector)
    else:
        check_batch(config, detector)
    check_batch(replace(config, batch_size=2), detector)
