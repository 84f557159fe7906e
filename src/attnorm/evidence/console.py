"""What a person sees of a comparison in the terminal: a bar over all epochs of all runs, and the table at the end.

Without a terminal (a log file, CI) the bar becomes one line per run, and now and then one of where the runs are that
go on at once.
"""

import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from attnorm.evidence.summary import sentences
from attnorm.evidence.table import cost_table, outcome_table

ROOMY = 110  # columns that the table of costs needs if no cell is to be folded


class ComparisonProgress:
    """Shows how far a comparison is; a context manager.

    Args:
        runs: number of runs.
        epochs: epochs of each.
        mode: "auto" (a bar on a terminal, lines elsewhere), "bar", "plain" or "none".
        several: whether runs go on at once. Then each has a bar of its own, and without a terminal a line says now and
            then which of them is at which epoch.
        interval_s: the shortest time between two such lines.
    """

    def __init__(
        self, runs: int, epochs: int, mode: str = "auto", *, several: bool = False, interval_s: float = 30.0
    ) -> None:
        self.console = Console(stderr=True)
        self.runs, self.epochs, self.mode = runs, epochs, mode
        if mode == "auto":
            self.mode = "bar" if self.console.is_terminal else "plain"
        self.several, self.interval_s = several, interval_s
        self.done = 0
        self.running: dict[str, _Running] = {}
        self.spoke = time.monotonic()
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("epochs"),
            TimeRemainingColumn(),
            console=self.console,
            disable=self.mode != "bar",
        )
        self.task = self.bar.add_task("", total=runs * epochs)
        self._update()

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()
        if kind is KeyboardInterrupt and self.mode != "none":
            self.console.print("stopped; the same command goes on from here")

    def start_run(self, model: str, seed: int) -> None:
        """A run begins."""
        name = f"{model}, seed {seed}"
        bar = self.bar.add_task(name, total=self.epochs) if self.several else None
        self.running[name] = _Running(time.monotonic(), bar)
        self._update()

    def epoch_done(self, model: str, seed: int, epoch: int) -> None:
        """A run has done so many epochs."""
        run = self.running[f"{model}, seed {seed}"]
        run.epoch = epoch
        if run.bar is not None:
            self.bar.update(run.bar, completed=epoch)
        self._update()
        if self.several and self.mode == "plain" and time.monotonic() >= self.spoke + self.interval_s:
            running = "; ".join(f"{name}: epoch {run.epoch}/{self.epochs}" for name, run in self.running.items())
            self._say(f"[{self.done}/{self.runs}] running: {running}")

    def end_run(self, model: str, seed: int, outcome: str, *, trained: bool) -> None:
        """A run has ended, or was found to be there already."""
        name = f"{model}, seed {seed}"
        run = self.running.pop(name, None)
        if run is not None and run.bar is not None:
            self.bar.remove_task(run.bar)
        self.done += 1
        self._update()
        time_taken = f" ({time.monotonic() - run.started:.0f} s)" if trained and run is not None else ""
        self._say(f"[{self.done}/{self.runs}] {name}: {outcome}{time_taken if trained else ', done before'}")

    def _update(self) -> None:
        completed = self.done * self.epochs + sum(run.epoch for run in self.running.values())
        now = "all runs" if self.several else next(iter(self.running), "")
        # The number of the run that goes on, or of those that are done.
        number = self.done if self.several or not now else self.done + 1
        self.bar.update(self.task, completed=completed, description=f"[{number}/{self.runs}] {now}".rstrip())

    def _say(self, line: str) -> None:
        self.spoke = time.monotonic()
        if self.mode != "none":
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)


@dataclass
class _Running:
    """A run that goes on: since when, its own bar, and the epochs that it has done."""

    started: float
    bar: TaskID | None
    epoch: int = 0


def print_result(result: Mapping[str, Any], files: Sequence[str]) -> None:
    """Prints the table, the sentences about it and where the files lie."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)  # a log file has no edge to wrap at
    roomy = console.width >= ROOMY
    for headings, rows in (outcome_table(result), cost_table(result)):
        table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
        for index, heading in enumerate(headings):
            # Headings and names in several lines leave 80 to 120 columns enough room for intervals in one.
            lines = textwrap.fill(heading, 12)
            table.add_column(lines, justify="right" if index else "left", vertical="top", no_wrap=roomy or not index)
        for name, *cells in rows:
            # As Text, because rich would read an interval "[-1.1, +0.5]" as a style.
            table.add_row(*map(Text, (name.replace(":", "\n  :"), *cells)))
        console.print()
        console.print(table)
    console.print()
    for line in [*sentences(result), "", *files]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
