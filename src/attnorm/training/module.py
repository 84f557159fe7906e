"""One training step, in the form that Lightning's Trainer drives."""

from typing import Any, cast

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from attnorm.errors import DivergedError
from attnorm.training.config import TrainConfig
from attnorm.training.objective import draw_mix, mixed_loss, prepare_images
from attnorm.training.optimizer import create_optimizer
from attnorm.training.processes import sum_over_processes
from attnorm.training.schedule import learning_rate

SUMS_KEY = "attnorm_train_sums"  # entry of the resume state


class TrainModule(pl.LightningModule):
    """A network with its recipe: what happens to one batch.

    Args:
        model: maps (N, C, H, W) to (N, classes).
        config: the run.
        mean: channel means for pixels from 0 to 1.
        std: channel standard deviations for pixels from 0 to 1.
        iterations: batches per epoch.
        processes: processes that train together.
        rank: number of this process.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        config: TrainConfig,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        iterations: int,
        processes: int = 1,
        rank: int = 0,
    ) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.iterations = iterations
        self.rank = rank
        self.peak_lr = config.peak_lr(processes)
        self.last_checkpoint: str | None = None  # named when the loss diverges; the checkpoint callback keeps it
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)
        # Of this process in this epoch. No buffer: DDP would overwrite it with the first process's before every step.
        self._loss_sum: Tensor | None = None  # float64
        self._image_count = 0.0
        self._unchecked: tuple[Tensor, int, int] | None = None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Makes the recipe's optimizer; its rate is set before every batch."""
        return create_optimizer(self.model, self.config, self.peak_lr)

    def lr_at(self, epoch: int, iteration: int) -> float:
        """Learning rate of one batch of this run."""
        config = self.config
        return learning_rate(
            epoch,
            iteration,
            self.iterations,
            lr=self.peak_lr,
            epochs=config.epochs,
            warmup_epochs=config.warmup,
            warmup_lr=config.warmup_lr,
            min_lr=config.min_lr,
        )

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Sets the learning rate and the random state of this batch."""
        lr = self.lr_at(self.current_epoch, batch_idx)
        for group in cast(torch.optim.Optimizer, self.optimizers(use_pl_optimizer=False)).param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        # Dropout and stochastic depth draw from the global state: a function of the place in the run, as mixup's
        # draws are, so that a resumed run repeats the draws of the run that was stopped.
        place = self.current_epoch * self.iterations + batch_idx
        torch.manual_seed((self.config.seed * 1_000_003 + place) * 4_099 + self.rank)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Loss of one batch of uint8 images (N, C, H, W) and labels (N,)."""
        images, labels = batch
        config, epoch = self.config, self.current_epoch
        images = prepare_images(images, self.mean, self.std, channels_last=config.channels_last)
        place = (config.seed, epoch, batch_idx, self.rank)
        size = (images.shape[2], images.shape[3])
        mix = draw_mix(config.mixup, len(labels), place, images.device, cutmix=config.cutmix, size=size)
        logits = self.model(images if mix is None else mix.images(images))
        loss = mixed_loss(logits, labels, smoothing=config.smoothing, mix=mix)
        self._check_finite(loss.detach(), epoch, batch_idx)
        summand = loss.detach().double() * len(labels)
        self._loss_sum = summand if self._loss_sum is None else self._loss_sum.to(summand.device) + summand
        self._image_count += len(labels)
        return loss

    def _check_finite(self, loss: Tensor, epoch: int, iteration: int) -> None:
        # On an accelerator reading a loss waits for it: there the check looks at the batch before, which is done.
        if loss.device.type == "cpu":
            self._raise_unless_finite(loss, epoch, iteration)
        else:
            self.check_last_loss()
            self._unchecked = (loss, epoch, iteration)

    def check_last_loss(self) -> None:
        """Raises when the loss that was left unchecked is not finite; called before weights are saved."""
        if self._unchecked is not None:
            unchecked, self._unchecked = self._unchecked, None
            self._raise_unless_finite(*unchecked)

    def _raise_unless_finite(self, loss: Tensor, epoch: int, iteration: int) -> None:
        value = loss.item()
        if value - value == 0:
            return
        kept = (
            f"the last good checkpoint is {self.last_checkpoint}" if self.last_checkpoint else "no epoch was complete"
        )
        raise DivergedError(
            f"the loss must stay finite, but it was {value} at step {epoch * self.iterations + iteration} "
            f"(epoch {epoch}, batch {iteration}) with learning rate {self.lr_at(epoch, iteration):.6g}; "
            f"{kept}; try a smaller lr, a longer warmup_epochs or clip_grad"
        )

    def take_train_sums(self) -> tuple[float, float]:
        """Sum of the losses and count of images in this epoch over all processes; the next epoch starts at zero."""
        sums = self._total_sums()
        self._loss_sum, self._image_count = None, 0.0
        return sums[0], sums[1]

    def _total_sums(self) -> list[float]:
        loss = 0.0 if self._loss_sum is None else self._loss_sum.item()
        return sum_over_processes([loss, self._image_count], self.device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the sums of a part of an epoch."""
        checkpoint[SUMS_KEY] = self._total_sums()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes the sums back: the first process goes on with those of all."""
        loss, count = checkpoint[SUMS_KEY]
        if self.rank == 0 and count > 0:
            self._loss_sum, self._image_count = torch.tensor(loss, dtype=torch.float64), count
