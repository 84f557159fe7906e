"""One training step, in the form that Lightning's Trainer drives."""

from typing import Any, cast

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from attnorm.errors import DivergedError
from attnorm.training.config import TrainConfig
from attnorm.training.optimizer import create_optimizer
from attnorm.training.processes import sum_over_processes
from attnorm.training.schedule import learning_rate
from attnorm.training.task import Task

SUMS_KEY = "attnorm_train_sums"  # entry of the resume state
COUNT = "images"  # beside the losses in it


class TrainModule(pl.LightningModule):
    """A network with its recipe: what happens to one batch.

    Args:
        model: the network.
        config: the run.
        task: gives the losses of a batch.
        iterations: batches per epoch.
        processes: processes that train together.
        rank: number of this process.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TrainConfig,
        task: Task,
        *,
        iterations: int,
        processes: int = 1,
        rank: int = 0,
    ) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.task = task
        self.iterations = iterations
        self.rank = rank
        self.peak_lr = config.peak_lr(processes)
        self.last_checkpoint: str | None = None  # named when the loss diverges; the checkpoint callback keeps it
        # Of this process in this epoch. No buffer: DDP would overwrite it with the first process's before every step.
        self._loss_sums: dict[str, Tensor] = {}  # float64
        self._image_count = 0.0
        self._unchecked: tuple[Tensor, int, int] | None = None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Makes the recipe's optimizer; its rate is set before every batch."""
        return create_optimizer(self.model, self.config, self.peak_lr)

    def lr_at(self, epoch: int, iteration: int) -> float:
        """Learning rate of one batch of this run."""
        config = self.config
        warmup = config.warmup
        if config.warmup_iters is not None:
            warmup = config.warmup_iters * config.grad_accum_steps / self.iterations
        return learning_rate(
            epoch,
            iteration,
            self.iterations,
            lr=self.peak_lr,
            epochs=config.epochs,
            warmup_epochs=warmup,
            warmup_lr=config.warmup_lr,
            min_lr=config.min_lr,
            milestones=config.decay_milestones,
            decay_rate=config.decay_rate,
        )

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Sets the learning rate and the random state of this batch."""
        lr = self.lr_at(self.current_epoch, batch_idx)
        for group in cast(torch.optim.Optimizer, self.optimizers(use_pl_optimizer=False)).param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        # Dropout, stochastic depth and a detector's sampling draw from the global state: a function of the place in
        # the run, as mixup's draws are, so that a resumed run repeats the draws of the run that was stopped.
        place = self.current_epoch * self.iterations + batch_idx
        torch.manual_seed((self.config.seed * 1_000_003 + place) * 4_099 + self.rank)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Loss of one batch, whose second part has an entry for each image."""
        place = (self.config.seed, self.current_epoch, batch_idx, self.rank)
        losses = self.task.losses(self.model, batch, place)
        self._check_finite(losses["train_loss"].detach(), self.current_epoch, batch_idx)
        count = len(batch[1])
        for name, loss in losses.items():
            before, summand = self._loss_sums.get(name), loss.detach().double() * count
            self._loss_sums[name] = summand if before is None else before.to(summand.device) + summand
        self._image_count += count
        return losses["train_loss"]

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

    def take_train_means(self) -> tuple[dict[str, float], int]:
        """Means of the losses and count of images in this epoch over all processes; the next epoch starts at zero."""
        sums = self._total_sums()
        self._loss_sums, self._image_count = {}, 0.0
        count = sums.pop(COUNT)
        return {name: value / count for name, value in sums.items()}, int(count)

    def _total_sums(self) -> dict[str, float]:
        values = [*(loss.item() for loss in self._loss_sums.values()), self._image_count]
        totals = sum_over_processes(values, self.device)
        return dict(zip((*self._loss_sums, COUNT), totals, strict=True))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the sums of a part of an epoch."""
        checkpoint[SUMS_KEY] = self._total_sums()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes the sums back: the first process goes on with those of all."""
        sums = checkpoint[SUMS_KEY]
        # Up to version 0.1 there were two numbers without names.
        sums = dict(zip(("train_loss", COUNT), sums, strict=True)) if isinstance(sums, list) else dict(sums)
        count = sums.pop(COUNT)
        if count > 0:
            mine = 1.0 if self.rank == 0 else 0.0
            self._loss_sums = {name: torch.tensor(mine * value, dtype=torch.float64) for name, value in sums.items()}
            self._image_count = mine * count
