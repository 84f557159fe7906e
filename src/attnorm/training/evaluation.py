"""Top-1, top-5 and loss of a network over a data set: exact counts, over all processes."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from attnorm.errors import DataError
from attnorm.training.objective import prepare_images
from attnorm.training.processes import sum_over_processes

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Context for arithmetic in "32", "bf16" or "fp16" on a device."""
    return nullcontext() if precision == "32" else torch.autocast(device.type, dtype=DTYPES[precision])


class Tally:
    """Sums over the images seen: right answers, loss and how many images. Stays on the device until `result`."""

    def __init__(self, device: torch.device) -> None:
        self.right = torch.zeros(2, dtype=torch.int64, device=device)  # top-1, top-5
        self.images = 0
        self.loss = torch.zeros(1, dtype=torch.float64, device=device)

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Counts one batch: logits (N, classes), labels (N,)."""
        logits = logits.float()
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices
        # A network that has left the finite numbers must not score by the order in which topk meets NaN.
        hits = (best == labels[:, None]) & logits.isfinite().all(dim=1, keepdim=True)
        self.right += torch.stack([hits[:, 0].sum(), hits.sum()])
        self.images += len(labels)
        self.loss += F.cross_entropy(logits, labels, reduction="sum").double()

    def result(self) -> dict[str, float | int]:
        """Sums over all processes, then `top1` and `top5` in percent, mean `loss`, and `count`."""
        # Through float64: whole numbers stay exact up to 2^53.
        sums = [*self.right.tolist(), self.images, self.loss.item()]
        sums = sum_over_processes([float(value) for value in sums], self.loss.device)
        top1, top5, count = (int(value) for value in sums[:3])
        if count == 0:
            raise DataError("the evaluation part of the data has no images; check val_split and data_dir")
        return {
            "top1": 100 * top1 / count,
            "top5": 100 * top5 / count,
            "loss": sums[3] / count,
            "count": count,
        }


def share_buffers(model: nn.Module) -> None:
    """Gives every process the running statistics of process 0, so that all evaluate the one network that is saved."""
    if dist.is_initialized():
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    device: torch.device | str | None = None,
    precision: str = "32",
    channels_last: bool = False,
) -> dict[str, float | int]:
    """Evaluates a network; under torch.distributed every process calls it with its own part of the data.

    Args:
        model: network that maps (N, C, H, W) to (N, classes). Its training mode is put back afterwards.
        loader: gives batches of uint8 images (N, C, H, W) and integer labels (N,).
        mean: channel means for pixels from 0 to 1.
        std: channel standard deviations for pixels from 0 to 1.
        device: where to compute; the network's own device when not given.
        precision: "32", "bf16" or "fp16".
        channels_last: feed the images in channels-last memory format.

    Returns:
        `top1` and `top5` in percent, the mean `loss` (cross entropy without smoothing), and the `count` of images.

    Raises:
        DataError: there are no images.
    """
    device = torch.device(device) if device is not None else next(model.parameters()).device
    shift, scale = torch.tensor(mean, device=device), torch.tensor(std, device=device)
    share_buffers(model)
    tally = Tally(device)
    was_training = model.training
    model.eval()
    try:
        for images, labels in loader:
            images = prepare_images(images.to(device, non_blocking=True), shift, scale, channels_last=channels_last)
            with autocast(precision, device):
                logits = model(images)
            tally.add(logits, labels.to(device, non_blocking=True))
    finally:
        model.train(was_training)
    return tally.result()
