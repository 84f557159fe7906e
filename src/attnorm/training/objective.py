"""What the network is trained on: images made ready on the device, mixup, and the loss that belongs to it."""

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
    """How one batch is mixed with itself: image i becomes `share` * image i + (1 - share) * image `partner`[i]."""

    share: float
    partner: Tensor  # (N,) indices

    def images(self, images: Tensor) -> Tensor:
        """Mixes normalised images of shape (N, C, H, W)."""
        return images * self.share + images[self.partner] * (1 - self.share)


def draw_mix(alpha: float, count: int, seed: tuple[int, ...], device: torch.device | str = "cpu") -> Mix | None:
    """Draws one share from Beta(alpha, alpha) and a random permutation of the batch.

    Args:
        alpha: strength of mixup; 0 means no mixup, for which no Beta distribution exists.
        count: images in the batch.
        seed: (seed, epoch, iteration, process): the draw depends on nothing else, so that a resumed run repeats it.
        device: where the indices are needed.

    Returns:
        The mix, or None when alpha is 0.
    """
    if alpha == 0:
        return None
    generator = np.random.default_rng(seed)
    share = float(generator.beta(alpha, alpha))
    return Mix(share, torch.from_numpy(generator.permutation(count)).to(device))


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
