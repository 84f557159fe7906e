"""What happens around the training steps: averaging of weights, evaluation, logs and checkpoints."""

import csv
import io
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.loggers import Logger
from torch import nn

from attnorm.errors import JobError
from attnorm.files import move_into_place, write_text_atomic
from attnorm.training.checkpoint import save_checkpoint
from attnorm.training.config import TrainConfig, recorded
from attnorm.training.metric import best_row
from attnorm.training.module import TrainModule
from attnorm.training.output import CONFIG_KEY, PROCESSES_KEY
from attnorm.training.task import Row, Task


class WeightAverage(Callback):
    """Exponential moving average of the weights and of the running statistics of normalisation, by timm's ModelEmaV3.

    Lightning's own callback averages the integer buffers of BatchNorm as well and rounds them down, so that
    `num_batches_tracked` stands still at 1; timm's copies integers.

    Args:
        model: the network, before it is compiled or wrapped.
        decay: of the average per optimizer step.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        from timm.utils.model_ema import ModelEmaV3

        self.ema = ModelEmaV3(model, decay=decay)
        self._step = 0

    @property
    def model(self) -> nn.Module:
        """The network with the averaged weights."""
        return self.ema.module

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Brings the average to the device of the network."""
        self.ema.to(pl_module.device)
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Follows the network after each optimizer step."""
        assert isinstance(pl_module, TrainModule)
        if trainer.global_step > self._step:
            self._step = trainer.global_step
            self.ema.update(pl_module.model, step=self._step)

    def state_dict(self) -> dict[str, Any]:
        """The average, for the resume state."""
        return {"average": self.model.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the average back."""
        self.model.load_state_dict(state_dict["average"])


@dataclass(frozen=True, kw_only=True)
class Reporting:
    """Where the numbers of an epoch go, beside metrics.csv.

    Attributes:
        loggers: TensorBoard, Weights & Biases.
        on_epoch: called in the first process with the epoch's row, once everything is saved.
    """

    loggers: tuple[Logger, ...] = ()
    on_epoch: tuple[Callable[[Row], None], ...] = ()


class EpochEnd(Checkpoint):
    """At the end of an epoch: evaluate, log, save; in this order, so that a saved epoch is a complete one.

    Lightning calls callbacks of type Checkpoint after all others: the average of the weights is up to date here.

    Args:
        config: the run.
        task: evaluates the network.
        loader: batches of the evaluation part.
        average: the averaged network, when there is one; it is then evaluated and saved in place of the trained one.
        reporting: who else wants the numbers.
        is_first: whether this process writes.
    """

    def __init__(
        self,
        config: TrainConfig,
        task: Task,
        loader: Iterable[Any],
        *,
        average: WeightAverage | None,
        reporting: Reporting,
        is_first: bool,
    ) -> None:
        self.config, self.task, self.loader = config, task, loader
        self.average, self.reporting, self.is_first = average, reporting, is_first
        self.output = Path(config.output)
        self.history: list[Row] = []
        self._before = 0.0  # seconds of the running epoch that were spent before a stop
        self._started = 0.0
        self._saved_at = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock of an epoch that is resumed in its middle."""
        self._started = time.perf_counter()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock."""
        self._started, self._before, self._saved_at = time.perf_counter(), 0.0, 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves the resume state within an epoch: every `recovery_interval` batches, and when the run is told to end.

        Raises:
            JobError: SIGTERM came, as from a scheduler that takes the machine back; the state is saved.
        """
        assert isinstance(pl_module, TrainModule)
        interval, done = self.config.recovery_interval, batch_idx + 1
        # Not between the batches whose gradients are summed: the sum is not part of the state.
        if done % self.config.grad_accum_steps != 0 or done >= pl_module.iterations:
            return
        # Several processes learn of the signal at different batches and cannot save together; they end at once.
        ending = trainer.received_sigterm and trainer.world_size == 1
        if ending or (interval > 0 and done - self._saved_at >= interval):
            self._saved_at = done
            pl_module.check_last_loss()
            self._save_resume_state(trainer, pl_module)
        if ending:
            raise JobError(
                f"stopped by SIGTERM after {pl_module.last_checkpoint} was saved; --resume auto goes on there"
            )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Evaluates the network, writes the numbers, then the weights, then the state to resume from."""
        assert isinstance(pl_module, TrainModule)
        pl_module.check_last_loss()
        seconds = self._before + time.perf_counter() - self._started
        row = self._measure(trainer, pl_module, seconds)
        self.history.append(row)
        if self.is_first:
            self._log(row)
            self._save_weights(self._network(pl_module), row, is_best=best_row(self.history, self.task.metric) is row)
        self._save_resume_state(trainer, pl_module)
        if self.is_first:
            for tell in self.reporting.on_epoch:
                tell(row)

    def _network(self, module: TrainModule) -> nn.Module:
        return self.average.model if self.average is not None else module.model

    def _measure(self, trainer: pl.Trainer, module: TrainModule, seconds: float) -> Row:
        losses, count = module.take_train_means()
        started = time.perf_counter()
        result = self.task.evaluate(self._network(module), self.loader, module.device)
        return {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            "lr": module.lr_at(trainer.current_epoch, module.iterations - 1),
            **losses,
            **result,
            "seconds": seconds,
            "val_seconds": time.perf_counter() - started,
            "images_per_second": count / seconds,
        }

    def _log(self, row: Row) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(row), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.history)
        write_text_atomic(self.output / "metrics.csv", text.getvalue())
        numbers = {key: value for key, value in row.items() if value is not None}
        for logger in self.reporting.loggers:
            logger.log_metrics(numbers, step=row["epoch"])
            logger.save()

    def _save_weights(self, model: nn.Module, row: Row, *, is_best: bool) -> None:
        metrics = {name: row[name] for name in self.task.metrics if row[name] is not None}
        meta = replace(self.task.header(model), epoch=row["epoch"], metrics=metrics)
        save_checkpoint(self.output / "last.safetensors", model, meta)
        if is_best:
            save_checkpoint(self.output / "best.safetensors", model, meta)

    def _save_resume_state(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        temporary, path = self.output / ".last.ckpt.part", self.output / "last.ckpt"
        trainer.save_checkpoint(temporary)  # by all processes; the first one writes
        if self.is_first:
            move_into_place(temporary, path)
        assert isinstance(module, TrainModule)
        module.last_checkpoint = str(path)

    def state_dict(self) -> dict[str, Any]:
        """The numbers so far and the time spent in the running epoch."""
        return {"history": self.history, "seconds": self._before + time.perf_counter() - self._started}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the numbers back."""
        self.history = list(state_dict["history"])
        self._before = state_dict["seconds"]

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Puts the configuration into the resume state, to be compared when the run goes on."""
        checkpoint[CONFIG_KEY] = recorded(self.config)
        checkpoint[PROCESSES_KEY] = trainer.world_size
