"""torchvision's conventions: where pixels, boxes, anchors and masks lie. Each method is one of them."""

import math
from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import _utils as matching
from torchvision.models.detection.roi_heads import expand_boxes, expand_masks, maskrcnn_loss, paste_mask_in_image
from torchvision.models.detection.transform import resize_boxes
from torchvision.ops import batched_nms, clip_boxes_to_image

from attnorm.detection.anchors import Anchors
from attnorm.detection.poolers import Pooler

Size = tuple[int, int]  # height, width


class Coder(matching.BoxCoder):
    """Boxes to deltas and back, in the boxes' own precision: deltas may come in half precision, which pixels outgrow.

    Args:
        std: What the deltas (x, y, width, height) are divided by.
    """

    def __init__(self, std: Sequence[float]) -> None:
        x, y, w, h = (1 / value for value in std)
        super().__init__((x, y, w, h))

    def decode_single(self, rel_codes: Tensor, boxes: Tensor) -> Tensor:
        """Boxes (n, 4 * k) from deltas (n, 4 * k) and the boxes (n, 4) that they correct."""
        return super().decode_single(rel_codes.to(boxes.dtype), boxes)


class Modern:
    """torchvision's conventions."""

    name = "modern"
    box_beta = 1 / 9
    min_box_side: float | None = 1e-2  # pixels; smaller detections are left out

    def resized(self, size: Size, min_size: int, max_size: int) -> tuple[Size, float]:
        """Size to resize an image to, sides rounded down but never to nothing, and resized / original."""
        scale = min(min_size / min(size), max_size / max(size))
        return (max(1, math.floor(size[0] * scale)), max(1, math.floor(size[1] * scale))), scale

    def resize_image(self, image: Tensor, size: Size, mean: Tensor, std: Tensor) -> Tensor:
        """Normalised, then resized; `image` (C, H, W) uint8 or floats from 0 to 1, `mean` and `std` (C, 1, 1)."""
        values = image.float() if image.is_floating_point() else image / 255
        return F.interpolate(((values - mean) / std)[None], size, mode="bilinear", align_corners=False)[0]

    def resize_boxes(self, boxes: Tensor, original: Size, size: Size, scale: float) -> Tensor:
        """Boxes (n, 4) of the original image in the resized one."""
        return resize_boxes(boxes, list(original), list(size))

    def restore_boxes(self, boxes: Tensor, original: Size, size: Size, scale: float) -> Tensor:
        """Boxes (n, 4) of the resized image in the original one."""
        return resize_boxes(boxes, list(size), list(original))

    def learnable(self, target: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The ground truth of an original image that training uses: all of it."""
        return dict(target)

    def anchors(self, scale: float = 8.0) -> Anchors:
        """Generator of anchors, called with an ImageList and the feature maps; `scale` in strides."""
        return Anchors(scale)

    def coder(self, std: Sequence[float]) -> Coder:
        """Boxes to deltas and back: `encode_single(boxes, proposals)`, `decode_single(deltas, proposals)`."""
        return Coder(std)

    def clip(self, boxes: Tensor, size: Size) -> Tensor:
        """Boxes (..., 4) cut to the image."""
        return clip_boxes_to_image(boxes, size)

    def pooler(self, output_size: int) -> nn.Module:
        """RoIAlign over FPN levels: called with the feature maps, a list of boxes, the sizes of the images."""
        return Pooler(output_size)

    def anchor_matcher(self) -> matching.Matcher:
        """As :meth:`box_matcher` for anchors; -2: neither an object nor background."""
        return matching.Matcher(0.7, 0.3, allow_low_quality_matches=True)

    def box_matcher(self, iou: float) -> matching.Matcher:
        """From a matrix of overlaps (ground truths, proposals) to the index of the ground truth of each proposal.

        -1: background.
        """
        return matching.Matcher(iou, iou, allow_low_quality_matches=False)

    def suppress(self, boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float, scale: float) -> Tensor:
        """Indices that survive suppression within each class, the best score first; `scale`: resized / original."""
        return batched_nms(boxes, scores, labels, threshold)

    def mask_loss(self, logits: Tensor, boxes: list[Tensor], masks: list[Tensor], labels: list[Tensor],
                  matched: list[Tensor]) -> Tensor:  # fmt: skip
        """Mean binary cross entropy of mask logits (N, classes, M, M) against the masks in `boxes`.

        Args:
            logits: of all positive proposals of the batch.
            boxes: the positive proposals of each image.
            masks: uint8 (G, H, W) of each image's ground truth.
            labels: (G,) of each image's ground truth.
            matched: for each positive proposal the index of its ground truth.
        """
        return maskrcnn_loss(logits, boxes, masks, labels, matched)

    def paste(self, probabilities: Tensor, boxes: Tensor, size: Size) -> Tensor:
        """Mask probabilities (N, M, M) of boxes in the original image to (N, H, W) of that image.

        Needs the memory of its result and of one mask.
        """
        maps, scale = expand_masks(probabilities, padding=1)
        corners = expand_boxes(boxes, scale).long().cpu()
        pasted = probabilities.new_zeros((len(boxes), *size))
        for mask, small, box in zip(pasted, maps, corners, strict=True):
            mask.copy_(paste_mask_in_image(small, box, *size))
        return pasted
