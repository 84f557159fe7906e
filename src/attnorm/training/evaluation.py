"""Top-1, top-5 and loss of a network over a data set: exact counts, over all processes."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

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


class Measure(Protocol):
    """What `evaluate` counts."""

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Takes one batch: logits (N, classes) and what the data set gives as labels."""
        ...

    def result(self) -> dict[str, float | int]:
        """The numbers, over all processes."""
        ...


class Tally:
    """Sums over the images seen: right answers, loss and how many images. Stays on the device until `result`.

    Args:
        device: where the logits are.
        outputs: the outputs that may answer, in ascending order, among them all labels; None: all.
    """

    def __init__(self, device: torch.device, outputs: Sequence[int] | None = None) -> None:
        self.outputs = None if outputs is None else torch.tensor(outputs, device=device)
        self.right = torch.zeros(2, dtype=torch.int64, device=device)  # top-1, top-5
        self.images = 0
        self.losses = 0  # images that have a loss: those with one label
        self.loss = torch.zeros(1, dtype=torch.float64, device=device)

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Counts one batch.

        Args:
            logits: (N, classes).
            labels: (N,), or (N, S): sets of labels, each filled up with -1, any of which is right.
        """
        logits = logits.float() if self.outputs is None else logits[:, self.outputs].float()
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices
        answers = best if self.outputs is None else self.outputs[best]
        # A network that has left the finite numbers must not score by the order in which topk meets NaN.
        sets = labels[:, None] if labels.ndim == 1 else labels
        hits = (answers[:, :, None] == sets[:, None, :]).any(dim=2) & logits.isfinite().all(dim=1, keepdim=True)
        self.right += torch.stack([hits[:, 0].sum(), hits.any(dim=1).sum()])
        self.images += len(labels)
        if labels.ndim == 1:
            places = labels if self.outputs is None else torch.searchsorted(self.outputs, labels)
            self.loss += F.cross_entropy(logits, places, reduction="sum").double()
            self.losses += len(labels)

    def result(self) -> dict[str, float | int]:
        """Sums over all processes, then `top1` and `top5` in percent, mean `loss`, and `count`.

        Sets of labels have no loss: then that entry is missing.
        """
        # Through float64: whole numbers stay exact up to 2^53.
        sums = [*self.right.tolist(), self.images, self.losses, self.loss.item()]
        sums = sum_over_processes([float(value) for value in sums], self.loss.device)
        top1, top5, count, losses = (int(value) for value in sums[:4])
        if count == 0:
            raise DataError("the evaluation part of the data has no images; check val_split and data_dir")
        result = {"top1": 100 * top1 / count, "top5": 100 * top5 / count, "count": count}
        return {**result, "loss": sums[4] / losses} if losses else result


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
    measure: Measure | None = None,
) -> dict[str, float | int]:
    """Evaluates a network; under torch.distributed every process calls it with its own part of the data.

    Args:
        model: network that maps (N, C, H, W) to (N, classes). Its training mode is put back afterwards.
        loader: gives batches of uint8 images (N, C, H, W) and integer labels (N,) (or others that `measure` takes).
        mean: channel means for pixels from 0 to 1.
        std: channel standard deviations for pixels from 0 to 1.
        device: where to compute; the network's own device when not given.
        precision: "32", "bf16" or "fp16".
        channels_last: feed the images in channels-last memory format.
        measure: counts the answers; a new `Tally` when not given.

    Returns:
        What `measure` counts, by default `top1` and `top5` in percent, the mean `loss` (cross entropy without
        smoothing), and the `count` of images.

    Raises:
        DataError: there are no images.
    """
    device = torch.device(device) if device is not None else next(model.parameters()).device
    shift, scale = torch.tensor(mean, device=device), torch.tensor(std, device=device)
    share_buffers(model)
    measure = Tally(device) if measure is None else measure
    was_training = model.training
    model.eval()
    try:
        for images, labels in loader:
            images = prepare_images(images.to(device, non_blocking=True), shift, scale, channels_last=channels_last)
            with autocast(precision, device):
                logits = model(images)
            measure.add(logits, labels.to(device, non_blocking=True))
    finally:
        model.train(was_training)
    return measure.result()
