"""Energy arithmetic against a simulated machine: its clock and its meter move only when something works or rests."""

from collections.abc import Iterator

import pytest
import torch

from attnorm.evidence import profile_energy
from attnorm.evidence.interleaved import Step
from attnorm.evidence.profile_energy import Spent, energy, idle_watts
from tests.evidence.simulated import Machine

CPU = torch.device("cpu")


def step(machine: Machine, seconds: float, watts: float) -> Step:
    """Work at so many watts above those at rest."""

    def run() -> Iterator[str]:
        machine.sleep(seconds, 50 + watts)
        yield "only"

    return run


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(profile_energy, "time", machine)
    return machine


def test_the_power_at_rest_is_measured(machine: Machine):
    assert idle_watts(machine, 3.0) == pytest.approx(50)
    assert machine.now == 3.0


def test_joules_per_image_net_of_rest(machine: Machine):
    """0.5 s at 100 W above rest for 10 images are 5 J each; the second takes 0.25 s at 300 W: 7.5 J each."""
    steps = {"first": step(machine, 0.5, 100), "second": step(machine, 0.25, 300)}
    found = energy(machine, steps, images=10, seconds=12, idle=50.0, device=CPU)
    assert found["first"] == {
        "joules_per_image": 5.0,
        "joules_per_image_with_idle": 7.5,
        "watts": 100.0,
        "watts_with_idle": 150.0,
        "seconds": 12.0,
        "images": 240,
        "ratio": {"median": 1.0, "low": 1.0, "high": 1.0, "rounds": 6},
    }
    assert found["second"]["joules_per_image"] == 7.5
    assert found["second"]["images"] == 480
    assert found["second"]["ratio"]["median"] == pytest.approx(1.5)


def test_a_step_longer_than_its_spell_still_runs_once_in_each(machine: Machine):
    found = energy(machine, {"a": step(machine, 7.0, 10)}, images=1, seconds=6, idle=50.0, device=CPU)
    assert (found["a"]["images"], found["a"]["seconds"]) == (6, 42.0)


def test_no_ratio_where_noise_leaves_nothing_above_rest(machine: Machine):
    """At 60 W of rest, as if something else had run meanwhile, 5 W above 50 are not to be seen."""
    steps = {"first": step(machine, 0.5, 5), "second": step(machine, 0.5, 100)}
    found = energy(machine, steps, images=10, seconds=6, idle=60.0, device=CPU)
    assert found["first"]["joules_per_image"] == pytest.approx(-0.25)
    assert found["first"]["ratio"] is None
    assert found["second"]["ratio"] is None


def test_spells_add_up():
    both = Spent(10, 2, 4) + Spent(30, 3, 6)
    assert both.net(2.0) == 30
    assert both.as_dict(2.0)["joules_per_image"] == 3.0
