"""Boxes and masks of a data set's images, held compactly."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnorm.data.coco_masks import Segmentations, Size

Target = dict[str, Tensor]


@dataclass(frozen=True)
class Category:
    """A category of objects: its number in the files, and its name."""

    id: int
    name: str


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """What is known of the images of one part of a data set.

    Instances lie in the order of their images; those of image i are starts[i] to starts[i + 1].

    Attributes:
        categories: in the order of their ids; label 1 is the first of them, 0 the background.
        files: a name per image.
        image_ids: int64 (N,), as in the file.
        sizes: int64 (N, 2): height, width.
        starts: int64 (N + 1,).
        boxes: float64 (A, 4): x, y, width, height in pixels, as in the file.
        labels: int64 (A,).
        areas: float64 (A,), pixels of the mask as the file gives them.
        crowd: bool (A,): many objects in one, not to be trained on.
        segmentations: the masks; None where the data set has boxes only.
    """

    categories: tuple[Category, ...]
    files: list[str]
    image_ids: np.ndarray
    sizes: np.ndarray
    starts: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    segmentations: Segmentations | None

    def size(self, index: int) -> Size:
        """Height and width of an image."""
        height, width = self.sizes[index].tolist()
        return height, width

    def target(self, index: int, *, masks: bool = True) -> Target:
        """What is to be found in an image; crowds are left out.

        Args:
            index: of the image.
            masks: whether to decode the masks, if the data set has them.

        Returns:
            boxes float32 (n, 4), x1 y1 x2 y2, cut to the image; labels int64 (n,); area float32 (n,); image_id int64
            (); masks uint8 (n, H, W).
        """
        span = np.arange(self.starts[index], self.starts[index + 1])
        chosen = span[~self.crowd[span]]
        target = self._objects(chosen, self.sizes[index])
        target["image_id"] = torch.tensor(int(self.image_ids[index]))
        if masks and self.segmentations is not None:
            target["masks"] = self.segmentations.masks(chosen.tolist(), self.size(index))
        return target

    def objects(self) -> Target:
        """Boxes, labels and areas of all images together, as in `target`."""
        chosen = np.flatnonzero(~self.crowd)
        return self._objects(chosen, self.sizes.repeat(np.diff(self.starts), axis=0)[chosen])

    def _objects(self, chosen: np.ndarray, sizes: np.ndarray) -> Target:
        return {
            "boxes": torch.from_numpy(corners(self.boxes[chosen], sizes)),
            "labels": torch.from_numpy(self.labels[chosen]),
            "area": torch.from_numpy(self.areas[chosen].astype(np.float32)),
        }

    def ground_truth(self, image_ids: Collection[int] | None = None) -> dict[str, Any]:
        """What COCO's evaluation compares with: boxes and masks as the file gives them, crowds among them.

        Annotations are numbered from 1, since COCO's evaluation takes the number 0 for "no match".

        Args:
            image_ids: these images only. None: all.
        """
        chosen = [i for i, id in enumerate(self.image_ids.tolist()) if image_ids is None or id in image_ids]
        images = [
            {"id": int(self.image_ids[i]), "file_name": self.files[i], "height": self.size(i)[0],
             "width": self.size(i)[1]} for i in chosen
        ]  # fmt: skip
        instances = [(i, j) for i in chosen for j in range(self.starts[i], self.starts[i + 1])]
        return {
            "images": images,
            "annotations": [{"id": n, **self._annotation(i, j)} for n, (i, j) in enumerate(instances, 1)],
            "categories": [{"id": category.id, "name": category.name} for category in self.categories],
        }

    def _annotation(self, image: int, index: int) -> dict[str, Any]:
        annotation: dict[str, Any] = {
            "image_id": int(self.image_ids[image]),
            "category_id": self.categories[self.labels[index] - 1].id,
            "bbox": self.boxes[index].tolist(),
            "area": float(self.areas[index]),
            "iscrowd": int(self.crowd[index]),
        }
        if self.segmentations is not None:
            annotation["segmentation"] = self.segmentations.stored(index, self.size(image))
        return annotation


def corners(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Boxes (n, 4) of x, y, width, height to x1, y1, x2, y2 cut to images of `sizes` (n, 2) or (2,); float32."""
    limit = sizes[..., ::-1]
    return np.concatenate(
        [boxes[:, :2].clip(0, limit), (boxes[:, :2] + boxes[:, 2:]).clip(0, limit)], axis=1
    ).astype(np.float32)  # fmt: skip
