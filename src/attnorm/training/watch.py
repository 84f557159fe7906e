"""log.jsonl: what a run does while it does it, one JSON object per line. docs/watching.md lists the keys."""

import contextlib
import json
import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.distributed.tensor import DTensor

from attnorm.errors import JobError
from attnorm.files import write_text_atomic
from attnorm.training.config import TrainConfig
from attnorm.training.fetching import FetchClock
from attnorm.training.memory import memory_used
from attnorm.training.module import TrainModule
from attnorm.training.processes import Processes
from attnorm.training.record import environment, versions
from attnorm.training.task import Row

LOG = "log.jsonl"
Place = tuple[int, int]  # epochs that are complete, and batches of the next one that are done


class LineFile:
    """A file of JSON objects, one per line, that grows.

    Args:
        path: the file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, line: dict[str, Any]) -> None:
        """Writes a line; numbers that are not finite, which JSON does not have, become null.

        Raises:
            JobError: the line cannot be written.
        """
        finite = {key: None if isinstance(x, float) and not math.isfinite(x) else x for key, x in line.items()}
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(finite, allow_nan=False) + "\n")
        except OSError as error:
            raise JobError(
                f"{self.path} must be writable, and is not ({error.strerror}); mend that and start the command again "
                "with --resume auto"
            ) from error

    def keep(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        """Removes the lines that are not wanted, and what a process that was killed left of one; all or nothing."""
        if not self.path.exists():
            return
        text = self.path.read_text(encoding="utf-8", errors="replace")
        kept = [line for line in text.splitlines(keepends=True) if line.endswith("\n") and _is_wanted(line, wanted)]
        if "".join(kept) != text:
            write_text_atomic(self.path, "".join(kept))


def _is_wanted(line: str, wanted: Callable[[dict[str, Any]], bool]) -> bool:
    try:
        return wanted(json.loads(line))
    except (ValueError, LookupError, TypeError, AttributeError):  # no JSON, or none of ours
        return False


def _place(line: dict[str, Any]) -> Place | None:
    """Where the run was when a line was written; None for lines of its starts and stops."""
    if line.get("event") == "batches":
        return line["epoch"] - 1, line["batch"]
    return (line["epoch"], 0) if line.get("event") == "epoch" else None


class RunLog(Callback):
    """Writes log.jsonl, in the first process; the others only take part in what all must.

    What is done anew after a run was killed is not told twice: the place in the log is part of the resume state, and
    what was written beyond it is removed at the start.

    Args:
        config: the run.
        clock: how long training waited for data.
        device: on which it is trained.
        processes: how many train together, and which this is.
        resumed_from: the state that it goes on from.
    """

    def __init__(
        self,
        config: TrainConfig,
        clock: FetchClock,
        device: torch.device,
        processes: Processes,
        *,
        resumed_from: Path | None,
    ) -> None:
        self.config, self.clock, self.device, self.processes = config, clock, device, processes
        self.resumed_from = resumed_from
        self.file = LineFile(Path(config.output) / LOG)
        self._begun = False
        self._done: Place = (0, 0)
        # Since the last line: what is measured of the network is part of the resume state, what is timed is not.
        self._loss_sum: Tensor | float = 0.0  # of images, in float64
        self._images = 0
        self._grad_norm: Tensor | float | None = None
        self._timed_images = 0
        self._timed_from = 0.0
        self._waited_from = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock, and the log."""
        self._start_clock()
        self._begin()

    def _begin(self) -> None:
        """Removes what will be done anew, and says what goes on where; once, when the resume state has been read."""
        if self._begun or not self.processes.is_first:
            return
        self._begun = True
        self.file.keep(lambda line: (_place(line) or self._done) <= self._done)
        resumed_from = None if self.resumed_from is None else str(self.resumed_from)
        epoch, batch = self._done
        about = {"resumed_from": resumed_from, "epoch": epoch + 1, "batch": batch, "processes": self.processes.count}
        self._write("start", **about, versions=versions(), **environment(self.device))

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock: the evaluation before is not part of training."""
        self._start_clock()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Measures the gradient of the last step before a line, unscaled and not yet clipped."""
        assert isinstance(pl_module, TrainModule)
        batch = trainer.fit_loop.epoch_loop.batch_idx + 1
        interval = self.config.log_interval
        if interval > 0 and min(-batch % interval, pl_module.iterations - batch) < self.config.grad_accum_steps:
            gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients)
            self._grad_norm = norm.full_tensor() if isinstance(norm, DTensor) else norm

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts the batch, and writes a line every `log_interval` batches and at the end of the epoch."""
        assert isinstance(pl_module, TrainModule)
        count, done = len(batch[1]), batch_idx + 1
        # Lightning's loss is divided for the batches whose gradients are summed.
        self._loss_sum = self._loss_sum + outputs["loss"].double() * (self.config.grad_accum_steps * count)
        self._images += count
        self._timed_images += count
        self._done = (trainer.current_epoch, done)
        interval = self.config.log_interval
        if interval > 0 and (done % interval == 0 or done == pl_module.iterations):
            if self.processes.is_first:
                self._write_batches(trainer, pl_module)
            self._loss_sum, self._images, self._grad_norm = 0.0, 0, None
            self._start_clock()

    def _write_batches(self, trainer: pl.Trainer, module: TrainModule) -> None:
        epoch, batch = self._done
        numbers: dict[str, Any] = {
            "step": trainer.global_step,
            "lr": module.lr_at(epoch, batch - 1),
            "train_loss": float(self._loss_sum) / self._images,
            "grad_norm": None if self._grad_norm is None else float(self._grad_norm),
        }
        # After the numbers of the network, which a CUDA device has when it has done all batches of the interval.
        seconds = time.perf_counter() - self._timed_from
        numbers["images_per_second"] = self._timed_images * self.processes.count / seconds
        numbers["data_wait_share"] = (self.clock.seconds - self._waited_from) / seconds
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is not None:
            numbers["loss_scale"] = scaler.get_scale()
        self._write("batches", epoch=epoch + 1, batch=batch, **numbers, **memory_used(self.device))

    def write_epoch(self, row: Row) -> None:
        """Writes a line with the numbers of an epoch, in the first process, before the state at its end is saved.

        A run that was stopped while it evaluated does that before it trains again.
        """
        self._begin()
        self._done = (row["epoch"], 0)
        self._write("epoch", **row)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Says that the run is complete."""
        if self._begun:
            self._write("end", reason="all epochs are done")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Says why the run stops."""
        if not self._begun:
            return
        reason = str(exception) if isinstance(exception, JobError) else f"{type(exception).__name__}: {exception}"
        epoch, batch = self._done
        # What cannot be written now must not hide what the run stops for.
        with contextlib.suppress(JobError):
            self._write("stop", reason=reason, epoch=epoch + 1, batch=batch)

    def _write(self, event: str, **content: Any) -> None:
        self.file.add({"event": event, "time": datetime.now(UTC).isoformat(timespec="milliseconds"), **content})

    def _start_clock(self) -> None:
        self._timed_from, self._waited_from, self._timed_images = time.perf_counter(), self.clock.seconds, 0

    def state_dict(self) -> dict[str, Any]:
        """The place in the log and the sums since its last line."""
        grad_norm = None if self._grad_norm is None else float(self._grad_norm)
        sums = {"loss_sum": float(self._loss_sum), "images": self._images, "grad_norm": grad_norm}
        return {"epochs": self._done[0], "batches": self._done[1], **sums}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes them back."""
        self._done = (state_dict["epochs"], state_dict["batches"])
        self._loss_sum, self._images = state_dict["loss_sum"], state_dict["images"]
        self._grad_norm = state_dict["grad_norm"]
