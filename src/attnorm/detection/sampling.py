"""Which boxes of an image the heads learn from, and what each of them is told."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.models.detection import _utils as matching
from torchvision.ops import box_iou

PAIRS_AT_ONCE = 2**24  # of boxes; 640 MiB while their overlaps are computed


@dataclass(frozen=True)
class Sample:
    """Boxes of one image that a stage learns from.

    Attributes:
        boxes: (n, 4).
        labels: (n,) int64; 0: background.
        matched: (n,) int64, index of the ground truth that the box stands for; -1: background.
        is_truth: (n,) bool, whether the box is itself a ground truth that joined the proposals.
    """

    boxes: Tensor
    labels: Tensor
    matched: Tensor
    is_truth: Tensor

    @property
    def positive(self) -> Tensor:
        """(n,) bool: the boxes with an object."""
        return self.labels > 0


def overlaps(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Intersection over union (n, m) of boxes (n, 4) and (m, 4): torchvision's, of some rows at a time.

    While it works that takes ten times the memory of its result, 16 GiB for 1,500 objects and a quarter million
    anchors.
    """
    few = max(1, PAIRS_AT_ONCE // max(1, len(boxes2)))
    found = boxes2.new_empty(len(boxes1), len(boxes2))
    for some, rows in zip(boxes1.split(few), found.split(few), strict=True):
        rows.copy_(box_iou(some, boxes2))
    return found


def draw_sample(
    proposals: Tensor,
    target: Mapping[str, Tensor],
    matcher: Callable[[Tensor], Tensor],
    sampler: matching.BalancedPositiveNegativeSampler,
) -> Sample:
    """Give the proposals of an image their ground truths, let those join, and draw as many as `sampler` says.

    A ground truth that joins stands for itself. It is not matched, lest it be the best match of itself in a matcher
    that gives a ground truth the proposals which overlap it best. Of several objects with the same box each keeps its
    label, where torchvision gives all their boxes to the first: the one difference from its sampling.

    Args:
        proposals: (n, 4).
        target: `boxes` (g, 4) and `labels` (g,) of the ground truth; g may be 0.
        matcher: From the overlaps (g, n) to the index of each proposal's ground truth; negative: none.
        sampler: From a list of labels to masks of the chosen positives and negatives; random.
    """
    truths = target["boxes"].to(proposals)
    none = torch.full((len(proposals),), -1, dtype=torch.int64, device=proposals.device)
    matched = matcher(overlaps(truths, proposals)) if len(truths) and len(proposals) else none
    matched = torch.cat((matched, torch.arange(len(truths), device=matched.device)))
    labels = torch.zeros_like(matched)
    labels[matched >= 0] = target["labels"][matched[matched >= 0]]
    (positive,), (negative,) = sampler([labels])
    drawn = torch.where(positive | negative)[0]
    return Sample(
        torch.cat((proposals, truths))[drawn], labels[drawn], matched[drawn], is_truth=drawn >= len(proposals)
    )
