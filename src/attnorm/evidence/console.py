"""What a person sees of a comparison in the terminal: a bar over all epochs of all runs, and the table at the end.

Without a terminal (a log file, CI) the bar becomes one line per run.
"""

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from attnorm.evidence.table import headings, table_rows


class ComparisonProgress:
    """Shows how far a comparison is; a context manager.

    Args:
        runs: number of runs.
        epochs: epochs of each.
        mode: "auto" (a bar on a terminal, lines elsewhere), "bar", "plain" or "none".
    """

    def __init__(self, runs: int, epochs: int, mode: str = "auto") -> None:
        self.console = Console(stderr=True)
        self.runs, self.epochs, self.mode = runs, epochs, mode
        if mode == "auto":
            self.mode = "bar" if self.console.is_terminal else "plain"
        self.done = 0
        self.started = 0.0
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("epochs"),
            TimeRemainingColumn(),
            console=self.console,
            disable=self.mode != "bar",
        )
        self.task = self.bar.add_task("starting", total=runs * epochs)

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
        self.started = time.monotonic()
        self.bar.update(
            self.task, description=f"[{self.done + 1}/{self.runs}] {model}, seed {seed}".replace("[", "\\[")
        )

    def epoch_done(self, row: Mapping[str, Any]) -> None:
        """An epoch of the present run is done; `row` is its entry in the history."""
        self.bar.update(self.task, completed=self.done * self.epochs + row["epoch"])

    def end_run(self, model: str, seed: int, outcome: str, *, trained: bool) -> None:
        """A run has ended, or was found to be there already."""
        self.done += 1
        self.bar.update(self.task, completed=self.done * self.epochs)
        time_taken = f" ({time.monotonic() - self.started:.0f} s)" if trained else ", done before"
        if self.mode != "none":
            line = f"[{self.done}/{self.runs}] {model}, seed {seed}: {outcome}{time_taken}"
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def print_result(result: Mapping[str, Any], files: Sequence[str]) -> None:
    """Prints the table, the sentences about it and where the files lie."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)  # a log file has no edge to wrap at
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for index, heading in enumerate(headings(result)):
        # Two lines of heading leave 80 to 100 columns enough room for the intervals in one.
        lines = heading.replace(", ", ",\n") if len(heading) > 12 else heading
        table.add_column(lines, justify="right" if index else "left", vertical="bottom", no_wrap=index in (0, 2))
    for row in table_rows(result):
        # As Text, because rich would read an interval "[-1.1, +0.5]" as a style.
        table.add_row(*map(Text, row))
    console.print()
    console.print(table)
    console.print()
    sentences = [model["verdict"] for model in result["models"] if model["verdict"]] + result["cautions"]
    for line in [*sentences, "", *files]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
