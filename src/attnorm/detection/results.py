"""What a detector found, as the entries of COCO's result files."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from attnorm.data.coco_masks import encode
from attnorm.detection.coco_entries import Entry

Paste = Callable[[Tensor, Tensor, tuple[int, int]], Tensor]
MASK_THRESHOLD = 0.5  # a pixel belongs to a mask when its probability is above
PIXELS_AT_ONCE = 2**22  # of masks as large as their image; 16 MiB as floats


def coco_results(detection: dict[str, Any], image_id: int, category_ids: Sequence[int], paste: Paste) -> list[Entry]:
    """The entries of one image, in the detector's order.

    Args:
        detection: of `Detector.detect`: `boxes` (n, 4) in pixels of the image, `labels` (n,) from 1, `scores` (n,),
            `size` (height, width) and, of a detector that has masks, `mask_probabilities` (n, M, M).
        image_id: the image's.
        category_ids: of the labels from 1.
        paste: the conventions' way from mask probabilities and boxes to probabilities (n, height, width).

    Returns:
        image_id, category_id, bbox (x, y, width, height), score and, of masks, segmentation (compressed run lengths).
    """
    boxes = detection["boxes"].float()
    corners = boxes.tolist()
    labels, scores = detection["labels"].tolist(), detection["scores"].tolist()
    entries: list[Entry] = [
        {
            "image_id": image_id,
            "category_id": category_ids[label - 1],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": score,
        }
        for (x1, y1, x2, y2), label, score in zip(corners, labels, scores, strict=True)
    ]
    if "mask_probabilities" in detection:
        for entry, rle in zip(
            entries, mask_rles(detection["mask_probabilities"], boxes, detection["size"], paste), strict=True
        ):
            entry["segmentation"] = rle
    return entries


def mask_rles(probabilities: Tensor, boxes: Tensor, size: tuple[int, int], paste: Paste) -> list[Entry]:
    """Masks as run lengths, made as large as the image only a few at a time.

    Args:
        probabilities: (n, M, M) over the boxes.
        boxes: (n, 4) in pixels of the image.
        size: (height, width) of the image.
        paste: as in `coco_results`.
    """
    few = max(1, PIXELS_AT_ONCE // (size[0] * size[1]))
    rles: list[Entry] = []
    for some, where in zip(probabilities.float().split(few), boxes.split(few), strict=True):
        rles += encode((paste(some, where, size) > MASK_THRESHOLD).cpu())
    return rles
