"""What the networks of a comparison cost: counted, timed side by side, and metered where the machine has a meter."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from attnorm.data import DetectionData, ImageData, make_loader
from attnorm.errors import JobError
from attnorm.evidence.config import CompareConfig
from attnorm.evidence.cost import count_detector_macs, count_macs, count_parameters
from attnorm.evidence.interleaved import Interleaved, Step
from attnorm.evidence.memory import peak_bytes, saved_bytes
from attnorm.evidence.meters import NoMeterError, meter_for
from attnorm.evidence.operations import count_in
from attnorm.evidence.profile_energy import energy, idle_watts
from attnorm.evidence.summary import Cost
from attnorm.evidence.timing import Batch, ClassifiedImages, ImagesWithObjects, Timing
from attnorm.training.config import TrainConfig, resolve
from attnorm.training.evaluation import autocast
from attnorm.training.processes import Processes, choose_device
from attnorm.training.task import make_task

ROUNDS, LIMIT_S = 21, 30.0  # of training, and of evaluation; large networks have fewer rounds, at least 6
# Where torch measures memory on a CPU, its profiler would write about itself on stderr.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
ENERGY_S = 6.0  # of each network in training and in evaluation; meters count in steps of up to 100 ms


@dataclass(frozen=True)
class Costs:
    """Per network, and how they were measured.

    Attributes:
        networks: by name; see `Cost`.
        measured: "device", "batch_size", "meter" (None where there is none) and "no_meter" (the reason).
    """

    networks: Mapping[str, Cost]
    measured: dict[str, Any]


def measure(config: CompareConfig, data: ImageData | DetectionData) -> Costs:
    """Builds each network as a run would (an unknown name stops here), counts it and measures it beside the others."""
    device = choose_device(config.device, Processes.from_environment())
    built: dict[str, nn.Module] = {}
    costs: dict[str, dict[str, Any]] = {}
    for name in config.networks:
        run = resolve(config.run_config(name, config.seed_numbers()[0]))
        built[name] = make_task(run, data).network()
        costs[name] = {"parameters": count_parameters(built[name]), **_count(run, data, built[name])}
    memory_format = torch.channels_last if config.channels_last else torch.contiguous_format
    batch = _batch(config, data).to(device, memory_format)
    for model in built.values():
        model.to(device).to(memory_format=memory_format)  # pyright: ignore[reportCallIssue]
    steps: dict[str, dict[str, Step]] = {
        "train": {name: partial(_train, model, batch, config.precision) for name, model in built.items()},
        "eval": {name: partial(_evaluate, model, batch, config.precision) for name, model in built.items()},
    }
    for kind, found in steps.items():
        _add_times(costs, kind, found, batch.count, device)
        for name, step in found.items():
            costs[name][f"{kind}_peak_bytes"] = peak_bytes(partial(list, step()), device)
    for name, model in built.items():
        costs[name]["saved_bytes_per_image"] = _saved(model, batch, config.precision)
    metered = _add_energy(costs, steps, batch.count, device)
    return Costs(costs, {"device": _name(device), "batch_size": batch.count, **metered})


def _count(run: TrainConfig, data: ImageData | DetectionData, model: nn.Module) -> dict[str, int | None]:
    """MACs and the other operations for one image; of these None where the convention does not name one."""
    if isinstance(data, ImageData):
        size = (data.in_chans, data.image_size, data.image_size)
        return {"macs": count_macs(model, size), "elementwise": _elementwise(model, torch.zeros(1, *size))}
    assert data.val is not None
    all_found = replace(run, detector=replace(run.detector, score_threshold=0.0))
    detector, image = make_task(all_found, data).network(), data.val[0][0]
    return {"macs": count_detector_macs(detector, image), "elementwise": _elementwise(detector, [image])}


def _elementwise(model: nn.Module, images: Any) -> int | None:
    try:
        return count_in(model, images).elementwise
    except JobError:
        return None


def _add_times(
    costs: Mapping[str, dict[str, Any]], kind: str, steps: Mapping[str, Step], images: int, device: torch.device
) -> None:
    turns = Interleaved(steps, device)
    turns.run_within(ROUNDS, LIMIT_S)
    baseline = next(iter(steps))
    for name, cost in costs.items():
        cost[f"{kind}_ms_per_image"] = asdict(Timing.of(turns.seconds(name), images))
        cost[f"{kind}_ratio"] = None if name == baseline else turns.ratio(name, baseline).as_dict()


def _add_energy(
    costs: Mapping[str, dict[str, Any]], steps: Mapping[str, Mapping[str, Step]], images: int, device: torch.device
) -> dict[str, Any]:
    try:
        meter = meter_for(device)
    except NoMeterError as error:
        for cost in costs.values():
            cost |= {f"{kind}_energy": None for kind in steps}
        return {"meter": None, "no_meter": str(error)}
    idle = idle_watts(meter)
    for kind, found in steps.items():
        for name, spent in energy(meter, found, images, ENERGY_S, idle, device).items():
            costs[name][f"{kind}_energy"] = spent
    return {"meter": f"{meter.name}, {meter.covers}", "no_meter": None}


def _train(model: nn.Module, batch: Batch, precision: str) -> Iterator[str]:
    """Forward, loss and backward; no optimizer."""
    model.train()
    with autocast(precision, _device(model)):
        loss = batch.loss(model)
    loss.backward()
    yield "train"
    model.zero_grad(set_to_none=True)


def _evaluate(model: nn.Module, batch: Batch, precision: str) -> Iterator[str]:
    model.eval()
    with torch.no_grad(), autocast(precision, _device(model)):
        batch.infer(model)
    yield "eval"


def _saved(model: nn.Module, batch: Batch, precision: str) -> int:
    """Bytes per image that training keeps from the forward for the backward pass."""
    model.train()
    with saved_bytes(model) as saved, autocast(precision, _device(model)):
        batch.loss(model)
    return round(saved.total / batch.count)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _batch(config: CompareConfig, data: ImageData | DetectionData) -> Batch:
    """What the networks are measured on: random images, or for detectors the first ones of the training part."""
    if isinstance(data, ImageData):
        size = (data.in_chans, data.image_size, data.image_size)
        return ClassifiedImages.random(config.batch, size, config.num_classes or len(data.classes))
    assert data.train is not None
    loader = make_loader(data.train, batch_size=min(config.batch, len(data.train)), train=True)
    return ImagesWithObjects(*next(iter(loader)))
