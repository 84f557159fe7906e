"""The conventions of the detectors that the authors released, written down in terms of torchvision's.

Those count the last pixel as inside a box: (x1, y1, x2, y2) is x2 - x1 + 1 wide. In this package the same box is
(x1, y1, x2 + 1, y2 + 1), so that widths, overlaps and deltas agree. What still differs from torchvision is here.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import _utils as matching
from torchvision.ops import batched_nms

from attnorm.detection.anchors import V1Anchors
from attnorm.detection.modern import Coder, Modern, Size
from attnorm.detection.poolers import V1Pooler

PER_OBJECT = ("boxes", "labels", "masks", "area", "iscrowd")  # entries of a target with a row for each object


class V1Coder(Coder):
    """Limits how far a delta shrinks a box as well as how far it stretches it: to a factor of 1000 / 16 either way."""

    def decode_single(self, rel_codes: Tensor, boxes: Tensor) -> Tensor:
        """Boxes (n, 4 * k) from deltas (n, 4 * k) and the boxes (n, 4) that they correct."""
        deltas = rel_codes.to(boxes.dtype).unflatten(1, (-1, 4))
        lowest = deltas.new_tensor([-torch.inf, -torch.inf, *(-self.bbox_xform_clip * w for w in self.weights[2:])])
        return super().decode_single(deltas.maximum(lowest).flatten(1), boxes)


class V1Matcher(matching.Matcher):
    """Gives a ground truth all the boxes that tie for its best, if that is good enough, whatever else they overlap.

    Where two ground truths share their best box the later one has it. torchvision's leaves a box with the ground truth
    which the box overlaps most, and has no lower bound.

    Args:
        high: Overlap from which a box stands for an object.
        low: Overlap below which it is background.
        lowest: Overlap from which a ground truth's best is given to it.
    """

    def __init__(self, high: float, low: float, lowest: float) -> None:
        super().__init__(high, low, allow_low_quality_matches=True)
        self.lowest = lowest

    def set_low_quality_matches_(self, matches: Tensor, all_matches: Tensor, match_quality_matrix: Tensor) -> None:
        """Change `matches` (n,) by the overlaps (ground truths, n)."""
        best = match_quality_matrix.amax(dim=1, keepdim=True)
        truths, boxes = torch.where((match_quality_matrix == best) & (best >= self.lowest))
        owner = torch.full_like(matches, -1).scatter_reduce(0, boxes, truths, "amax")
        matches.copy_(torch.where(owner >= 0, owner, matches))


class V1(Modern):
    """The conventions of the authors' detectors."""

    name = "v1"
    box_beta = 1.0
    min_box_side = None

    def resized(self, size: Size, min_size: int, max_size: int) -> tuple[Size, float]:
        """As torchvision's, sides rounded to the nearest, halves up."""
        scale = min(max_size / max(size), min_size / min(size))
        return (max(1, int(size[0] * scale + 0.5)), max(1, int(size[1] * scale + 0.5))), scale

    def resize_image(self, image: Tensor, size: Size, mean: Tensor, std: Tensor) -> Tensor:
        """Resized in 8 bits, then normalised."""
        values = _round_up(image * 255) if image.is_floating_point() else image
        resized = F.interpolate(values[None].float(), size, mode="bilinear", align_corners=False)[0]
        return (_round_up(resized) / 255 - mean) / std

    def resize_boxes(self, boxes: Tensor, original: Size, size: Size, scale: float) -> Tensor:
        """Corners times `scale`, the lower right one being the last pixel, cut to the image."""
        first, last = boxes[:, :2], boxes[:, 2:] - 1
        return self.clip(torch.cat((first * scale, last * scale + 1), dim=1), size)

    def restore_boxes(self, boxes: Tensor, original: Size, size: Size, scale: float) -> Tensor:
        """Corners divided by `scale`, the lower right one being the last pixel."""
        first, last = boxes[:, :2], boxes[:, 2:] - 1
        return torch.cat((first / scale, last / scale + 1), dim=1)

    def learnable(self, target: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Objects of at least one pixel on each side (float32 may make a little less of one) and with an area."""
        boxes = target["boxes"]
        kept = (boxes[:, 2:] - boxes[:, :2] > 0.999).all(dim=1)
        if "area" in target:
            kept &= target["area"] > 0
        return {key: value[kept] if key in PER_OBJECT else value for key, value in target.items()}

    def anchors(self, scale: float = 8.0) -> V1Anchors:
        """Anchors with whole corners."""
        return V1Anchors(scale)

    def inside(self, anchors: Tensor, size: Size) -> Tensor:
        """Which anchors (n, 4) take part in training: those without a pixel outside the image. A mask (n,)."""
        height, width = size
        return (anchors[:, :2] >= 0).all(1) & (anchors[:, 2] <= width) & (anchors[:, 3] <= height)

    def coder(self, std: Sequence[float]) -> V1Coder:
        """As torchvision's, with shrinking limited too."""
        return V1Coder(std)

    def clip(self, boxes: Tensor, size: Size) -> Tensor:
        """First and last pixels (..., 4) moved into the image, where a box outside it keeps one pixel."""
        height, width = size
        first = [boxes[..., 0].clamp(0, width - 1), boxes[..., 1].clamp(0, height - 1)]
        last = [boxes[..., 2].clamp(1, width), boxes[..., 3].clamp(1, height)]
        return torch.stack(first + last, dim=-1)

    def pooler(self, output_size: int) -> nn.Module:
        """The old RoIAlign; called as torchvision's."""
        return V1Pooler(output_size)

    def anchor_matcher(self) -> V1Matcher:
        """A ground truth's best anchors are given to it from an overlap of 0.3."""
        return V1Matcher(0.7, 0.3, lowest=0.3)

    def box_matcher(self, iou: float) -> V1Matcher:
        """A ground truth's best proposals are given to it even where they overlap another more."""
        return V1Matcher(iou, iou, lowest=iou)

    def suppress(self, boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float, scale: float) -> Tensor:
        """As torchvision's, on boxes of the original image, whose last pixel is larger there.

        In float64: classes are kept apart by an offset, beside which float32 would round small boxes.
        """
        original = self.restore_boxes(boxes, (0, 0), (0, 0), scale)
        return batched_nms(original.double(), scores.double(), labels, threshold)

    def mask_loss(self, logits: Tensor, boxes: list[Tensor], masks: list[Tensor], labels: list[Tensor],
                  matched: list[Tensor]) -> Tensor:  # fmt: skip
        """As torchvision's, against whole pixels of the masks; see :func:`crop_masks`."""
        wanted = [crop_masks(*each, logits.shape[-1]) for each in zip(masks, boxes, matched, strict=True)]
        classes = torch.cat([of_image[index] for of_image, index in zip(labels, matched, strict=True)])
        if len(classes) == 0:
            return logits.sum() * 0
        own = logits[torch.arange(len(classes), device=classes.device), classes]
        return F.binary_cross_entropy_with_logits(own, torch.cat(wanted).to(own.dtype))

    def paste(self, probabilities: Tensor, boxes: Tensor, size: Size) -> Tensor:
        """Resized to the box with corners cut down to whole pixels, and written there."""
        pasted = probabilities.new_zeros((len(boxes), *size))
        corners = torch.cat((boxes[:, :2], boxes[:, 2:] - 1), dim=1).long().tolist()
        for mask, small, (left, top, right, bottom) in zip(pasted, probabilities, corners, strict=True):
            shape = (max(bottom - top + 1, 1), max(right - left + 1, 1))
            enlarged = F.interpolate(small[None, None], shape, mode="bilinear", align_corners=False)[0, 0]
            place = mask[top : top + shape[0], left : left + shape[1]]
            place.copy_(enlarged[: place.shape[0], : place.shape[1]])
        return pasted


def crop_masks(masks: Tensor, boxes: Tensor, matched: Tensor, bins: int) -> Tensor:
    """What a mask branch should find in boxes: the mask there, resized to `bins` on a side, of zeros and ones.

    The box is cut down to whole pixels, the mask resized bilinearly between the middles of pixels and rounded, as 8-bit
    images are. Reads four pixels of the mask for each of the result, and so needs little memory.

    Args:
        masks: (G, H, W) uint8 of 0 and 1.
        boxes: (n, 4) in the same pixels.
        matched: (n,) index into `masks` for each box.
        bins: Side of the result.

    Returns:
        (n, bins, bins) of 0 and 1.
    """
    height, width = masks.shape[-2:]
    left, right, across = _between_pixels(boxes[:, 0], boxes[:, 2], width, bins)
    top, bottom, down = _between_pixels(boxes[:, 1], boxes[:, 3], height, bins)

    def read(rows: Tensor, columns: Tensor) -> Tensor:
        return masks[matched[:, None, None], rows[:, :, None], columns[:, None, :]].to(boxes.dtype)

    upper = torch.lerp(read(top, left), read(top, right), across[:, None, :])
    lower = torch.lerp(read(bottom, left), read(bottom, right), across[:, None, :])
    return _round_up(torch.lerp(upper, lower, down[:, :, None]))


def _between_pixels(start: Tensor, end: Tensor, length: int, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """Along one axis the pixels (n, bins) on either side of each sample, and how far it is from the first of them."""
    first = start.long().clamp(0, length - 1)
    last = (end - 1).long().clamp(0, length - 1).maximum(first)
    count = (last - first + 1)[:, None]
    middles = torch.arange(bins, device=start.device, dtype=start.dtype) + 0.5
    position = (middles * count / bins - 0.5).clamp(min=0).minimum((count - 1).to(start.dtype))
    before = position.long()
    after = (before + 1).minimum(count - 1)
    return first[:, None] + before, first[:, None] + after, position - before


def _round_up(values: Tensor) -> Tensor:
    """To the nearest whole number, halves up."""
    return (values + 0.5).floor()
