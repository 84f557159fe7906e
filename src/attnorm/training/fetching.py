"""How long training waits for its data."""

import time
from collections import deque

import torch
from lightning.pytorch.profilers import Profiler

# What Lightning's training loop calls the one `next` on the loader's iterator. Were it renamed, the clock would stand
# still; tests/training/test_fetching.py would notice.
FETCH = ".train_dataloader_next"


class FetchClock(Profiler):
    """Adds up the time for which the device has nothing to do because the next batch is not there yet.

    Lightning tells its profiler when it asks the loader's iterator for a batch and when it has it. On a CPU that is
    the time in question, whoever reads: workers that are ahead leave nothing of it. A CUDA device is still busy with
    the batch before when the next one is asked for: there an event before and one behind the asking say how long it
    stood idle in between, which nobody has to wait for.

    Args:
        device: on which the network is trained.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._cuda = device.type == "cuda"
        self._seconds = 0.0
        self._asked = 0.0
        self._before: torch.cuda.Event | None = None
        self._waits: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()

    def start(self, action_name: str) -> None:
        """A batch is asked for, or something else begins."""
        if not action_name.endswith(FETCH):
            return
        if self._cuda:
            self._before = _event()
        else:
            self._asked = time.perf_counter()

    def stop(self, action_name: str) -> None:
        """The batch is there, or something else has ended."""
        if not action_name.endswith(FETCH):
            return
        if self._before is None:
            self._seconds += time.perf_counter() - self._asked
            return
        self._waits.append((self._before, _event()))
        while self._waits and self._waits[0][1].query():
            self._add_oldest()

    @property
    def seconds(self) -> float:
        """Waited so far. On a CUDA device reading it waits until the last batch that was fetched is begun."""
        while self._waits:
            self._waits[0][1].synchronize()
            self._add_oldest()
        return self._seconds

    def _add_oldest(self) -> None:
        before, behind = self._waits.popleft()
        self._seconds += before.elapsed_time(behind) / 1000


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


class EpochTimes:
    """Seconds of the running epoch, and those of them for which training waited, over a stop and a new start.

    Args:
        clock: of this process.
    """

    def __init__(self, clock: FetchClock) -> None:
        self.clock = clock
        self._before = (0.0, 0.0)  # until a stop
        self._from = (0.0, 0.0)

    def start(self, before: tuple[float, float] | None = None) -> None:
        """Starts the epoch, or goes on with one on which something was spent before."""
        self._before, self._from = before or (0.0, 0.0), self._now()

    def go_on(self) -> None:
        """Leaves out what lies between `start` and now."""
        self._from = self._now()

    @property
    def spent(self) -> tuple[float, float]:
        """Seconds, and of those waited."""
        (seconds, waited), before = self._now(), self._before
        return before[0] + seconds - self._from[0], before[1] + waited - self._from[1]

    def _now(self) -> tuple[float, float]:
        return time.perf_counter(), self.clock.seconds
