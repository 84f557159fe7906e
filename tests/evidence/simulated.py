"""A simulated machine with a clock and a meter that move only when something works or rests, and networks for it.

The networks are given to `attnorm profile` as a user's own are: by the name of a function.
"""

import torch
from torch import nn


class Machine:
    """50 W at rest, and what work adds to it; stands in for the module `time` and for a meter."""

    name, covers = "a simulated meter", "a simulated machine"

    def __init__(self) -> None:
        self.now, self.used = 0.0, 0.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float, watts: float = 50.0) -> None:
        self.now += seconds
        self.used += watts * seconds

    def joules(self) -> float:
        return self.used


MACHINE = Machine()
CLASSES, SIDE = 4, 8


class Ticking(nn.Module):
    """A linear network for 3 x 8 x 8 pixels; its inference takes a tick of the clock, in training three."""

    def __init__(self, tick: float, watts: float) -> None:
        super().__init__()
        self.linear, self.tick, self.watts = nn.Linear(3 * SIDE * SIDE, CLASSES), tick, watts

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        MACHINE.sleep(self.tick * (3 if self.training else 1), 50 + self.watts)
        return self.linear(x.flatten(1))


def quick() -> nn.Module:
    """10 ms at 100 W above rest."""
    return Ticking(0.01, 100)


def slow() -> nn.Module:
    """40 ms at 50 W above rest: four times as long, twice the energy."""
    return Ticking(0.04, 50)


def refusing_training() -> nn.Module:
    """Works in inference only."""

    class Refusing(Ticking):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training:
                raise ValueError("there is no training\nin this network")
            return super().forward(x)

    return Refusing(0.01, 100)


def uncounted() -> nn.Module:
    """Has an operation that the counting convention does not name."""

    class Fourier(Ticking):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(torch.fft.fft2(x).real)

    return Fourier(0.01, 100)


def raising() -> nn.Module:
    raise ValueError("no network today")


def giving_text() -> str:
    return "a network"


def giving_maps() -> nn.Module:
    return nn.Conv2d(3, 4, 1)


not_a_function = 3
