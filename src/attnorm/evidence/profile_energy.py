"""Joules per image and watts, of networks that take turns, with what the machine uses at rest taken away."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from attnorm.evidence.interleaved import MIN_ROUNDS, Ratio, Step
from attnorm.evidence.meters import Meter
from attnorm.evidence.timing import wait

IDLE_S = 3.0


@dataclass(frozen=True)
class Spent:
    """What one or several spells of work took.

    Attributes:
        joules: As the meter counts, the machine's rest included.
        seconds: How long it took.
        images: How many were worked on.
    """

    joules: float
    seconds: float
    images: int

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(self.joules + other.joules, self.seconds + other.seconds, self.images + other.images)

    def net(self, idle_watts: float) -> float:
        """Joules beyond those that rest would have taken."""
        return self.joules - idle_watts * self.seconds

    def as_dict(self, idle_watts: float) -> dict[str, float | int]:
        """For JSON: joules per image and watts, as metered and net of rest."""
        return {
            "joules_per_image": _digits(self.net(idle_watts) / self.images),
            "joules_per_image_with_idle": _digits(self.joules / self.images),
            "watts": _digits(self.net(idle_watts) / self.seconds),
            "watts_with_idle": _digits(self.joules / self.seconds),
            "seconds": _digits(self.seconds),
            "images": self.images,
        }


def idle_watts(meter: Meter, seconds: float = IDLE_S) -> float:
    """The power while this process sleeps."""
    start, before = time.perf_counter(), meter.joules()
    time.sleep(seconds)
    return (meter.joules() - before) / (time.perf_counter() - start)


def energy(
    meter: Meter, steps: Mapping[str, Step], images: int, seconds: float, idle: float, device: torch.device
) -> dict[str, dict[str, Any]]:
    """Joules per image of every network.

    Args:
        meter: of the device.
        steps: by name; the first is what the others are compared with.
        images: that one step works on.
        seconds: that each network works for, in six spells, the networks taking turns.
        idle: watts at rest.
        device: where they work.

    Returns:
        By name `Spent.as_dict`, and "ratio": how many times the first network's net joules per image, with its 95%
        interval over the spells; None where noise leaves a spell without net energy.
    """
    spells: dict[str, list[Spent]] = {name: [] for name in steps}
    for _ in range(MIN_ROUNDS):
        for name, step in steps.items():
            spells[name].append(_spell(meter, step, images, seconds / MIN_ROUNDS, device))
    net = {name: [spell.net(idle) / spell.images for spell in found] for name, found in spells.items()}
    first = net[next(iter(net))]
    return {
        name: {
            **sum(found[1:], found[0]).as_dict(idle),
            "ratio": Ratio.of(net[name], first).as_dict() if min(*net[name], *first) > 0 else None,
        }
        for name, found in spells.items()
    }


def _spell(meter: Meter, step: Step, images: int, seconds: float, device: torch.device) -> Spent:
    """Whole steps until the time is over."""
    wait(device)
    count, start, before = 0, time.perf_counter(), meter.joules()
    while count == 0 or time.perf_counter() - start < seconds:
        for _ in step():
            pass
        wait(device)
        count += images
    return Spent(meter.joules() - before, time.perf_counter() - start, count)


def _digits(value: float) -> float:
    return float(f"{value:.4g}")
