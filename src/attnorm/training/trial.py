"""A few training steps and an evaluation batch, as a run would do them, to measure what they cost."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice, pairwise
from statistics import median
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from attnorm.errors import JobError
from attnorm.training.fetching import FetchClock
from attnorm.training.memory import memory_there, memory_used
from attnorm.training.preparation import Prepared

TIMED_BATCHES = 3
EVALUATED_BATCHES = 2


@dataclass(kw_only=True)
class Costs:
    """What the trial measured, in this process.

    Attributes:
        batch_seconds: of a training batch with its share of the optimizer's work; the median.
        data_wait_share: part of that for which training waited for its loader.
        eval_batch_seconds: of an evaluation batch.
        memory_bytes: most in use at once: of the CUDA device with what the allocator keeps, else of the process.
        memory_there_bytes: what there is of it; None where the system does not tell.
        state_bytes: of a resume state: weights, optimizer and average.
    """

    batch_seconds: float = 0.0
    data_wait_share: float = 0.0
    eval_batch_seconds: float = 0.0
    memory_bytes: int | None = None
    memory_there_bytes: int | None = None
    state_bytes: int = 0


@dataclass
class Trial(Callback):
    """Takes the times and sizes; nothing is kept of the training.

    The first batch, in which buffers are made and kernels chosen, is not timed if there is another.
    """

    run: Prepared
    clock: FetchClock
    costs: Costs = field(default_factory=Costs)
    _times: list[tuple[float, float]] = field(default_factory=list)  # at the ends of batches: clock, waited so far

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock."""
        self._take_time()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Takes the time, when the device is done."""
        outputs["loss"].item()
        self._take_time()

    def _take_time(self) -> None:
        self._times.append((time.perf_counter(), self.clock.seconds))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Evaluates, while the optimizer's state is in memory as well, and reads the meters."""
        costs, launch, device = self.costs, self.run.launch, pl_module.device
        steps = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(self._times)]
        steps = steps[1:] or steps
        costs.batch_seconds = median(seconds for seconds, _ in steps)
        costs.data_wait_share = sum(waited for _, waited in steps) / sum(seconds for seconds, _ in steps)
        network = self.run.evaluated()
        self.run.task.evaluate(network, self._timed(self.run.val, device), device)
        used = memory_used(device)
        costs.memory_bytes = used["rss_peak_bytes" if device.type == "cpu" else "cuda_reserved_peak_bytes"]
        costs.memory_there_bytes = memory_there(device)
        tensors = [*network.state_dict().values(), *_tensors(trainer.optimizers[0].state)]
        if launch.config.model_ema:
            tensors += self.run.model.state_dict().values()
        costs.state_bytes = sum(tensor.nbytes for tensor in tensors)

    def _timed(self, loader: Iterable[Any], device: torch.device) -> Iterator[Any]:
        """A few batches of the evaluation; the last one says how long one takes."""
        for batch in islice(loader, EVALUATED_BATCHES):
            started = time.perf_counter()
            yield batch
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            self.costs.eval_batch_seconds = time.perf_counter() - started


def _tensors(content: Any) -> Iterator[Tensor]:
    """All tensors in nested dictionaries."""
    if isinstance(content, Tensor):
        yield content
    elif isinstance(content, dict):
        for value in content.values():
            yield from _tensors(value)


def try_steps(run: Prepared) -> Costs:
    """Trains a few batches and evaluates two, from the weights that the run starts with, and keeps nothing.

    Raises:
        DataError: an image cannot be read, and may not be left out.
        DivergedError: the loss is not finite.
        JobError: the device has not enough memory.
    """
    from attnorm.training.trainer import make_trainer, run_trainer

    launch = run.launch
    config, device = launch.config, launch.device
    trial = Trial(run, FetchClock(device))
    # One more than an optimizer step needs: from the second one on the optimizer's state is in memory too.
    batches = min(max(TIMED_BATCHES, config.grad_accum_steps) + 1, len(run.train))
    callbacks = [callback for callback in (run.average, trial) if callback is not None]
    trainer = make_trainer(config, launch.processes, device, callbacks, clock=trial.clock, batches=batches)
    try:
        run_trainer(trainer, run.module, run.train, None)
    except torch.OutOfMemoryError:
        total = torch.cuda.get_device_properties(device).total_memory
        raise JobError(
            f"a training step of batch_size {config.batch} must fit into the memory of {device}, {total / 1e9:.1f} GB, "
            "and does not; take a smaller batch_size with grad_accum_steps, or amp"
        ) from None
    return trial.costs
