"""Timing in turns: intervals against tables of the binomial distribution, times against a simulated clock."""

from collections.abc import Iterator

import pytest
import torch

from attnorm.evidence.interleaved import Interleaved, Ratio, Step


@pytest.mark.parametrize(
    ("count", "kth"),
    # k of the 95% interval [k-th smallest, k-th largest] of a median, as tables of the sign test give it.
    [(6, 1), (8, 1), (9, 2), (10, 2), (15, 4), (20, 6), (25, 8), (40, 14), (50, 18)],
)
def test_interval_of_a_median_is_that_of_the_sign_test(count: int, kth: int):
    values = [float(value) for value in torch.randperm(count, generator=torch.Generator().manual_seed(0)) + 1]
    ratio = Ratio.of_values(values)
    assert ratio.median == (count + 1) / 2
    assert (ratio.low, ratio.high) == (kth, count + 1 - kth)


def test_ratio_is_paired_by_round():
    """A machine that is ten times slower in one round leaves the ratio as it is: the reason for taking turns."""
    slow = [1.0, 1.0, 10.0, 1.0, 1.0, 1.0]
    ratio = Ratio.of([2 * s for s in slow], slow)
    assert (ratio.low, ratio.median, ratio.high, ratio.half_width) == (2, 2, 2, 0)


def test_half_width_is_that_of_the_farther_end():
    assert Ratio(median=2.0, low=1.9, high=2.4, rounds=10).half_width == pytest.approx(0.2)


def test_fewer_rounds_than_an_interval_needs_are_refused():
    with pytest.raises(ValueError, match="at least 6 rounds; got 5"):
        Ratio.of_values([1.0] * 5)


class Clock:
    """Time that passes only when a step says so: the tests of the measurement do not depend on the machine."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def step(self, seconds: float, log: list[str], name: str) -> Step:
        """A step whose second phase takes half as long as its first, and who tidies up for long afterwards."""

        def run() -> Iterator[str]:
            self.now += seconds
            yield "first"
            self.now += seconds / 2
            log.append(name)
            yield "second"
            self.now += 100

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("attnorm.evidence.interleaved.time", clock)
    return clock


def test_contenders_take_turns_and_phases_are_timed_apart(clock: Clock):
    """4 and 8 ms in the first phase, half of it in the second; what follows the last phase is not in the times."""
    log: list[str] = []
    timed = Interleaved({name: clock.step(s, log, name) for name, s in (("short", 0.004), ("long", 0.008))}, sample_s=0)
    log.clear()
    timed.run(20)
    turns = [log[i : i + 2] for i in range(0, 40, 2)]
    assert all(sorted(turn) == ["long", "short"] for turn in turns)
    assert ["long", "short"] in turns  # in random order: no contender always has the same one before it
    assert ["short", "long"] in turns
    assert timed.ratio("long", "short").median == pytest.approx(2)
    assert timed.timing("long", "first").median == pytest.approx(8)
    assert timed.timing("long").median == pytest.approx(12)


def test_short_steps_are_repeated_within_a_sample(clock: Clock):
    """1.5 ms each, 20 ms wanted: 14 repetitions, of which the mean counts."""
    log: list[str] = []
    timed = Interleaved({"a": clock.step(0.001, log, "a")}, sample_s=0.02)
    log.clear()
    timed.run(6)
    assert timed.repeats["a"] == 14
    assert len(log) == 6 * 14
    assert timed.timing("a").median == pytest.approx(1.5)


def test_rounds_go_on_until_the_interval_is_narrow_or_the_time_is_over(clock: Clock):
    """A round takes 203 s here, tidying included: within 2000 s there is time for 9."""
    log: list[str] = []
    steps = {name: clock.step(1, log, name) for name in ("a", "b")}
    timed = Interleaved(steps, sample_s=0)
    assert timed.run_until([("a", "b")], half_width=0.01, time_limit_s=1e6, min_rounds=8)
    assert len(timed.seconds("a")) == 8
    timed = Interleaved(steps, sample_s=0)
    assert not timed.run_until([("a", "b")], half_width=-1, time_limit_s=2000)
    assert len(timed.seconds("a")) == 9


def test_rounds_stay_within_the_time_but_for_those_that_an_interval_needs(clock: Clock):
    """A round of one step takes 101.5 s here, tidying included: 8 in 850 s, 6 in no time at all, 10 at most."""
    for limit, rounds in ((850, 8), (0, 6), (1e6, 10)):
        timed = Interleaved({"a": clock.step(1, [], "a")}, sample_s=0)
        timed.run_within(10, limit)
        assert len(timed.seconds("a")) == rounds


def test_every_single_call_is_kept_for_percentiles(clock: Clock):
    """Each call takes 1 ms longer than the one before; three fit into a sample, which is their mean."""
    length = iter(range(1, 100))

    def step() -> Iterator[str]:
        clock.now += next(length) / 1000
        yield "only"

    timed = Interleaved({"a": step}, sample_s=0.006)  # the second call took 2 ms
    timed.run(2)
    assert timed.calls["a"] == pytest.approx([0.003, 0.004, 0.005, 0.006, 0.007, 0.008])
    assert timed.seconds("a") == pytest.approx([0.004, 0.007])


def test_another_clock_may_tell_the_time():
    """Such as the processor's; the real one, by which these steps take no time at all, is then not asked."""
    ours = Clock()
    timed = Interleaved({"a": ours.step(2.0, [], "a")}, sample_s=0, clock=ours.perf_counter)
    timed.run(1)
    assert timed.samples["a"] == {"first": [2.0], "second": [1.0]}
