"""A detector of seconds in its checkpoint, and a data set of three images for it."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from attnorm.detection.create import create_detector
from attnorm.training.checkpoint import CheckpointMeta, save_checkpoint

CATEGORIES = {3: "dog", 7: "cat"}
BOXES = {40: [[5, 5, 30, 20], [30, 30, 20, 20]], 41: [[0, 0, 64, 48]], 42: []}  # by image id


def save_tiny_detector(path: Path, kind: str = "mask_rcnn", **settings: object) -> Path:
    """A Mask R-CNN of random weights, which finds up to five objects in whatever it sees."""
    torch.manual_seed(0)
    sizes = {"min_size": 64, "max_size": 96, "test_proposals": 20, "max_detections": 5, "score_threshold": 0.0}
    detector = create_detector(f"{kind}_resnet10t_fpn", 1 + len(CATEGORIES), **(sizes | settings))
    meta = CheckpointMeta(
        model=detector.name,
        num_classes=detector.num_classes,
        in_chans=3,
        classes=tuple(CATEGORIES.values()),
        dataset="coco",
        image_size=64,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        crop_pct=1.0,
        interpolation="bilinear",
        detector=asdict(detector.config),
        category_ids=tuple(CATEGORIES),
    )
    save_checkpoint(path, detector, meta)
    return path


def write_three_images(root: Path) -> Path:
    """`root` as a data set in COCO's format, of which only the evaluation part exists."""
    images = root / "val2017"
    images.mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in BOXES:
        Image.fromarray(random.integers(0, 255, (60, 80, 3), dtype=np.uint8)).save(images / f"{number}.png")
    content = {
        "images": [{"id": n, "file_name": f"{n}.png", "height": 60, "width": 80} for n in BOXES],
        "categories": [{"id": n, "name": name} for n, name in CATEGORIES.items()],
        "annotations": [
            {"id": 10 * image + n, "image_id": image, "category_id": 3 if n else 7, "bbox": box, "iscrowd": 0,
             "area": box[2] * box[3], "segmentation": [outline(*box)]}
            for image, boxes in BOXES.items()
            for n, box in enumerate(boxes)
        ],
    }  # fmt: skip
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    return root


def outline(x: float, y: float, width: float, height: float) -> list[float]:
    """A box as a polygon."""
    return [x, y, x + width, y, x + width, y + height, x, y + height]
