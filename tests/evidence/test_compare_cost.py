"""What is measured of a comparison's networks: against counts by hand and a meter that stands for a constant power."""

import time

import pytest
import torch
from torch import nn

from attnorm.evidence import compare_cost as module
from attnorm.evidence.config import CompareConfig
from attnorm.evidence.meters import NoMeterError
from attnorm.evidence.operations import count_operations
from attnorm.evidence.timing import ClassifiedImages
from attnorm.models import create_model
from attnorm.training.task import read_data

CONFIG = CompareConfig(models="resnet8_cifar,resnet8_cifar_an", output="nowhere", batch_size=8, device="cpu")
WATTS = 100.0


class ConstantPower:
    """A meter of a machine that always takes so much."""

    name, covers = "a made-up meter", "everything"

    def joules(self) -> float:
        """Since the clock began."""
        return WATTS * time.perf_counter()


def no_meter(device: torch.device) -> ConstantPower:
    raise NoMeterError("no meter: there is none.")


def test_counts_and_what_there_is_no_meter_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "meter_for", no_meter)
    costs = module.measure(CONFIG, read_data(CONFIG))
    assert costs.measured == {"device": "cpu", "batch_size": 8, "meter": None, "no_meter": "no meter: there is none."}
    for name, cost in costs.networks.items():
        model = create_model(name, num_classes=10, in_chans=1)
        counted = count_operations(model, (1, 8, 8))
        assert cost["parameters"] == sum(p.numel() for p in model.parameters())
        assert (cost["macs"], cost["elementwise"]) == (counted.macs, counted.elementwise)
        # Gradients are among what a step allocates, and inference needs none of what is kept for a backward pass.
        assert cost["train_peak_bytes"] > 4 * cost["parameters"]
        assert cost["train_peak_bytes"] > cost["eval_peak_bytes"] > 0
        assert (cost["train_energy"], cost["eval_energy"]) == (None, None)
    baseline, other = costs.networks.values()
    assert (baseline["train_ratio"], baseline["eval_ratio"]) == (None, None)
    for ratio in (other["train_ratio"], other["eval_ratio"]):
        assert ratio["low"] <= ratio["median"] <= ratio["high"]


def test_energy_is_that_of_the_meter(monkeypatch: pytest.MonkeyPatch):
    """At rest the made-up machine takes 40 of its 100 watts, so that 60 are for the network."""
    monkeypatch.setattr(module, "meter_for", lambda device: ConstantPower())
    monkeypatch.setattr(module, "idle_watts", lambda meter: 40.0)
    monkeypatch.setattr(module, "ENERGY_S", 0.3)
    costs = module.measure(CONFIG, read_data(CONFIG))
    assert costs.measured["meter"] == "a made-up meter, everything"
    for cost in costs.networks.values():
        for kind in ("train", "eval"):
            spent = cost[f"{kind}_energy"]
            assert spent["watts"] == pytest.approx(60, rel=0.01)
            per_image = spent["seconds"] / spent["images"]
            assert spent["joules_per_image"] == pytest.approx(60 * per_image, rel=0.01)
    assert costs.networks["resnet8_cifar"]["train_energy"]["ratio"]["median"] == 1


def test_bytes_kept_for_backward_by_hand():
    """A linear layer keeps its input, the loss its log-probabilities, the labels and the sum of the weights."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    batch = ClassifiedImages.random(8, (1, 2, 2), 3)
    kept = 8 * 4 * 4 + 8 * 3 * 4 + 8 * 8 + 4
    assert module._saved(model, batch, "32") == round(kept / 8)


def test_an_operation_without_a_convention_is_left_out():
    class Sorted(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.svdvals(x.flatten(1))

    assert module._elementwise(Sorted(), torch.zeros(1, 1, 2, 2)) is None
