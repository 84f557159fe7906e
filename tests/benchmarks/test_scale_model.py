"""Formulas of docs/scale.md against hand computations, brute force and another simulation."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.scale_model import Cluster, lost_share, waiting_share, warned_share

ONE = Cluster(gpus=4, per_machine=4, link_rate=100.0, network_rate=10.0, link_delay=1.0, network_delay=5.0)


def test_collectives_by_hand():
    """Bytes and seconds in round numbers. 4 GPUs in one machine pass a message 3 times, at 100 bytes a second."""
    assert ONE.all_gather(200) == 3 * 1 + 3 * 200 / 100
    assert ONE.all_reduce(400) == 2 * (3 * 1 + 3 * 100 / 100)
    # 8 GPUs in two machines: 7 passes, one of them between machines; the network of 10 bytes a second is the bound
    two = replace(ONE, gpus=8)
    assert two.all_gather(200) == 6 * 1 + 1 * 5 + 7 * 200 / 10
    assert two.all_reduce(400) == 2 * (6 * 1 + 1 * 5 + 7 * 50 / 10)
    # 32 GPUs in eight: within one machine 3 passes, then 3 levels of a tree
    assert replace(ONE, gpus=32).all_reduce(320, tree=True) == 2 * (3 * 1 + 3 * 5 + 31 * 10 / 10)
    alone = replace(ONE, gpus=1)
    assert (alone.all_reduce(400), alone.all_gather(400)) == (0, 0)


def all_reduced(values):
    """A ring all-reduce as it is carried out, part by part; the sums and how many parts each process has sent."""
    count = len(values)
    sent = 0
    parts = [list(value) for value in values]
    for phase in range(2):
        for turn in range(count - 1):
            moving = [(rank, (rank + phase - turn) % count) for rank in range(count)]
            outgoing = [parts[rank][part] for rank, part in moving]
            for (rank, part), value in zip(moving, outgoing, strict=True):
                receiver = (rank + 1) % count
                parts[receiver][part] = value if phase else parts[receiver][part] + value
            sent += 1
    return parts, sent


def test_a_ring_sends_as_much_as_the_formula_says():
    values = np.random.default_rng(0).integers(0, 100, (5, 5))
    parts, sent = all_reduced(values)
    assert parts == [values.sum(0).tolist()] * 5
    # without delays: the seconds of `sent` parts, a fifth of 400 bytes each
    assert replace(ONE, gpus=5, per_machine=8, link_delay=0).all_reduce(400) == pytest.approx(sent * 80 / 100)


def simulated_loss(interval, save, restart, between, rng, stretches):
    """Second by event: every stretch (training, then saving) is tried till no kill comes within it."""
    spent = 0.0
    next_kill = rng.exponential(between)
    for _ in range(stretches):
        end = spent + interval + save
        while next_kill < end:
            spent = next_kill
            next_kill += rng.exponential(between)
            while next_kill < spent + restart:
                spent = next_kill
                next_kill += rng.exponential(between)
            spent += restart
            end = spent + interval + save
        spent = end
    return 1 - stretches * interval / spent


@pytest.mark.parametrize(
    ("interval", "save", "restart", "between"), [(100, 5, 20, 400), (500, 10, 60, 300), (30, 10, 5, 3000)]
)
def test_lost_time_is_that_of_a_simulation(interval, save, restart, between):
    found = simulated_loss(interval, save, restart, between, np.random.default_rng(0), 20_000)
    assert lost_share(interval, save, restart, between) == pytest.approx(found, rel=0.03)


def test_lost_time_by_hand():
    """Kills so rare that each costs half an interval and a restart; with warning a saving and a restart."""
    between = 1e7
    assert lost_share(1000, 0, 60, between) == pytest.approx((1000 / 2 + 60) / between, rel=1e-3)
    assert lost_share(1000, 10, 60, 1e12) == pytest.approx(10 / 1010, rel=1e-3)
    assert warned_share(10, 60, 930) == 0.07


def test_waiting_by_hand():
    """A worker makes a batch in 3 s and a step takes 1 s: one waits 2 of 3 s, two 1 of 3 s per pair, three not."""
    making = np.full((401, 2), 3.0)
    assert waiting_share(making, 1.0, workers=1) == pytest.approx(2 / 3)
    assert waiting_share(making, 1.0, workers=2) == pytest.approx(1 / 3, abs=0.01)
    assert waiting_share(making, 1.0, workers=3) == 0
    # a batch of 10 s in one process alone: what lies ready, 3 * 2 batches less the one in making, hides part of it
    making[300, 1] = 10.0
    assert waiting_share(making, 1.0, workers=3) == pytest.approx(lateness(making, 3) / (200 + lateness(making, 3)))


def lateness(making, workers):
    """Seconds that steps begin later than without waiting, by asking every second who has what; integers only."""
    steps, processes = making.shape
    left = [dict.fromkeys(range(workers), None) for _ in range(processes)]  # worker -> (batch, seconds left)
    ready = [set() for _ in range(processes)]
    following = [dict(zip(range(workers), range(workers), strict=True)) for _ in range(processes)]
    begun, clock, busy_until, late = 0, 0, 0, 0
    while begun < steps:
        for p in range(processes):
            for w in range(workers):
                if left[p][w] is not None:
                    batch, seconds = left[p][w]
                    left[p][w] = (batch, seconds - 1)
                    if seconds == 1:
                        ready[p].add(batch)
                        left[p][w] = None
        if clock >= busy_until:
            if all(begun in r for r in ready):
                begun, busy_until = begun + 1, clock + 1
            elif begun > steps // 2:
                late += 1
        for p in range(processes):
            for w in range(workers):
                batch = following[p][w]
                if left[p][w] is None and batch < steps and batch - workers * 2 < begun:
                    left[p][w] = (batch, int(making[batch, p]))
                    following[p][w] += workers
        clock += 1
    return late
