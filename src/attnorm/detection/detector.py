"""A detector: images in; losses, or boxes with labels, scores and masks, out."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from attnorm.detection.config import DetectorConfig
from attnorm.detection.roi_heads import RoIHeads
from attnorm.detection.transform import Transform


class Detector(nn.Module):
    """Faster, Mask or Cascade Mask R-CNN with a feature pyramid.

    In training it returns a dict of losses, in evaluation a dict for each image; see :meth:`forward`. Boxes are
    (x1, y1, x2, y2) in pixels of the image as given, with width x2 - x1. Label 0 is the background, which is never
    detected.

    Args:
        transform: Images of any size to a batch; see :mod:`attnorm.detection.transform`.
        backbone: The batch to a feature pyramid, a dict of levels from fine to coarse.
        rpn: The pyramid to proposals.
        roi_heads: Proposals to detections; :class:`attnorm.detection.roi_heads.RoIHeads`.
        name: What :func:`attnorm.detection.create_detector` knows it by.
        num_classes: Background included.
        config: Every setting, resolved.
    """

    transform: Transform
    roi_heads: RoIHeads

    def __init__(
        self,
        transform: Transform,
        backbone: nn.Module,
        rpn: nn.Module,
        roi_heads: RoIHeads,
        *,
        name: str,
        num_classes: int,
        config: DetectorConfig,
    ) -> None:
        super().__init__()
        self.transform, self.backbone, self.rpn, self.roi_heads = transform, backbone, rpn, roi_heads
        self.name, self.num_classes, self.config = name, num_classes, config

    @property
    def has_masks(self) -> bool:
        """Whether it finds masks as well as boxes."""
        return len(self.roi_heads.masks) > 0

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in training, objects in evaluation.

        Args:
            images: (3, H, W) or (1, H, W) each, of any size; uint8, or floats from 0 to 1.
            targets: In training, of each image: `boxes` (n, 4) floats, `labels` (n,) int64 from 1 to num_classes - 1,
                and `masks` (n, H, W) uint8 of 0 and 1 where the detector finds masks. n may be 0. Evaluation does not
                read them.

        Returns:
            In training the losses, whose sum is to be minimised. In evaluation for each image `boxes` (n, 4), `labels`
            (n,), `scores` (n,) from 0 to 1, the best first, and `masks` (n, 1, H, W) of probabilities. Masks of whole
            images are large: :meth:`detect` gives them in their small form.

        Raises:
            ValueError: for images or targets of another form.
        """
        if self.training:
            return self._losses(images, targets)
        results = self.detect(images)
        for result in results:
            size = result.pop("size")
            if self.has_masks:
                paste = self.roi_heads.conventions.paste
                result["masks"] = paste(result.pop("mask_probabilities"), result["boxes"], size)[:, None]
        return results

    @torch.no_grad()
    def detect(self, images: Sequence[Tensor]) -> list[dict[str, Any]]:
        """Objects with masks as small maps over their boxes, whatever the size of the images. Keeps no gradient.

        Args:
            images: As in :meth:`forward`.

        Returns:
            For each image `boxes`, `labels` and `scores` as in :meth:`forward`, `mask_probabilities` (n, 28, 28) where
            the detector finds masks, and `size`, the image's (height, width). The conventions' `paste` makes masks of
            the image's size of some of them.

        Raises:
            ValueError: for images of another form.
            RuntimeError: in training mode.
        """
        if self.training:
            raise RuntimeError("detect() needs evaluation mode; got training mode: call eval() first")
        _check_images(images)
        batch, _ = self.transform(list(images), None)
        features = self.backbone(batch.images.tensors)
        proposals, _ = self.rpn(batch.images, features, None)
        results, _ = self.roi_heads(features, proposals, batch.images.image_sizes, batch.scales)
        for index, (result, size) in enumerate(zip(results, batch.original_sizes, strict=True)):
            result["boxes"] = self.transform.restore(result["boxes"], index, batch)
            result["size"] = size
        return results

    def _losses(self, images: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]] | None) -> dict[str, Tensor]:
        _check_images(images)
        self._check_targets(images, targets)
        batch, resized = self.transform(list(images), targets)
        features = self.backbone(batch.images.tensors)
        proposals, proposal_losses = self.rpn(batch.images, features, resized)
        _, losses = self.roi_heads(features, proposals, batch.images.image_sizes, batch.scales, resized)
        return {**losses, **proposal_losses}

    def _check_targets(self, images: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]] | None) -> None:
        if targets is None or len(targets) != len(images):
            raise ValueError(
                f"training needs a target for each image; got {len(targets or ())} for {len(images)}: "
                "call eval() to detect objects"
            )
        needed = ("boxes", "labels", "masks") if self.has_masks else ("boxes", "labels")
        for index, (image, target) in enumerate(zip(images, targets, strict=True)):
            missing = [key for key in needed if key not in target]
            if missing:
                raise ValueError(f"the target of image {index} must have {', '.join(needed)}; got {sorted(target)}")
            boxes, labels = target["boxes"], target["labels"]
            if boxes.ndim != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point():
                raise ValueError(
                    f"boxes of image {index} must be floats (n, 4); got {tuple(boxes.shape)} of {boxes.dtype}"
                )
            if labels.shape != boxes.shape[:1] or labels.dtype != torch.int64:
                raise ValueError(
                    f"labels of image {index} must be int64 ({len(boxes)},), one for each box; got "
                    f"{tuple(labels.shape)} of {labels.dtype}"
                )
            expected = (len(boxes), *image.shape[1:])
            if self.has_masks and target["masks"].shape != expected:
                raise ValueError(
                    f"masks of image {index} must be {expected}, one of the image's size for each box; got "
                    f"{tuple(target['masks'].shape)}"
                )
        labels = torch.cat([target["labels"] for target in targets])
        if len(labels) and (labels.min() < 1 or labels.max() >= self.num_classes):
            raise ValueError(
                f"labels must be from 1 to {self.num_classes - 1}, 0 being the background; got {int(labels.min())} to "
                f"{int(labels.max())}"
            )


def _check_images(images: Sequence[Tensor]) -> None:
    if len(images) == 0:
        raise ValueError("a batch must have an image; got none")
    for index, image in enumerate(images):
        if image.ndim != 3 or image.numel() == 0:
            raise ValueError(f"image {index} must be (channels, H, W), of a pixel at least; got {tuple(image.shape)}")
