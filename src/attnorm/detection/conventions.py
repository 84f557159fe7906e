"""The geometry of a detector: where pixels, boxes, anchors and masks lie.

Inside a detector a box is always (x1, y1, x2, y2) in pixels of the image that the network sees, and its width is
x2 - x1. Two schemes differ in everything else:

    Modern  torchvision's
    V1      that of the detectors which the authors released, whose boxes end with the last pixel inside: such a box
            (x1, y1, x2, y2) is (x1, y1, x2 + 1, y2 + 1) here, so that widths, overlaps and box deltas are the same
"""

from attnorm.detection.anchors import RATIOS, STRIDES
from attnorm.detection.modern import Modern, Size
from attnorm.detection.poolers import LEVELS
from attnorm.detection.v1 import V1

__all__ = ["LEVELS", "RATIOS", "STRIDES", "V1", "Modern", "Size", "conventions"]


def conventions(name: str) -> Modern:
    """The scheme of that name, "modern" or "v1"."""
    return {"modern": Modern, "v1": V1}[name]()
