"""How a run is told to stop: SIGTERM, from whoever takes the machine back, or SIGUSR1, as SLURM sends it beforehand.

A signal is only noted where it arrives. The run looks at it after a batch, in training and in evaluation, when the
network is whole; with several processes they agree first, so that all stop after the same batch.
"""

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback

SIGNALS = tuple(signal.Signals[name] for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))


class StopRequested(Exception):
    """The run was told to stop, by the signal that is named, and all processes know."""


class StopSignals(Callback):
    """Notes the signals, and makes the processes agree on them.

    The agreement of a batch is reached while the next one is computed, over a process group of its own on the CPU: no
    process waits for another, nor for a device. So a run of several processes stops a batch later than one alone.
    """

    def __init__(self) -> None:
        self._received = 0
        self._group: Any = None
        self._pending: tuple[dist.Work, torch.Tensor] | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Takes the signals over for the length of a run; in a thread, which cannot have signals, it does nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in SIGNALS}
        self._take_over()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _take_over(self) -> None:
        for number in SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: object) -> None:
        self._received = number

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Makes the processes' group."""
        if trainer.world_size > 1:
            self._group = dist.new_group(backend="gloo")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes the signals back from Lightning, whose handler talks to the other processes at any time."""
        if threading.current_thread() is threading.main_thread():
            self._take_over()

    def after_batch(self) -> str | None:
        """The signal that all processes know of, after a batch that all of them have trained on."""
        if self._group is None:
            return _name(self._received)
        pending, self._pending = self._pending, self._ask()
        if pending is None:
            return None
        pending[0].wait()
        return _name(int(pending[1]))

    def watching(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The batches of an evaluation, in which the processes may have different numbers of batches.

        Raises:
            StopRequested: a process has been told to stop; in all of them, once they are through or have been told.
        """
        for batch in batches:
            if self._received:
                break
            yield batch
        if name := self.now():
            raise StopRequested(name)

    def now(self) -> str | None:
        """The signal that any process has received until now; all of them ask together."""
        if self._group is None:
            return _name(self._received)
        work, number = self._ask()
        work.wait()
        return _name(int(number))

    def _ask(self) -> tuple[dist.Work, torch.Tensor]:
        number = torch.tensor(self._received)
        work = dist.all_reduce(number, dist.ReduceOp.MAX, group=self._group, async_op=True)
        assert work is not None  # this process is in the group
        return work, number


def _name(number: int) -> str | None:
    return signal.Signals(number).name if number else None
