"""Anchors: the boxes of a few shapes, at every cell of every level, that proposals are corrections of."""

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

STRIDES = (4, 8, 16, 32, 64)  # pixels between cells, of the five levels of the feature pyramid
RATIOS = (0.5, 1.0, 2.0)  # height / width


class Anchors(AnchorGenerator):
    """torchvision's anchors, centred on the upper left corner of their cell, in float32 whatever the features are.

    bfloat16 holds whole numbers up to 256 only: anchors in the features' type would lie up to four pixels off.

    Args:
        scale: Side of the square anchor in strides.
    """

    def __init__(self, scale: float) -> None:
        super().__init__(tuple((scale * stride,) for stride in STRIDES), (RATIOS,) * len(STRIDES))

    def set_cell_anchors(self, dtype: torch.dtype, device: torch.device) -> None:
        """Move the anchors of one cell to the features' device, not to their type."""
        super().set_cell_anchors(torch.float32, device)


class V1Anchors(Anchors):
    """Anchors round the middle of their cell's pixels, with whole corners, and strides that do not depend on padding.

    At stride s the middle of the pixels 0 to s - 1 is (s - 1) / 2. A box whose last pixel lies inside reaches
    (w - 1) / 2 to either side of it; its corners are rounded, halves to even, and then the last pixel is counted in.
    """

    def __init__(self, scale: float) -> None:
        super().__init__(scale)
        self.cell_anchors = [_round_middle(stride, scale) for stride in STRIDES]

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """The anchors of each image, in the order level, row, column, ratio.

        torchvision divides the size of the batch by that of the map: 61 pixels instead of 64 for 13 rows on 800 pixels.
        """
        self.set_cell_anchors(torch.float32, feature_maps[0].device)
        sizes = [list(feature_map.shape[-2:]) for feature_map in feature_maps]
        strides = [[torch.tensor(stride, device=feature_maps[0].device)] * 2 for stride in STRIDES]
        anchors = torch.cat(self.grid_anchors(sizes, strides))
        return [anchors] * len(image_list.image_sizes)


def _round_middle(stride: int, scale: float) -> Tensor:
    """(ratios, 4) anchors of the first cell."""
    root = torch.tensor(RATIOS).sqrt()
    half = (torch.stack((1 / root, root), dim=1) * stride * scale - 1) / 2
    middle = (stride - 1) / 2
    return torch.cat(((middle - half).round(), (middle + half).round() + 1), dim=1)
