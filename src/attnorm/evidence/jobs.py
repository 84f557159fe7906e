"""Trainings at once: child processes that train one run after another, and what they tell of it.

A child lives as long as its parent does, whatever ends the parent: its standard input is a pipe that the parent alone
holds open, and a child that finds it closed ends at once (:mod:`attnorm.evidence.jobs_child`). What a run has reached
by then is in its folder, as after any other interruption.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from queue import Queue
from types import FrameType
from typing import Any

import torch

from attnorm.errors import JobError
from attnorm.training.config import TrainConfig

LOG = "train.log"
# Lightning ends a run at the next batch.
GRACE_S = 20.0

# {"event": "started"}, {"event": "epoch", "epoch": 3}, {"event": "done"}, {"event": "diverged", "why": ...},
# {"event": "error", "kind": "DataError", "why": ...} or {"event": "died", "why": "SIGKILL"}
Event = dict[str, Any]


def environments(jobs: int, device: torch.device) -> list[dict[str, str]]:
    """What each of so many processes finds in its environment: its threads and, with CUDA, its device.

    The cores are shared out evenly; an OMP_NUM_THREADS that is set already holds for each of them.

    Args:
        jobs: Number of processes.
        device: Where runs train.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // jobs))
    shared = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    if device.type != "cuda":
        return [shared] * jobs
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    devices = [part.strip() for part in visible.split(",") if part.strip()]
    devices = devices or [str(index) for index in range(torch.cuda.device_count())]
    return [{**shared, "CUDA_VISIBLE_DEVICES": devices[job % len(devices)]} for job in range(jobs)]


def train_in_children(
    runs: Sequence[TrainConfig], children: Sequence[Mapping[str, str]]
) -> Generator[tuple[TrainConfig, Event]]:
    """Trains runs, as many at once as there are environments; close the generator to stop.

    Args:
        runs: What to train, in this order.
        children: The environment of each process, beside this one's.

    Yields:
        A run with something that happened to it: "started" and "epoch" and, last, one of the others. A child that
        dies is replaced.

    Raises:
        JobError: This process was told to end by SIGTERM.
    """
    waiting, events = deque(runs), Queue["tuple[_Child, Event]"]()
    working: list[_Child] = []
    try:
        with _sigterm_raises():
            for extra in children[: len(runs)]:
                working.append(_Child(waiting.popleft(), extra, events))
            while working:
                child, event = events.get()
                if child not in working:
                    continue  # the end of one that had no more to do
                run = child.run
                if event["event"] not in ("started", "epoch"):
                    working.remove(child)
                    if not waiting:
                        child.dismiss()
                    elif event["event"] == "died":
                        working.append(_Child(waiting.popleft(), child.extra, events))
                    else:
                        child.give(waiting.popleft())
                        working.append(child)
                yield run, event
    finally:
        for child in working:
            child.interrupt()
        for child in working:
            child.end()


class _Child:
    """One process, its present run, and a thread that passes on what it says."""

    def __init__(self, run: TrainConfig, extra: Mapping[str, str], events: "Queue[tuple[_Child, Event]]") -> None:
        self.run, self.extra = run, extra
        folder = Path(run.output)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / LOG).open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "attnorm.evidence.jobs_child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **extra},
                start_new_session=True,  # an interrupt at the terminal is the parent's to pass on
            )
        self.give(run)
        threading.Thread(target=self._listen, args=(events,), daemon=True).start()

    def give(self, run: TrainConfig) -> None:
        """The next run to train."""
        self.run = run
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it died; the listening thread says so
            self.process.stdin.write(json.dumps(asdict(run)).encode() + b"\n")
            self.process.stdin.flush()

    def _listen(self, events: "Queue[tuple[_Child, Event]]") -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.endswith(b"\n"):  # else it died while it wrote
                events.put((self, json.loads(line)))
        code = self.process.wait()
        why = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        events.put((self, {"event": "died", "why": why}))

    def dismiss(self) -> None:
        """No more runs: it ends by itself."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()

    def interrupt(self) -> None:
        """Asks it to end in good order."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)

    def end(self) -> None:
        """Waits until it has ended, and ends it where that takes too long."""
        try:
            self.process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.dismiss()


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Makes an error of SIGTERM, so that children are ended and a person is told."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise JobError("stopped by SIGTERM; the same command goes on")

    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
