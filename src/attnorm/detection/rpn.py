"""The region proposal network: which boxes of an image may hold an object (S. Ren et al., arXiv 1506.01497).

At every cell of every level a small convolutional head scores each anchor and corrects it. The best of each level are
taken, cut to the image and suppressed by overlap.
"""

from typing import Any, cast

import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

from attnorm.detection.anchors import RATIOS
from attnorm.detection.config import DetectorConfig
from attnorm.detection.modern import Modern
from attnorm.detection.sampling import overlaps
from attnorm.detection.v1 import V1


class ProposalHead(RPNHead):
    """torchvision's head with outputs in float32, whatever its convolutions compute in: pixels need its precision."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Scores (N, anchors, H, W) before the sigmoid and deltas (N, 4 * anchors, H, W) of each level."""
        scores, deltas = super().forward(x)
        return [score.float() for score in scores], [delta.float() for delta in deltas]


class V1ProposalNetwork(RegionProposalNetwork):
    """That of the authors' detectors: learns from anchors within the image alone, and makes proposals of any size.

    Call it as torchvision's, with an ImageList, the feature maps and in training the targets.
    """

    conventions = V1()

    def forward(
        self, images: ImageList, features: dict[str, Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Proposals (n, 4) of each image and, in training, losses."""
        if targets is not None:
            # The size decides which anchors lie inside, and torchvision passes the targets alone to where it is asked.
            targets = [
                {**target, "size": torch.tensor(size)} for target, size in zip(targets, images.image_sizes, strict=True)
            ]
        return super().forward(images, features, targets)

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Label (n,) of each anchor, 1 object, 0 background, -1 not used; and the box (n, 4) that it should become."""
        labels = [anchor.new_full((len(anchor),), -1) for anchor in anchors]
        boxes = [anchor.clone() for anchor in anchors]
        for index, (anchor, target) in enumerate(zip(anchors, targets, strict=True)):
            height, width = target["size"].tolist()
            inside = torch.where(self.conventions.inside(anchor, (height, width)))[0]
            if len(inside):
                (found,), (wanted,) = super().assign_targets_to_anchors([anchor[inside]], [target])
                labels[index][inside], boxes[index][inside] = found, wanted
        return labels, boxes

    def compute_loss(
        self, objectness: Tensor, pred_bbox_deltas: Tensor, labels: list[Tensor], regression_targets: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Both losses are means over the sampled anchors; zero where small images leave no anchor inside."""
        if all(bool((label < 0).all()) for label in labels):
            return objectness.sum() * 0, pred_bbox_deltas.sum() * 0
        return super().compute_loss(objectness, pred_bbox_deltas, labels, regression_targets)

    def filter_proposals(
        self,
        proposals: Tensor,
        objectness: Tensor,
        image_shapes: list[tuple[int, int]],
        num_anchors_per_level: list[int],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """As torchvision's, which finds nothing left to cut from boxes that v1's rule has cut."""
        clipped = torch.stack(
            [self.conventions.clip(boxes, size) for boxes, size in zip(proposals, image_shapes, strict=True)]
        )
        return super().filter_proposals(clipped, objectness, image_shapes, num_anchors_per_level)


def make_rpn(config: DetectorConfig, conventions: Modern, in_channels: int) -> RegionProposalNetwork:
    """A proposal network in the conventions given.

    Args:
        config: Number of samples and proposals, and the anchors' scale.
        conventions: Geometry of anchors and boxes.
        in_channels: Of every level of the feature pyramid.

    Returns:
        Called with an ImageList, a dict of feature maps and in training the targets (`boxes` of the resized image), it
        gives proposals (n, 4) of each image and, in training, `loss_objectness` and `loss_rpn_box_reg`.
    """
    limits = {"training": config.train_proposals, "testing": config.test_proposals}
    is_v1 = isinstance(conventions, V1)
    network = (V1ProposalNetwork if is_v1 else RegionProposalNetwork)(
        conventions.anchors(config.anchor_scale),
        ProposalHead(in_channels, len(RATIOS)),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=config.rpn_samples,
        positive_fraction=0.5,
        pre_nms_top_n=limits,
        post_nms_top_n=limits,
        nms_thresh=0.7,
    )
    network.box_coder = conventions.coder((1.0, 1.0, 1.0, 1.0))
    network.box_similarity = cast(Any, overlaps)  # torchvision calls it with two sets of boxes and no more
    network.proposal_matcher = conventions.anchor_matcher()
    if is_v1:
        network.min_size = 0.0
    return network
