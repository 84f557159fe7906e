"""What the network is trained on: images made ready on the device, mixup or CutMix, and the loss that belongs to it."""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def prepare_images(images: Tensor, mean: Tensor, std: Tensor, *, channels_last: bool = False) -> Tensor:
    """Turns uint8 images into normalised float32 ones, on the device that they lie on.

    Args:
        images: uint8 of shape (N, C, H, W).
        mean: channel means of shape (C,), for pixels from 0 to 1.
        std: channel standard deviations of shape (C,), for pixels from 0 to 1.
        channels_last: give the result in channels-last memory format.

    Returns:
        (images / 255 - mean) / std in float32, shape (N, C, H, W).
    """
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    pixels = images.to(torch.float32, memory_format=memory_format)
    return pixels.sub_(255 * mean.view(-1, 1, 1)).div_(255 * std.view(-1, 1, 1))


@dataclass(frozen=True)
class Mix:
    """How one batch is mixed with itself, each image i with image `partner`[i].

    Attributes:
        share: of image i in the mixture, and of its label in the loss.
        partner: indices (N,).
        box: (top, bottom, left, right) of what comes from the partner. None: every pixel becomes the weighted mean.
    """

    share: float
    partner: Tensor
    box: tuple[int, int, int, int] | None = None

    def images(self, images: Tensor) -> Tensor:
        """Mixes normalised images of shape (N, C, H, W)."""
        if self.box is None:
            return images * self.share + images[self.partner] * (1 - self.share)
        top, bottom, left, right = self.box
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = images[self.partner, :, top:bottom, left:right]
        return mixed


def draw_mix(
    mixup: float,
    count: int,
    seed: tuple[int, ...],
    device: torch.device | str = "cpu",
    *,
    cutmix: float = 0.0,
    size: tuple[int, int] = (1, 1),
) -> Mix | None:
    """Draws one share from Beta(alpha, alpha) and a random permutation of the batch.

    Sources: H. Zhang et al., "mixup", arXiv 1710.09412; S. Yun et al., "CutMix", arXiv 1905.04899.

    Args:
        mixup: alpha of mixup; 0 means no mixup, for which no Beta distribution exists.
        count: images in the batch.
        seed: (seed, epoch, iteration, process): the draw depends on nothing else, so that a resumed run repeats it.
        device: where the indices are needed.
        cutmix: alpha of CutMix, likewise. Where both are above 0, each batch has one of them, by the toss of a coin.
        size: height and width of the images, for CutMix.

    Returns:
        The mix, or None when both are 0.
    """
    if mixup == 0 and cutmix == 0:
        return None
    generator = np.random.default_rng(seed)
    cut = cutmix > 0 and (mixup == 0 or generator.random() < 0.5)
    alpha = cutmix if cut else mixup
    share = float(generator.beta(alpha, alpha))
    partner = torch.from_numpy(generator.permutation(count)).to(device)
    if not cut:
        return Mix(share, partner)
    height, width = size
    top, bottom, left, right = _cut_box(share, size, generator)
    return Mix(1 - (bottom - top) * (right - left) / (height * width), partner, (top, bottom, left, right))


def _cut_box(share: float, size: tuple[int, int], generator: np.random.Generator) -> tuple[int, int, int, int]:
    """A box of (1 - share) of the image's area around a random pixel, cut off at the image's edges."""
    bounds: list[int] = []
    for length in size:
        extent = int(length * math.sqrt(1 - share))
        start = int(generator.integers(length)) - extent // 2
        bounds += [max(start, 0), min(start + extent, length)]
    return bounds[0], bounds[1], bounds[2], bounds[3]


def mixed_loss(logits: Tensor, labels: Tensor, *, smoothing: float = 0.0, mix: Mix | None = None) -> Tensor:
    """Cross entropy with label smoothing e, L = (1 - e) * -log p[label] + e * mean over classes of -log p.

    With a mix the loss is share * L(labels) + (1 - share) * L(labels of the partners). Computed in float32.

    Args:
        logits: (N, classes).
        labels: (N,) integers.
        smoothing: e.
        mix: how the images were mixed.

    Returns:
        The mean over the batch, a scalar.
    """
    logits = logits.float()
    loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
    if mix is None:
        return loss
    other = F.cross_entropy(logits, labels[mix.partner], label_smoothing=smoothing)
    return mix.share * loss + (1 - mix.share) * other
