"""What a person sees of a run: a bar on a terminal, one plain line per epoch elsewhere."""

import sys
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Row = dict[str, Any]
Describe = Callable[[Row], str]
NOTABLE_WAIT = 0.1  # of the time: what is shorter is not worth a change


def epoch_line(row: Row, epochs: int, describe: Describe, workers: int) -> str:
    """One line for one epoch's numbers; `describe` says those of the evaluation."""
    rate = row["images_per_second"]
    line = (
        f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}  train loss {row['train_loss']:.4f}  {describe(row)}  "
        f"{row['seconds']:.1f} s  {rate:.{0 if rate >= 10 else 1}f} images/s"
    )
    note = reading_note(row["data_wait_share"], workers)
    return f"{line}  {note}" if note else line


def reading_note(share: float, workers: int) -> str:
    """Where training waits for its data for a notable share of the time: that it does, and what to do."""
    return f"reading: {share:.0%} of the time (try more --workers than {workers})" if share > NOTABLE_WAIT else ""


class PlainLines(Callback):
    """Prints one line per epoch on stderr."""

    def __init__(self, epochs: int, describe: Describe, workers: int) -> None:
        self.epochs, self.describe, self.workers = epochs, describe, workers

    def show(self, row: Row) -> None:
        """Prints an epoch's line."""
        print(epoch_line(row, self.epochs, self.describe, self.workers), file=sys.stderr, flush=True)


class Bar(Callback):
    """A bar over the batches of the whole run on stderr, with the epochs' lines above it."""

    def __init__(self, epochs: int, describe: Describe, workers: int) -> None:
        self.epochs, self.describe, self.workers = epochs, describe, workers
        self._console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn(), TimeRemainingColumn()
        )  # fmt: skip
        self._bar = Progress(*columns, console=self._console, transient=True, refresh_per_second=4)
        self._task = self._bar.add_task("", total=None)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Shows the bar, at the place where the run goes on."""
        total = self.epochs * int(trainer.num_training_batches)
        done = trainer.current_epoch * int(trainer.num_training_batches)
        self._bar.update(self._task, total=total, completed=done)
        self._bar.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Moves the bar."""
        self._bar.update(
            self._task,
            description=f"epoch {trainer.current_epoch + 1}/{self.epochs}",
            completed=trainer.current_epoch * int(trainer.num_training_batches) + batch_idx + 1,
        )

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes the bar away."""
        self._bar.stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Takes the bar away, so that the error's line stands alone."""
        self._bar.stop()

    def show(self, row: Row) -> None:
        """Prints an epoch's line above the bar."""
        self._console.print(epoch_line(row, self.epochs, self.describe, self.workers), highlight=False, soft_wrap=True)


def make_progress(kind: str, epochs: int, describe: Describe, workers: int) -> PlainLines | Bar | None:
    """The callback for "auto", "bar", "plain" or "none"; None shows nothing."""
    if kind == "none":
        return None
    if kind == "auto":
        kind = "bar" if sys.stderr.isatty() else "plain"
    return (Bar if kind == "bar" else PlainLines)(epochs, describe, workers)
