"""From proposals to objects: their classes, better boxes, and masks, in one stage or in a cascade.

Faster and Mask R-CNN (S. Ren et al., arXiv 1506.01497; K. He et al., arXiv 1703.06870) have one stage: the features in
each proposal give its class and a correction of its box. Trained on proposals that overlap an object by half, it makes
boxes of about that quality. Cascade R-CNN (Z. Cai and N. Vasconcelos, "Cascade R-CNN: Delving into High Quality Object
Detection", arXiv 1712.00726) adds stages, each trained on the boxes of the one before it and asking for more overlap:

    proposals -> stage 0 (overlap 0.5) -> boxes -> stage 1 (0.6) -> boxes -> stage 2 (0.7) -> boxes

    training     Each stage draws a sample of its boxes and the ground truth, and adds its losses times its weight. Its
                 corrections move the sample's boxes, without gradient; ground truths that had joined are taken out; the
                 rest are the next stage's proposals.
    evaluation   All boxes go through all stages. Scores are the softmax of the stages' mean class logits; the boxes are
                 the last stage's. Mask probabilities on these boxes are averaged over the stages' mask branches.

A faster_rcnn or mask_rcnn is the case of one stage, and then equals torchvision's RoIHeads.
"""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

from attnorm.detection.config import DetectorConfig
from attnorm.detection.conventions import Modern, Size
from attnorm.detection.heads import BOX_SIZE, MASK_SIZE
from attnorm.detection.sampling import Sample, draw_sample
from attnorm.errors import ConfigError

POSITIVE_FRACTION = 0.25  # of a sample at most

Target = Mapping[str, Tensor]
Features = Mapping[str, Tensor]


