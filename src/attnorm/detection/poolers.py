"""Features of a region: which level of the pyramid they are cut from, and where the samples lie (RoIAlign)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torchvision.ops import MultiScaleRoIAlign, roi_align
from torchvision.ops.poolers import initLevelMapper

from attnorm.detection.anchors import STRIDES

LEVELS = ("0", "1", "2", "3")  # of the feature pyramid, that regions are cut from; the fifth serves proposals alone
SAMPLES = 2  # in a bin, along each axis
FINEST_SIDE = 56  # pixels: regions of twice this side and more are cut from the second level, and so on


class Pooler(MultiScaleRoIAlign):
    """torchvision's, told the strides.

    Left alone it guesses them from the first batch, and keeps a wrong guess: from an image of one row, say.
    """

    def __init__(self, output_size: int) -> None:
        super().__init__(list(LEVELS), output_size, SAMPLES)
        self.scales = [1 / stride for stride in STRIDES[: len(LEVELS)]]
        self.map_levels = initLevelMapper(2, 1 + len(LEVELS))


class V1Pooler(nn.Module):
    """The old RoIAlign, whose pixels are points at whole coordinates of the level's map, and its choice of level.

    torchvision's aligned form reads half a cell further up and left, and like this one lets a region be narrower than a
    cell: on boxes moved by half a stride it samples the same points.

    Args:
        output_size: Bins on a side.
    """

    def __init__(self, output_size: int) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, x: Mapping[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Features (n, C, bins, bins) of all boxes; called as torchvision's, `image_shapes` is not needed."""
        images = torch.cat([torch.full_like(b[:, :1], index) for index, b in enumerate(boxes)])
        joined = torch.cat(boxes)
        levels = region_levels(joined)
        first = x[LEVELS[0]]
        features = first.new_zeros((len(joined), first.shape[1], self.output_size, self.output_size))
        for level, (name, stride) in enumerate(zip(LEVELS, STRIDES, strict=False)):
            rows = torch.where(levels == level)[0]
            regions = torch.cat((images[rows], joined[rows] + stride / 2), dim=1)
            cut = roi_align(x[name], regions, self.output_size, 1 / stride, SAMPLES, aligned=True)
            features[rows] = cut.to(features.dtype)
        return features

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"output_size={self.output_size}"


def region_levels(boxes: Tensor) -> Tensor:
    """Level (n,) int64 of each box (n, 4) in v1; torchvision adds its small number after the logarithm, not inside."""
    width, height = (boxes[:, 2:] - boxes[:, :2]).unbind(1)
    level = torch.floor(torch.log2((width * height).sqrt() / FINEST_SIDE + 1e-6))
    return level.clamp(0, len(LEVELS) - 1).long()
