"""What `attnorm predict` does with a detector: boxes, masks, labels and scores, in pictures and as COCO's results."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from attnorm.data.image_files import read_image
from attnorm.data.images import to_tensor
from attnorm.detection.coco_entries import Entry
from attnorm.detection.detector import Detector
from attnorm.detection.draw import draw_detections
from attnorm.detection.results import coco_results
from attnorm.files import replacing
from attnorm.training.checkpoint import CheckpointMeta

SCORE_THRESHOLD = 0.5


class DetectionPredictor:
    """See `attnorm.training.predict.Predictor`.

    Args:
        detector: in evaluation mode, on its device.
        meta: of its checkpoint.
        score_threshold: objects of at most this score are left out.
    """

    ending = "objects"

    def __init__(self, detector: Detector, meta: CheckpointMeta, score_threshold: float | None) -> None:
        self.threshold = SCORE_THRESHOLD if score_threshold is None else score_threshold
        # There and not afterwards: the detector may have been told to keep to surer ones than are asked for here.
        detector.roi_heads.config = replace(detector.roi_heads.config, score_threshold=self.threshold)
        self.detector, self.model, self.in_chans = detector, meta.model, meta.in_chans
        self.names = dict(zip(meta.category_ids or (), meta.classes, strict=True))
        self.results: list[dict[str, Any]] = []
        self.images = 0

    def read(self, path: Path) -> Image.Image:
        """The image upright and in RGB, 8 bits, as detection's data are read."""
        return read_image(str(path))

    def pixels(self, image: Image.Image) -> Tensor:
        """An image in RGB as the detector takes it: uint8 (C, H, W), on its device."""
        device = next(self.detector.parameters()).device
        return to_tensor(image if self.in_chans == 3 else image.convert("L")).to(device)

    @torch.no_grad()
    def find(self, image: Image.Image, image_id: int) -> list[Entry]:
        """The objects in an image in RGB as entries of COCO's result files."""
        detection = self.detector.detect([self.pixels(image)])[0]
        return coco_results(detection, image_id, tuple(self.names), self.detector.roi_heads.conventions.paste)

    def predict(self, image: Image.Image, picture: Path) -> dict[str, Any]:
        """Draws what is found; image_id, height, width and how many objects there are."""
        self.images += 1
        entries = self.find(image, self.images)
        with replacing(picture) as temporary:
            draw_detections(image, entries, self.names).save(temporary, format="png")
        self.results.extend(entries)
        return {"image_id": self.images, "height": image.height, "width": image.width, "objects": len(entries)}

    def summary(self) -> dict[str, Any]:
        """The threshold, and `categories`."""
        categories = [{"id": number, "name": name} for number, name in self.names.items()]
        return {"score_threshold": self.threshold, "categories": categories}
