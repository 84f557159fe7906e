"""What a run of a detector says and refuses before it begins."""

from dataclasses import replace

import pytest
import torch

from attnorm.data.coco_config import CocoConfig
from attnorm.data.shapes import MEAN, STD
from attnorm.detection.config import DetectorConfig
from attnorm.detection.create import create_detector
from attnorm.errors import ConfigError
from attnorm.training.checkpoint import load_checkpoint
from attnorm.training.checks import check_batch, check_recipe
from attnorm.training.config import TrainConfig
from attnorm.training.task import make_task
from tests.data.coco_sets import annotation, content, write
from tests.training.saved_detector import save_tiny_detector


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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dataset": "shapes", "data_dir": "/nowhere"}, "data_dir does nothing for dataset shapes"),
        (
            {"dataset": "shapes", "coco": CocoConfig(val_images="x")},
            r"coco\.val_images does nothing for dataset shapes",
        ),
        ({"dataset": "coco", "coco": CocoConfig(augment="lsj")}, "squares of 1024 pixels, which detector.min_size 800"),
        (
            {"dataset": "coco", "coco": CocoConfig(augment="lsj"), "detector": DetectorConfig(min_size=(800, 1024))},
            "give detector.min_size and max_size 1024",
        ),
    ],
)
def test_settings_that_would_do_nothing_or_be_undone(settings, message):
    with pytest.raises(ConfigError, match=message):
        check_recipe(TrainConfig(model="mask_rcnn_resnet18_fpn", output="x", **settings))


def test_large_scale_jitter_of_the_detectors_size():
    detector = DetectorConfig(min_size=256, max_size=256)
    coco = CocoConfig(augment="lsj", jitter_size=256)
    check_recipe(TrainConfig(model="mask_rcnn_resnet18_fpn", dataset="coco", output="x", coco=coco, detector=detector))


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


def test_images_are_normalised_as_the_weights_that_a_run_starts_from_saw_them(tmp_path):
    """A detector of this package says how in its file, a plain state dict does not: then as timm's network is."""
    detector = save_tiny_detector(tmp_path / "detector.safetensors")  # of means 0.5 and deviations 0.25
    plain = tmp_path / "plain.pth"
    torch.save(load_checkpoint(detector)[0].state_dict(), plain)
    imagenet = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    for start, expected in ((None, (MEAN, STD)), (detector, ((0.5,) * 3, (0.25,) * 3)), (plain, imagenet)):
        config = TrainConfig(
            model="mask_rcnn_resnet10t_fpn",
            dataset="shapes",
            output=str(tmp_path / "run"),
            initial_checkpoint=None if start is None else str(start),
        )
        transform = make_task(config).network().transform
        assert tuple(transform.image_mean.flatten().tolist()) == pytest.approx(expected[0])
        assert tuple(transform.image_std.flatten().tolist()) == pytest.approx(expected[1])
