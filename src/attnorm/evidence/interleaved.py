"""Timing side by side: contenders take turns, and a ratio comes with the interval that its scatter allows.

A machine's speed changes over seconds: another program, the clock, the allocator. So every round times every contender
once, in random order; a ratio is taken within a round, where both met the same conditions, and the median over the
rounds is reported with a 95% interval from order statistics, which assumes nothing about how times are distributed.

A step is a generator function that yields the name of each phase when the phase is over. What stands after the last
yield is not timed, so clearing gradients goes there.
"""

import gc
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch

from attnorm.evidence.timing import Timing, wait

Step = Callable[[], Iterator[str]]
Pair = tuple[str, str]  # numerator and denominator of a ratio

MIN_ROUNDS = 6  # the fewest for which the range of the values is a 95% interval of their median
SAMPLE_S = 0.005  # a step shorter than this is repeated: below, the clock and the cache of the step before show


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """The median of paired ratios and the ends of its 95% interval."""

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, numerators: Sequence[float], denominators: Sequence[float]) -> "Ratio":
        """The ratio of two contenders' times, of which item i of both was taken in the same round."""
        return cls.of_values([a / b for a, b in zip(numerators, denominators, strict=True)])

    @classmethod
    def of_values(cls, values: Sequence[float]) -> "Ratio":
        """The median of values and its interval [k-th smallest, k-th largest].

        The true median lies below the k-th smallest of n values with probability P(Bin(n, 1/2) < k); k is the largest
        for which this is at most 2.5%.

        Raises:
            ValueError: For fewer than 6 values, which have no 95% interval.
        """
        count = len(values)
        if count < MIN_ROUNDS:
            raise ValueError(f"a 95% interval of a median needs at least {MIN_ROUNDS} rounds; got {count}")
        ordered, k, tail = sorted(values), 0, 0
        while True:
            tail += math.comb(count, k)
            if 2 * tail > 0.05 * 2**count:
                break
            k += 1
        middle = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
        return cls(median=middle, low=ordered[k - 1], high=ordered[count - k], rounds=count)

    @property
    def half_width(self) -> float:
        """The farther end of the interval from the median, relative to it."""
        return max(self.high - self.median, self.median - self.low) / self.median

    def as_dict(self) -> dict[str, float]:
        """For JSON, to four digits: the fifth is noise in every measurement so far."""
        return {name: float(f"{value:.4g}") for name, value in asdict(self).items()}


class Interleaved:
    """Contenders that are timed in turns.

    Args:
        steps: By name; each runs twice here, to warm up and to see how often a sample must repeat it.
        device: Waited for at the end of every phase.
        sample_s: Seconds that a sample should last at least.
        clock: Tells the seconds, `time.perf_counter` when not given; `time.process_time` where other programs run too.

    Attributes:
        samples: By name and phase, the mean seconds of a step in each round.
        calls: By name, the seconds of every single step: what percentiles are taken of.
    """

    def __init__(
        self,
        steps: Mapping[str, Step],
        device: torch.device | str = "cpu",
        sample_s: float = SAMPLE_S,
        clock: Callable[[], float] | None = None,
    ):
        self.steps = dict(steps)
        self.clock = time.perf_counter if clock is None else clock
        self.device = torch.device(device)
        self.samples: dict[str, dict[str, list[float]]] = {name: {} for name in steps}
        self.calls: dict[str, list[float]] = {name: [] for name in steps}
        self._order = random.Random(0)
        for step in self.steps.values():
            self._phases(step)
        durations = {name: sum(self._phases(step).values()) for name, step in self.steps.items()}
        self.repeats = {name: max(1, math.ceil(sample_s / max(s, 1e-6))) for name, s in durations.items()}

    def run(self, rounds: int) -> None:
        """Times every contender in so many more rounds."""
        with _no_garbage_collection():
            for _ in range(rounds):
                names = list(self.steps)
                self._order.shuffle(names)
                for name in names:
                    self._sample(name)

    def run_within(self, rounds: int, time_limit_s: float) -> None:
        """Times so many rounds, or fewer if the next would leave the time; as many as an interval needs in any case."""
        start = time.perf_counter()
        self.run(MIN_ROUNDS)
        for done in range(MIN_ROUNDS, rounds):
            if (time.perf_counter() - start) * (done + 1) / done > time_limit_s:
                return
            self.run(1)

    def run_until(self, pairs: Sequence[Pair], half_width: float, time_limit_s: float, min_rounds: int = 11) -> bool:
        """Times rounds until every pair's interval is within +-half_width of its median, or the time is over.

        Stopping at the first narrow interval makes intervals a little optimistic; `min_rounds` bounds that.

        Returns:
            Whether the intervals became so narrow.
        """
        start = time.perf_counter()
        self.run(MIN_ROUNDS)
        rounds = MIN_ROUNDS
        while True:
            narrow = rounds >= min_rounds and all(self.ratio(*pair).half_width <= half_width for pair in pairs)
            elapsed = time.perf_counter() - start
            if narrow or elapsed * (rounds + 1) / rounds > time_limit_s:
                return narrow
            self.run(1)
            rounds += 1

    def seconds(self, name: str, phase: str | None = None) -> list[float]:
        """One contender's seconds in each round: of one phase, or of the whole step."""
        phases = self.samples[name]
        if phase is not None:
            return phases[phase]
        return [sum(values) for values in zip(*phases.values(), strict=True)]

    def timing(self, name: str, phase: str | None = None) -> Timing:
        """Median and quartiles in milliseconds."""
        return Timing.of(self.seconds(name, phase), images=1)

    def ratio(self, numerator: str, denominator: str, phase: str | None = None) -> Ratio:
        """How many times as long the first takes as the second."""
        return Ratio.of(self.seconds(numerator, phase), self.seconds(denominator, phase))

    def _sample(self, name: str) -> None:
        repeats = self.repeats[name]
        totals: dict[str, float] = {}
        for _ in range(repeats):
            phases = self._phases(self.steps[name])
            self.calls[name].append(sum(phases.values()))
            for phase, seconds in phases.items():
                totals[phase] = totals.get(phase, 0.0) + seconds
        for phase, seconds in totals.items():
            self.samples[name].setdefault(phase, []).append(seconds / repeats)

    def _phases(self, step: Step) -> dict[str, float]:
        durations: dict[str, float] = {}
        wait(self.device)
        start = self.clock()
        for phase in step():
            wait(self.device)
            durations[phase] = self.clock() - start
            start = self.clock()
        return durations


def timing_dict(timing: Timing) -> dict[str, float]:
    """Milliseconds for JSON, to four digits."""
    return {name: float(f"{value:.4g}") for name, value in asdict(timing).items()}


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A collection would fall on whoever runs at that moment."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
