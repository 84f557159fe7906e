"""The geometry of a detector: where pixels, boxes, anchors and masks lie.

Inside a detector a box is always (x1, y1, x2, y2) in pixels of the image that the network sees, and its width is
x2 - x1. Two schemes differ in everything else:

    Modern  torchvision's
    V1      that of the detectors which the authors released, whose boxes end with the last pixel inside: such a box
            (x1, y1, x2, y2) is (x1, y1, x2 + 1, y2 + 1) here, so that widths, overlaps and box deltas are the same
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.models.detection import _utils as matching
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.roi_heads import maskrcnn_loss, paste_masks_in_image
from torchvision.ops import MultiScaleRoIAlign, batched_nms, clip_boxes_to_image

Size = tuple[int, int]  # height, width
STRIDES = (4, 8, 16, 32, 64)
RATIOS = (0.5, 1.0, 2.0)
LEVELS = ("0", "1", "2", "3")  # of the FPN, that regions are cut from


class Modern:
    """torchvision's conventions. Every method is one convention."""

    name = "modern"
    box_beta = 1 / 9
    rpn_beta = 1 / 9
    min_box_side = 1e-2  # pixels; smaller detections are left out

    def anchors(self, scale: float = 8.0) -> nn.Module:
        """Generator of anchors, called with an ImageList and the feature maps; `scale` in strides."""
        sizes = tuple((int(scale * stride),) for stride in STRIDES)
        return AnchorGenerator(sizes, (RATIOS,) * len(STRIDES))

    def coder(self, std: Sequence[float]) -> matching.BoxCoder:
        """Boxes to deltas and back: `encode_single(boxes, proposals)`, `decode_single(deltas, proposals)`."""
        x, y, w, h = (1 / value for value in std)
        return matching.BoxCoder((x, y, w, h))

    def clip(self, boxes: Tensor, size: Size) -> Tensor:
        """Boxes (..., 4) cut to the image."""
        return clip_boxes_to_image(boxes, size)

    def pooler(self, output_size: int) -> nn.Module:
        """RoIAlign over FPN levels: called with the feature maps, a list of boxes, the sizes of the images."""
        return MultiScaleRoIAlign(list(LEVELS), output_size, sampling_ratio=2)

    def box_matcher(self, iou: float) -> matching.Matcher:
        """From a matrix of overlaps (ground truth, proposals) to the index of the ground truth of each proposal.

        -1: background. The matcher of v1 also gives a ground truth the proposals that overlap it best.
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
        """Mask probabilities (N, M, M) of boxes in the original image to (N, H, W) of that image."""
        return paste_masks_in_image(probabilities[:, None], boxes, size)[:, 0]


def conventions(name: str) -> Modern:
    """The scheme of that name."""
    return {"modern": Modern}[name]()