class BoxStage(nn.Module):
    """Class and box of a region.

    Args:
        head: Features (n, C, 7, 7) of regions to one vector each.
        predictor: That to class logits (n, classes) and box deltas (n, 4 * classes), or (n, 4) for all classes.
        iou: Overlap from which a box of the sample stands for an object.
        std: What the deltas (x, y, width, height) are divided by, to be of the size of one.
        loss_weight: Of all losses of this stage.
    """

    def __init__(
        self,
        head: nn.Module,
        predictor: nn.Module,
        *,
        iou: float = 0.5,
        std: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.2),
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.head, self.predictor = head, predictor
        self.iou, self.std, self.loss_weight = iou, std, loss_weight

    def forward(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits and box deltas, in float32 whatever the layers compute in: boxes need its precision."""
        logits, deltas = self.predictor(self.head(regions))
        return logits.float(), deltas.float()

    def extra_repr(self) -> str:
        """How this stage learns."""
        return f"iou={self.iou}, std={self.std}, loss_weight={self.loss_weight}"


class MaskBranch(nn.Module):
    """Mask of a region: `head` keeps the features (n, C, 14, 14), `predictor` gives logits (n, classes, 28, 28)."""

    def __init__(self, head: nn.Module, predictor: nn.Module) -> None:
        super().__init__()
        self.head, self.predictor = head, predictor

    def forward(self, regions: Tensor) -> Tensor:
        """Mask logits in float32."""
        return self.predictor(self.head(regions)).float()


class RoIHeads(nn.Module):
    """The stages of a detector behind its proposals.

    Args:
        stages: One, or those of a cascade in their order.
        masks: A branch for each stage; none: boxes only.
        conventions: Geometry of boxes, regions and masks.
        config: Number of boxes in a sample, and which detections are left out.
        num_classes: Background, which is class 0, included.
        class_agnostic: Whether the stages give one box for all classes; those of a cascade must.
        box_beta: Where the box loss turns from quadratic to linear, in deltas.

    Raises:
        ConfigError: for masks in some stages only, or a cascade with boxes per class.
    """

    def __init__(
        self,
        stages: Sequence[BoxStage],
        masks: Sequence[MaskBranch] = (),
        *,
        conventions: Modern,
        config: DetectorConfig,
        num_classes: int,
        class_agnostic: bool,
        box_beta: float,
    ) -> None:
        super().__init__()
        if not stages or len(masks) not in (0, len(stages)):
            raise ConfigError(f"masks must be none or one for each stage; got {len(stages)} stages, {len(masks)} masks")
        if len(stages) > 1 and not class_agnostic:
            raise ConfigError("class_agnostic must be true in a cascade, whose stages pass on one box; got false")
        self.stages, self.masks = nn.ModuleList(stages), nn.ModuleList(masks)
        self.conventions, self.config = conventions, config
        self.num_classes, self.class_agnostic, self.box_beta = num_classes, class_agnostic, box_beta
        self.box_pooler = conventions.pooler(BOX_SIZE)
        self.mask_pooler = conventions.pooler(MASK_SIZE)
        self.coders = [conventions.coder(stage.std) for stage in stages]
        self.matchers = [conventions.box_matcher(stage.iou) for stage in stages]
        self.sampler = BalancedPositiveNegativeSampler(config.box_samples, POSITIVE_FRACTION)

    def forward(
        self,
        features: Features,
        proposals: list[Tensor],
        image_sizes: list[Size],
        scales: list[float],
        targets: Sequence[Target] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Losses in training, detections in evaluation.

        Args:
            features: Levels of the feature pyramid, each (N, C, H, W).
            proposals: (n, 4) of each image, in pixels of the resized image.
            image_sizes: (height, width) of each resized image, without padding.
            scales: Resized over original size of each image.
            targets: `boxes` (g, 4) in the resized image, `labels` (g,), and where there are branches `masks` (g, H, W)
                of 0 and 1 in the image as given.

        Returns:
            Detections: `boxes` (n, 4) in the resized image, `labels` (n,), `scores` (n,), the best first, and
            `mask_probabilities` (n, 28, 28) where there are branches; none in training. Losses: `loss_classifier`,
            `loss_box_reg` and `loss_mask`, in a cascade with the suffixes _0, _1, _2; none in evaluation.
        """
        if not self.training:
            return self._detect(features, proposals, image_sizes, scales), {}
        if targets is None:
            raise ValueError("targets must be given in training; got None: call eval() to detect objects")
        return [], self._losses(features, proposals, image_sizes, targets)

    def _losses(
        self, features: Features, proposals: list[Tensor], image_sizes: list[Size], targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        for index, stage in enumerate(cast(Sequence[BoxStage], self.stages)):
            samples = [
                draw_sample(boxes, target, self.matchers[index], self.sampler)
                for boxes, target in zip(proposals, targets, strict=True)
            ]
            boxes = [sample.boxes for sample in samples]
            logits, deltas = stage(self.box_pooler(features, boxes, image_sizes))
            found = self._box_losses(index, logits, deltas, samples, targets)
            if self.masks:
                found["loss_mask"] = self._mask_loss(index, features, samples, image_sizes, targets)
            suffix = f"_{index}" if len(self.stages) > 1 else ""
            losses |= {f"{name}{suffix}": stage.loss_weight * loss for name, loss in found.items()}
            if index + 1 < len(self.stages):
                moved = self._decode(index, deltas.detach(), boxes, image_sizes)
                proposals = [new[~sample.is_truth, 0] for new, sample in zip(moved, samples, strict=True)]
        return losses

    def _box_losses(
        self, index: int, logits: Tensor, deltas: Tensor, samples: list[Sample], targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """Cross entropy over the sample, and smooth L1 of the positive boxes; both divided by the sample's size."""
        labels = torch.cat([sample.labels for sample in samples])
        boxes = torch.cat([sample.boxes[sample.positive] for sample in samples])
        truths = torch.cat(
            [target["boxes"][s.matched[s.positive]] for s, target in zip(samples, targets, strict=True)]
        ).to(boxes)
        rows = torch.where(labels > 0)[0]
        columns = torch.zeros_like(rows) if self.class_agnostic else labels[rows]
        wanted = self.coders[index].encode_single(truths, boxes)
        box_loss = F.smooth_l1_loss(
            deltas.unflatten(1, (-1, 4))[rows, columns], wanted, reduction="sum", beta=self.box_beta
        )
        count = max(len(labels), 1)  # a batch can be without any box: no proposals, no ground truth
        return {
            "loss_classifier": F.cross_entropy(logits, labels, reduction="sum") / count,
            "loss_box_reg": box_loss / count,
        }

    def _mask_loss(
        self, index: int, features: Features, samples: list[Sample], image_sizes: list[Size], targets: Sequence[Target]
    ) -> Tensor:
        boxes = [sample.boxes[sample.positive] for sample in samples]
        logits = self.masks[index](self.mask_pooler(features, boxes, image_sizes))
        # Only the masks that some box stands for: an image may have thousands, of a million pixels each.
        used, matched = zip(*(s.matched[s.positive].unique(return_inverse=True) for s in samples), strict=True)
        masks = [
            F.interpolate(target["masks"][rows][:, None].byte(), size)[:, 0]
            for target, rows, size in zip(targets, used, image_sizes, strict=True)
        ]
        labels = [target["labels"][rows] for target, rows in zip(targets, used, strict=True)]
        return self.conventions.mask_loss(logits, boxes, masks, labels, list(matched))

    def _detect(
        self, features: Features, proposals: list[Tensor], image_sizes: list[Size], scales: list[float]
    ) -> list[dict[str, Tensor]]:
        boxes, moved, logits = proposals, [], []
        for index, stage in enumerate(self.stages):
            stage_logits, deltas = stage(self.box_pooler(features, boxes, image_sizes))
            logits.append(stage_logits)
            moved = self._decode(index, deltas, boxes, image_sizes)
            boxes = [new[:, 0] for new in moved]  # all there is where a further stage reads it
        scores = torch.stack(logits).mean(0).softmax(-1).split([p.shape[0] for p in proposals])
        detections = [self._select(*each) for each in zip(moved, scores, scales, strict=True)]
        if self.masks:
            found = self._mask_probabilities(features, detections, image_sizes)
            for detection, probabilities in zip(detections, found, strict=True):
                detection["mask_probabilities"] = probabilities
        return detections

    def _decode(self, index: int, deltas: Tensor, boxes: list[Tensor], image_sizes: list[Size]) -> list[Tensor]:
        """Boxes moved by a stage's deltas and cut to the image, (n, classes or 1, 4) for each image."""
        moved = self.coders[index].decode_single(deltas, torch.cat(boxes)).unflatten(1, (-1, 4))
        return [
            self.conventions.clip(new, size)
            for new, size in zip(moved.split([b.shape[0] for b in boxes]), image_sizes, strict=True)
        ]

    def _select(self, boxes: Tensor, scores: Tensor, scale: float) -> dict[str, Tensor]:
        """An image's detections among boxes (n, classes or 1, 4) with scores (n, classes)."""
        rows, labels = torch.where(scores[:, 1:] > self.config.score_threshold)
        labels = labels + 1
        boxes = boxes[rows, torch.zeros_like(labels) if self.class_agnostic else labels]
        scores = scores[rows, labels]
        smallest = self.conventions.min_box_side
        if smallest is not None:
            large = (boxes[:, 2:] - boxes[:, :2] >= smallest).all(dim=1)
            boxes, labels, scores = boxes[large], labels[large], scores[large]
        kept = self.conventions.suppress(boxes, scores, labels, self.config.nms_threshold, scale)
        kept = kept[: self.config.max_detections]
        return {"boxes": boxes[kept], "labels": labels[kept], "scores": scores[kept]}

    def _mask_probabilities(
        self, features: Features, detections: list[dict[str, Tensor]], image_sizes: list[Size]
    ) -> tuple[Tensor, ...]:
        """Of each detection's own class, averaged over the branches."""
        boxes = [detection["boxes"] for detection in detections]
        labels = torch.cat([detection["labels"] for detection in detections])
        regions = self.mask_pooler(features, boxes, image_sizes)
        own = torch.arange(labels.shape[0], device=labels.device)
        probabilities = torch.stack([branch(regions)[own, labels].sigmoid() for branch in self.masks]).mean(0)
        return probabilities.split([b.shape[0] for b in boxes])
