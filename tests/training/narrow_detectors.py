"""Detectors and data of seconds: a thousandth of the weights, a dozen pictures of 64 pixels."""

from pathlib import Path
from typing import Any

import pytest

from attnorm.data import shapes
from attnorm.detection.config import DetectorConfig
from attnorm.training.config import TrainConfig


def shrink(patch: pytest.MonkeyPatch) -> None:
    """Makes narrow heads and few pictures for the length of a test."""
    for name, width in (("fpn_channels", 16), ("box_hidden", 32)):
        patch.setitem(DetectorConfig.__init__.__kwdefaults__, name, width)
    patch.setattr(shapes, "COUNTS", {"train": 8, "val": 5})


def tiny_config(output: Path, **changes: Any) -> TrainConfig:
    """Two epochs of four batches."""
    settings = {"min_size": 64, "anchor_scale": 4, "box_samples": 16, "train_proposals": 32, "test_proposals": 16}
    settings["score_threshold"] = 0.0  # a detector that has learnt nothing finds something too
    detector = DetectorConfig(**{**settings, **changes.pop("detector", {})})
    chosen = {"model": "mask_rcnn_test_resnet_fpn", "dataset": "shapes", "image_size": 64, "epochs": 2, "lr": 0.01}
    return TrainConfig(**{**chosen, **changes}, output=str(output), detector=detector)
