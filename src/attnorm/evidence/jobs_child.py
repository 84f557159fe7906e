"""The child process of :mod:`attnorm.evidence.jobs`: `python -m attnorm.evidence.jobs_child`.

It reads a run a line from its standard input, trains it, and writes what happens to its standard output, an event a
line, both as JSON. Whatever else is printed goes to the log in the run's folder. When the input closes, it ends.
"""

import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attnorm.errors import ConfigError, DivergedError, JobError
from attnorm.evidence.jobs import LOG
from attnorm.options import make_settings
from attnorm.training.config import TrainConfig
from attnorm.training.loop import fit
from attnorm.training.metric import METRICS

Tell = Callable[[dict[str, Any]], None]


def main() -> int:
    """Trains what it is given until there is no more."""
    # A shell that starts the parent in the background has interrupts ignored, and that is inherited.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # The pipes move away from 0 and 1, which the processes that read images inherit and libraries write to.
    orders, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    runs: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(orders, runs), daemon=True).start()

    def tell(event: dict[str, Any]) -> None:
        os.write(answers, json.dumps(event).encode() + b"\n")

    try:
        while True:
            train(make_settings(TrainConfig, json.loads(runs.get())), tell)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        return 130


def _listen(orders: int, runs: "queue.Queue[str]") -> None:
    """Passes runs on; the end of the input, also by the parent's death, is the end of this process."""
    rest = b""
    while part := os.read(orders, 65536):
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            runs.put(line.decode())
    # At once and from any point: every file of a run is written whole or not at all.
    os._exit(0)


def train(run: TrainConfig, tell: Tell) -> None:
    """Trains one run with everything that is printed in its log, and tells how it went."""
    folder = Path(run.output)
    folder.mkdir(parents=True, exist_ok=True)
    log = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)

    def epoch_done(row: dict[str, Any]) -> None:
        judged = [f"{m.label} {m.percent(row):.2f}%" for m in METRICS.values() if row.get(m.name) is not None]
        line = f"epoch {row['epoch']}/{run.epochs}  train loss {row['train_loss']:.4f}"
        print("  ".join([line, *judged, f"{row['seconds']:.1f} s"]), file=sys.stderr, flush=True)
        tell({"event": "epoch", "epoch": row["epoch"]})

    tell({"event": "started"})
    try:
        fit(run, quiet=True, on_epoch=epoch_done)
    except DivergedError as error:
        print(error, file=sys.stderr, flush=True)
        tell({"event": "diverged", "why": str(error)})
    except Exception as error:
        traceback.print_exc()
        known = isinstance(error, (ConfigError, JobError, OSError))
        why = str(error) if known else f"{type(error).__name__}: {error}"
        tell({"event": "error", "kind": type(error).__name__, "why": why})
    else:
        tell({"event": "done"})


if __name__ == "__main__":
    sys.exit(main())
