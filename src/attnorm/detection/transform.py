"""From images of any size to a batch that the network sees, with their ground truth, and back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.image_list import ImageList

from attnorm.detection.config import DetectorConfig
from attnorm.detection.modern import Modern, Size

DIVISOR = 32  # sides of a batch are multiples of the coarsest stride of the backbone


@dataclass(frozen=True)
class Batch:
    """Images of one size, and where they came from.

    Attributes:
        images: `tensors` (N, C, H, W), normalised and padded with zeros, and `image_sizes`, without padding.
        original_sizes: (height, width) of each image as given.
        scales: resized / original, before sides are rounded to pixels.
    """

    images: ImageList
    original_sizes: list[Size]
    scales: list[float]


class Transform(nn.Module):
    """Resizes, normalises and pads.

    The shorter side becomes `min_size` unless the longer one then exceeds `max_size`. With several sizes training draws
    one for each image, from torch's global random state; evaluation takes the last.

    Args:
        config: `min_size` and `max_size`, in pixels.
        conventions: How sides are rounded, pixels resized and boxes carried over.
        image_mean: Of each channel, of values from 0 to 1.
        image_std: The same.
    """

    image_mean: Tensor
    image_std: Tensor

    def __init__(
        self,
        config: DetectorConfig,
        conventions: Modern,
        image_mean: Sequence[float],
        image_std: Sequence[float],
    ) -> None:
        super().__init__()
        self.min_sizes, self.max_size = config.min_sizes, config.max_size
        self.conventions = conventions
        for name, values in (("image_mean", image_mean), ("image_std", image_std)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]] | None = None
    ) -> tuple[Batch, list[dict[str, Tensor]] | None]:
        """Make a batch.

        Args:
            images: (C, H, W) each, uint8 or floats from 0 to 1; one channel is repeated where there are means for more.
            targets: `boxes` (n, 4) of each image in its pixels; other entries are passed on. n may be 0.

        Returns:
            The batch, and the targets with boxes in the pixels of the resized images. Masks stay as they are: there can
            be thousands, and the heads resize those that they use. Ground truths that the conventions do not train on
            (in v1, those under a pixel wide or high) are left out.

        Raises:
            TypeError: an image is of another type.
            ValueError: an image has another number of channels, or a box no width or height, or is not finite.
        """
        images = [self._with_channels(image) for image in images]
        if targets is not None:
            _check_boxes(targets)
        originals = [_size(image) for image in images]
        plans = [self.conventions.resized(size, self._draw_min_size(), self.max_size) for size in originals]
        sizes, scales = [size for size, _ in plans], [scale for _, scale in plans]
        resized = [
            self.conventions.resize_image(image, size, self.image_mean, self.image_std)
            for image, size in zip(images, sizes, strict=True)
        ]
        batch = Batch(ImageList(_pad(resized), sizes), originals, scales)
        if targets is None:
            return batch, None
        return batch, [self._resize_target(*each) for each in zip(targets, originals, sizes, scales, strict=True)]

    def restore(self, boxes: Tensor, index: int, batch: Batch) -> Tensor:
        """Boxes (n, 4) of the resized image with that index, in pixels of the image as it was given."""
        size = batch.images.image_sizes[index]
        return self.conventions.restore_boxes(boxes, batch.original_sizes[index], size, batch.scales[index])

    def extra_repr(self) -> str:
        """What `print` shows."""
        mean, std = self.image_mean.flatten().tolist(), self.image_std.flatten().tolist()
        return (
            f"min_size={self.min_sizes}, max_size={self.max_size}, conventions={self.conventions.name}, "
            f"mean={[round(value, 4) for value in mean]}, std={[round(value, 4) for value in std]}"
        )

    def _draw_min_size(self) -> int:
        if not self.training or len(self.min_sizes) == 1:
            return self.min_sizes[-1]
        return self.min_sizes[int(torch.randint(len(self.min_sizes), ()))]

    def _with_channels(self, image: Tensor) -> Tensor:
        if image.dtype != torch.uint8 and not image.is_floating_point():
            raise TypeError(f"images must be uint8, or floats from 0 to 1; got {image.dtype}: convert to one of them")
        channels = len(self.image_mean)
        if image.ndim != 3 or image.shape[0] not in (1, channels):
            raise ValueError(f"images must be ({channels}, H, W) or (1, H, W); got {tuple(image.shape)}")
        return image.expand(channels, -1, -1)

    def _resize_target(
        self, target: Mapping[str, Tensor], original: Size, size: Size, scale: float
    ) -> dict[str, Tensor]:
        chosen = self.conventions.learnable(target)
        chosen["boxes"] = self.conventions.resize_boxes(chosen["boxes"].float(), original, size, scale)
        return chosen


def _size(image: Tensor) -> Size:
    return image.shape[-2], image.shape[-1]


def _pad(images: list[Tensor]) -> Tensor:
    """One tensor, with zeros to the right and below."""
    height, width = (-(-max(side) // DIVISOR) * DIVISOR for side in zip(*map(_size, images), strict=True))
    # Not written into one tensor of zeros: tracers lose what is written into a view.
    return torch.stack([F.pad(image, (0, width - image.shape[2], 0, height - image.shape[1])) for image in images])


def _check_boxes(targets: Sequence[Mapping[str, Tensor]]) -> None:
    boxes = torch.cat([target["boxes"] for target in targets])
    sound = boxes.isfinite().all(dim=1) & (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    if bool(sound.all()):
        return
    first = int(torch.where(~sound)[0][0])
    image = next(i for i in range(len(targets)) if first < sum(len(target["boxes"]) for target in targets[: i + 1]))
    raise ValueError(
        f"boxes must be finite (x1, y1, x2, y2) with x1 < x2 and y1 < y2; got {boxes[first].tolist()} for image "
        f"{image}: correct or leave out {int((~sound).sum())} of {len(boxes)}"
    )
