"""Heads: from the features of a region to class logits and box deltas, and to the logits of its mask.

They are torchvision's, except for the box predictor, which can also give one box for all classes.
"""

from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

from attnorm.detection.config import CONVS, DetectorConfig
from attnorm.detection.norms import norm_layer

BOX_SIZE, MASK_SIZE = 7, 14  # cells of a region's features, on a side; a mask has twice as many


class BoxPredictor(nn.Module):
    """Class logits and box deltas of regions, from the features (N, in_features) that a box head gives.

    Args:
        in_features: Of a box head.
        num_classes: C, the background included.
        class_agnostic: One box for all classes instead of one for each.

    Shape:
        (N, in_features) -> logits (N, C), deltas (N, 4C), or (N, 4) if class-agnostic.
    """

    def __init__(self, in_features: int, num_classes: int, class_agnostic: bool = False) -> None:
        super().__init__()
        self.cls_score = nn.Linear(in_features, num_classes)
        self.bbox_pred = nn.Linear(in_features, 4 if class_agnostic else 4 * num_classes)
        # R. Girshick, "Fast R-CNN", arXiv 1504.08083, section 2.3.
        for layer, std in ((self.cls_score, 0.01), (self.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and deltas."""
        return self.cls_score(x), self.bbox_pred(x)


def box_head(config: DetectorConfig, in_channels: int) -> nn.Module:
    """Features (N, in_channels, 7, 7) of regions -> (N, `config.box_hidden`).

    2fc: two fully connected layers. 4conv1fc: four 3x3 convolutions of in_channels, each with `config.box_norm`, and
    one fully connected layer. A ReLU follows each.
    """
    if config.box_head == "2fc":
        return TwoMLPHead(in_channels * BOX_SIZE**2, config.box_hidden)
    norms = norm_layer(config.box_norm, config.components)
    return FastRCNNConvFCHead((in_channels, BOX_SIZE, BOX_SIZE), [in_channels] * CONVS, [config.box_hidden], norms)


def mask_head(config: DetectorConfig, in_channels: int) -> nn.Module:
    """Features (N, in_channels, 14, 14) -> the same shape: four 3x3 convolutions, each with norm and ReLU."""
    norms = norm_layer(config.mask_norm, config.components)
    return MaskRCNNHeads(in_channels, [in_channels] * CONVS, 1, norms)


def mask_predictor(in_channels: int, num_classes: int) -> nn.Module:
    """(N, in_channels, 14, 14) -> mask logits (N, num_classes, 28, 28): deconvolution, ReLU, 1x1 convolution."""
    return MaskRCNNPredictor(in_channels, in_channels, num_classes)
