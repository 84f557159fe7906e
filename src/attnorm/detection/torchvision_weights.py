"""Weights of torchvision's own Faster and Mask R-CNN under the names of this package's detectors."""

import re
from collections.abc import Mapping

from torch import Tensor

# The second form of a name is that of the weights which torchvision publishes, made before it put norms beside its
# convolutions.
_RULES = [
    (r"backbone\.fpn\.(inner|layer)_blocks\.(\d)\.(?:0\.)?(weight|bias)", r"backbone.fpn.\1_blocks.\2.0.\3"),
    (r"rpn\.head\.conv\.(?:0\.0\.)?(weight|bias)", r"rpn.head.conv.0.0.\1"),
    (r"roi_heads\.box_head\.(.+)", r"roi_heads.stages.0.head.\1"),
    (r"roi_heads\.box_predictor\.(.+)", r"roi_heads.stages.0.predictor.\1"),
    (r"roi_heads\.mask_head\.(\d\..+)", r"roi_heads.masks.0.head.\1"),
    *((rf"roi_heads\.mask_head\.mask_fcn{i + 1}\.(.+)", rf"roi_heads.masks.0.head.{i}.0.\1") for i in range(4)),
    (r"roi_heads\.mask_predictor\.(.+)", r"roi_heads.masks.0.predictor.\1"),
]


def from_torchvision(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of a `fasterrcnn_resnet50_fpn` or `maskrcnn_resnet50_fpn` of torchvision.

    They fit `faster_rcnn_resnet50_fpn` and `mask_rcnn_resnet50_fpn`, timm's ResNet having torchvision's names; those
    that torchvision trained on COCO have 91 classes. A detector takes them by
    `attnorm.models.transfer.take_weights(detector, from_torchvision(state_dict))`, which leaves out the predictors of
    other classes.
    """
    return {_renamed(key): value for key, value in state_dict.items()}


def _renamed(key: str) -> str:
    return next((match.expand(ours) for theirs, ours in _RULES if (match := re.fullmatch(theirs, key))), key)
