"""What a run on many machines takes: formulas and one simulation, of seconds and bytes, measured by nobody.

Each is short enough to be checked by hand, and tests do. What they are fed with stands in :mod:`benchmarks.scale`.
"""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Machines with the same number of GPUs, joined within by one kind of link and between by another.

    Attributes:
        gpus: all together.
        per_machine: GPUs of a machine.
        link_rate: bytes per second that an all-reduce attains within a machine.
        network_rate: bytes per second of a machine's network, to all others together.
        link_delay: seconds that a small message takes from GPU to GPU within a machine.
        network_delay: likewise between machines.
    """

    gpus: int
    per_machine: int
    link_rate: float
    network_rate: float
    link_delay: float
    network_delay: float

    @property
    def machines(self) -> int:
        """How many there are."""
        return math.ceil(self.gpus / self.per_machine)

    @property
    def rate(self) -> float:
        """Of the slowest link on the way round all GPUs, which all data have to pass."""
        return self.link_rate if self.machines == 1 else min(self.link_rate, self.network_rate)

    @property
    def round_delay(self) -> float:
        """Delay of a message that is passed from GPU to GPU till all have seen it, machine after machine."""
        return (self.gpus - self.machines) * self.link_delay + (self.machines - 1) * self.network_delay

    @property
    def tree_delay(self) -> float:
        """Likewise, when the machines pass it on as a binary tree."""
        within = min(self.gpus, self.per_machine) - 1
        return within * self.link_delay + math.ceil(math.log2(self.machines)) * self.network_delay

    def all_gather(self, size: float) -> float:
        """Seconds until every GPU has the `size` bytes of every other, as a ring."""
        return self.round_delay + (self.gpus - 1) * size / self.rate

    def all_reduce(self, size: float, *, tree: bool = False) -> float:
        """Seconds until every GPU has the sum of `size` bytes of each: once round to add, once round to tell."""
        delay = self.tree_delay if tree else self.round_delay
        return 2 * (delay + (self.gpus - 1) / self.gpus * size / self.rate)


def lost_share(interval: float, save: float, restart: float, between: float) -> float:
    """The share of a run's time that is no progress, when it is killed without warning at random moments.

    Args:
        interval: seconds of training between savings.
        save: seconds that saving takes.
        restart: seconds from a kill until training goes on; a run can be killed in them, too.
        between: mean seconds between kills, which come independently of each other (exponentially distributed).

    Returns:
        1 - interval / E with E = between * exp(restart / between) * (exp((interval + save) / between) - 1), the mean
        time from one saving to the next: J. T. Daly, Future Generation Computer Systems 22 (2006), 303-312.
    """
    expected = between * math.exp(restart / between) * math.expm1((interval + save) / between)
    return 1 - interval / expected


def warned_share(save: float, restart: float, between: float) -> float:
    """Likewise when each kill is announced and the state saved then: only saving and starting again are lost."""
    return (save + restart) / (between + save + restart)


def waiting_share(making: np.ndarray, step: float, workers: int, prefetch: int = 2) -> float:
    """The share of time in which training waits for data, in the second half of a simulated run.

    Every process has `workers`, each of which makes one batch after another, in turn; so many as `prefetch` per worker
    may lie ready. All processes begin a step together, when each has its batch and the step before is done.

    Args:
        making: seconds that it takes to make each batch, (steps, processes).
        step: seconds of a training step.
        workers: per process.
        prefetch: batches per worker that may lie ready, torch's default.
    """
    steps = len(making)
    finished = np.zeros_like(making)
    begun = np.zeros(steps)
    for n in range(steps):
        free = finished[n - workers] if n >= workers else np.zeros(making.shape[1])
        room = begun[n - workers * prefetch] if n >= workers * prefetch else 0.0
        finished[n] = np.maximum(free, room) + making[n]
        begun[n] = max(finished[n].max(), begun[n - 1] + step if n else 0.0)
    half = steps // 2
    return float(1 - (steps - 1 - half) * step / (begun[-1] - begun[half]))
