"""What happens between the epochs, and whenever a run must be able to go on later: evaluation, logs and checkpoints."""

import csv
import io
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint
from torch import nn

from attnorm.errors import JobError
from attnorm.files import write_text_atomic
from attnorm.training.checkpoint import save_checkpoint
from attnorm.training.config import TrainConfig, recorded
from attnorm.training.fetching import EpochTimes, FetchClock
from attnorm.training.metric import best_row
from attnorm.training.module import TrainModule
from attnorm.training.output import WEIGHTS
from attnorm.training.resume import BATCHES_KEY, CONFIG_KEY, PROCESSES_KEY, save_state
from attnorm.training.stopping import StopRequested, StopSignals
from attnorm.training.task import Row, Task


@dataclass(frozen=True, kw_only=True)
class Reporting:
    """Where the numbers of an epoch go, beside metrics.csv.

    Attributes:
        loggers: log.jsonl, TensorBoard, Weights & Biases: called in the first process with the epoch's row, before the
            state of the complete epoch is saved. An epoch that is evaluated anew is told anew.
        on_epoch: likewise, once everything is saved.
    """

    loggers: tuple[Callable[[Row], None], ...] = ()
    on_epoch: tuple[Callable[[Row], None], ...] = ()


class EpochEnd(Checkpoint):
    """After the last batch of an epoch: save, evaluate, log, save; and save within the epoch where it is asked for.

    The state before the evaluation is of an epoch that is trained and still to be evaluated; the state after it of a
    complete one. So a run that is killed does no batch of an epoch again for the sake of its evaluation.

    Lightning calls callbacks of type Checkpoint after all others: the average of the weights is up to date here.

    Args:
        config: the run.
        task: evaluates the network.
        loader: batches of the evaluation part.
        network: gives what is evaluated and saved, see `Prepared.evaluated`.
        stop: says when the run is to stop.
        clock: how long training waits for data.
        reporting: who else wants the numbers.
        is_first: whether this process writes.
    """

    def __init__(
        self,
        config: TrainConfig,
        task: Task,
        loader: Iterable[Any],
        *,
        network: Callable[[], nn.Module],
        stop: StopSignals,
        clock: FetchClock,
        reporting: Reporting,
        is_first: bool,
    ) -> None:
        self.config, self.task, self.loader = config, task, loader
        self.network, self.stop, self.reporting, self.is_first = network, stop, reporting, is_first
        self.output = Path(config.output)
        self.history: list[Row] = []
        self._trained: Row | None = None  # an epoch that is still to be evaluated, as its row begins
        self._times = EpochTimes(clock)
        self._saved_at = 0  # batches of the whole run

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Evaluates the epoch that was trained when the run was stopped.

        Here, since after the last epoch Lightning does not start to train again.
        """
        if self._trained is not None:
            # No state is saved: the optimizer's part of it is not read yet. The one that was read serves once more.
            self._evaluate(pl_module.to(trainer.strategy.root_device), self._trained)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock of an epoch that is resumed in its middle."""
        self._times.go_on()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock."""
        self._times.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves the resume state within an epoch: every `recovery_interval` batches, and when the run is told to stop.

        Raises:
            JobError: the run was told to stop; its state is saved.
        """
        assert isinstance(pl_module, TrainModule)
        interval, done = self.config.recovery_interval, batch_idx + 1
        signal = self.stop.after_batch()
        # Not between the batches whose gradients are summed: the sum is not part of the state.
        if done % self.config.grad_accum_steps != 0 or done >= pl_module.iterations:
            return
        batches = trainer.current_epoch * pl_module.iterations + done
        if signal is not None or (interval > 0 and batches - self._saved_at >= interval):
            pl_module.check_last_loss()
            self._save_state(trainer, pl_module, batches)
        if signal is not None:
            raise self._stopped(pl_module, signal)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves the state, evaluates the network, writes the numbers, then the weights, then the state once more."""
        assert isinstance(pl_module, TrainModule)
        pl_module.check_last_loss()
        seconds, waited = self._times.spent
        self._trained = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            "lr": pl_module.lr_at(trainer.current_epoch, pl_module.iterations - 1),
            "seconds": seconds,
            "data_wait_share": waited / seconds,
        }
        batches = self._trained["epoch"] * pl_module.iterations
        self._save_state(trainer, pl_module, batches)
        row = self._evaluate(pl_module, self._trained)
        self._save_state(trainer, pl_module, batches)
        if self.is_first:
            for tell in self.reporting.on_epoch:
                tell(row)
        if row["epoch"] < self.config.epochs and (signal := self.stop.now()):
            raise self._stopped(pl_module, signal)

    def _evaluate(self, module: pl.LightningModule, trained: Row) -> Row:
        """Ends an epoch that is trained, all but the saving of its state.

        Raises:
            JobError: the run was told to stop.
        """
        assert isinstance(module, TrainModule)
        started = time.perf_counter()
        network = self.network()
        try:
            result = self.task.evaluate(network, self.stop.watching(self.loader), module.device)
        except StopRequested as signal:
            raise self._stopped(module, str(signal)) from None
        val_seconds = time.perf_counter() - started
        losses, count = module.take_train_means()
        seconds = trained["seconds"]
        row = {
            **{name: trained[name] for name in ("epoch", "step", "lr")},
            **losses,
            **result,
            "seconds": seconds,
            "val_seconds": val_seconds,
            "images_per_second": count / seconds,
            "data_wait_share": trained["data_wait_share"],
        }
        self.history.append(row)
        self._trained = None
        if self.is_first:
            self._log(row)
            self._save_weights(network, row, is_best=best_row(self.history, self.task.metric) is row)
        return row

    def _stopped(self, module: TrainModule, signal: str) -> JobError:
        return JobError(f"stopped by {signal} after {module.last_checkpoint} was saved; --resume auto goes on there")

    def _log(self, row: Row) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(row), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.history)
        write_text_atomic(self.output / "metrics.csv", text.getvalue())
        for log in self.reporting.loggers:
            log(row)

    def _save_weights(self, model: nn.Module, row: Row, *, is_best: bool) -> None:
        metrics = {name: row[name] for name in self.task.metrics if row[name] is not None}
        meta = replace(self.task.header(model), epoch=row["epoch"], metrics=metrics)
        save_checkpoint(self.output / WEIGHTS, model, meta)
        if is_best:
            save_checkpoint(self.output / "best.safetensors", model, meta)

    def _save_state(self, trainer: pl.Trainer, module: TrainModule, batches: int) -> None:
        self._saved_at = batches
        path = save_state(trainer, self.output, batches, keep=self.config.checkpoint_hist)
        module.last_checkpoint = str(path)

    def state_dict(self) -> dict[str, Any]:
        """The numbers so far, the epoch that is still to be evaluated, and the time spent in the running one."""
        return {"history": self.history, "trained": self._trained, "times": self._times.spent}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the numbers back."""
        self.history = list(state_dict["history"])
        self._trained = state_dict["trained"]
        self._times.start(state_dict["times"])

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Puts into the resume state what decides whether a run may go on from it."""
        checkpoint[CONFIG_KEY] = recorded(self.config)
        checkpoint[PROCESSES_KEY] = trainer.world_size
        checkpoint[BATCHES_KEY] = self._saved_at

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Finds the batch after which the state was saved: the next one is due as if the run had not been stopped."""
        self._saved_at = checkpoint[BATCHES_KEY]
