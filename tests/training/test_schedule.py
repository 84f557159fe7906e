import math

import pytest

from attnorm.training.schedule import learning_rate

# Worked out by hand for 4 iterations per epoch, lr 0.8, 2 epochs of warm-up and 6 in all:
# warm-up 0.8 * p / 2; then 0.4 * (1 + cos(pi * (p - 2) / 4)).
HAND = [
    (0, 0, 0.1),  # p = 1/4
    (0, 3, 0.4),  # p = 1
    (1, 3, 0.8),  # p = 2, the end of the warm-up
    (2, 0, 0.79231411216129218),  # p = 2.25: 0.4 * (1 + cos(11.25 degrees))
    (2, 3, 0.68284271247461901),  # p = 3: 0.4 * (1 + sqrt(1/2))
    (3, 3, 0.4),  # p = 4, half of the cosine
    (4, 3, 0.11715728752538099),  # p = 5: 0.4 * (1 - sqrt(1/2))
    (5, 3, 0.0),  # p = 6: the last iteration
]


@pytest.mark.parametrize(("epoch", "iteration", "expected"), HAND)
def test_schedule_of_the_paper(epoch, iteration, expected):
    rate = learning_rate(epoch, iteration, 4, lr=0.8, epochs=6, warmup_epochs=2)
    assert rate == pytest.approx(expected, rel=1e-14, abs=1e-16)


def test_minimum_is_the_last_rate_and_the_peak_is_kept():
    rates = [learning_rate(e, i, 5, lr=0.4, epochs=4, warmup_epochs=1, min_lr=0.01) for e in range(4) for i in range(5)]
    assert rates[4] == max(rates) == 0.4
    assert rates[-1] == min(rates[5:]) == 0.01
    assert rates[5:] == sorted(rates[5:], reverse=True)


def test_warm_up_from_a_hundredth_of_the_peak():
    """The refactored recipe's: 2 epochs of 2 iterations, from 0.008 up to 0.8 in four steps of 0.198."""
    rates = [learning_rate(e, i, 2, lr=0.8, epochs=4, warmup_epochs=2, warmup_lr=0.008) for e in (0, 1) for i in (0, 1)]
    assert rates == pytest.approx([0.206, 0.404, 0.602, 0.8], rel=1e-12)


def test_without_warm_up_the_cosine_starts_at_once():
    assert learning_rate(0, 0, 2, lr=1.0, epochs=1) == pytest.approx(0.5 * (1 + math.cos(math.pi / 2)))


def test_warm_up_of_half_an_epoch():
    rates = [learning_rate(0, i, 4, lr=1.0, epochs=3, warmup_epochs=0.5) for i in range(3)]
    assert rates[:2] == [0.5, 1.0]
    assert rates[2] == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.1)))


def test_steps_of_the_published_detectors():
    """Lr 0.02, a tenth after 16 and after 22 epochs, up from a third of it in 500 batches; 7330 batches an epoch."""
    settings = {"lr": 0.02, "epochs": 24, "milestones": (16, 22), "warmup_epochs": 500 / 7330, "warmup_lr": 0.02 / 3}
    hand = [
        (0, 0, 0.02 / 3 + 0.04 / 3 / 500),  # the first of 500 steps of the warm-up
        (0, 249, 0.02 * 2 / 3),  # its middle
        (0, 499, 0.02),
        (0, 500, 0.02),
        (15, 7329, 0.02),
        (16, 0, 0.002),
        (21, 7329, 0.002),
        (22, 0, 0.0002),
        (23, 7329, 0.0002),
    ]
    for epoch, iteration, expected in hand:
        assert learning_rate(epoch, iteration, 7330, **settings) == pytest.approx(expected, rel=1e-12)


def test_a_milestone_within_the_warm_up():
    rates = [
        learning_rate(e, 0, 1, lr=1.0, epochs=5, warmup_epochs=4, milestones=(2,), decay_rate=0.5) for e in range(5)
    ]
    assert rates == [0.25, 0.5, 0.375, 0.5, 0.5]
