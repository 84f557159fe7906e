"""The parts of benchmarks/gpu.py that concern ResNet-50: time, eager and compiled, and joules per image."""

import time
from collections.abc import Iterator
from contextlib import nullcontext

import timm
import torch
from torch import nn

import attnorm
import attnorm.models  # registers resnet50_an
from attnorm.evidence.interleaved import Interleaved, Ratio, Step
from attnorm.evidence.meters import Meter, NoMeterError, NvmlMeter
from benchmarks.gpu_layers import DEVICE, Entry, Settings, entry, queued
from benchmarks.network_cost import batch, eval_step, train_step

NETWORKS = ("resnet50", "resnet50_an")
ENERGY_ROUNDS, ENERGY_S = 7, 4.0


def _networks(training: bool, compiled: bool) -> dict[str, nn.Module]:
    models: dict[str, nn.Module] = {}
    for name in NETWORKS:
        torch.manual_seed(0)
        model = timm.create_model(name).to(DEVICE).to(memory_format=torch.channels_last)  # pyright: ignore
        models[name] = model.train(training)
        if compiled:
            model.compile(dynamic=False)
    return models


def _network_steps(settings: Settings, training: bool, compiled: bool) -> dict[str, Step]:
    images, labels = batch(settings.batch_size, settings.side, "channels_last", DEVICE)
    steps: dict[str, Step] = {}
    for name, model in _networks(training, compiled).items():
        step = train_step(model, images, labels, torch.bfloat16) if training else None
        steps[name] = queued(step or eval_step(model, images, torch.bfloat16), 1 if training else 3)
    return steps


def network(settings: Settings, compiled: bool = False, backend: str = "auto") -> Iterator[Entry]:
    """ResNet-50 in bfloat16: training step and inference, AN against BN."""
    how = {"auto": "compiled" if compiled else "eager", "triton": "compiled, kernels as operators"}[backend]
    for training in (True, False):
        with attnorm.backend(backend) if backend != "auto" else nullcontext():
            timed = Interleaved(_network_steps(settings, training, compiled), DEVICE)
            timed.run_until([("resnet50_an", "resnet50")], half_width=0.003, time_limit_s=30 if training else 15)
        mode = "training" if training else "inference"
        target = "network_train" if training else "network_eval"
        yield entry(f"resnet50_an / resnet50, {mode}, {how}", timed.ratio("resnet50_an", "resnet50"), target)
        images = settings.batch_size * (1 if training else 3)
        speeds = {name: images / (timed.timing(name).median / 1000) for name in NETWORKS}
        yield {"name": f"{mode}, {how}", "text": ", ".join(f"{n} {s:.0f} images/s" for n, s in speeds.items())}
        torch.compiler.reset()


def energy(settings: Settings) -> Iterator[Entry]:
    """Joules per image of a training step, the networks taking turns."""
    try:
        meter = NvmlMeter(torch.device(DEVICE, torch.cuda.current_device()))
    except NoMeterError as error:
        yield {"name": "joules per image", "text": f"no meter: {error}"}
        return
    steps = _network_steps(settings, training=True, compiled=False)
    joules: dict[str, list[float]] = {name: [] for name in steps}
    for round_number in range(ENERGY_ROUNDS):
        for name, step in steps.items():
            per_image = _joules_per_image(meter, step, settings.batch_size)
            if round_number > 0:  # the first warms up
                joules[name].append(per_image)
    ratio = Ratio.of(joules["resnet50_an"], joules["resnet50"])
    yield entry("resnet50_an / resnet50, joules per image in training", ratio, "joules")
    means = {name: sum(spent) / len(spent) for name, spent in joules.items()}
    yield {"name": "joules per image in training", "text": ", ".join(f"{n} {j:.3g} J" for n, j in means.items())}


def _joules_per_image(meter: Meter, step: Step, images: int) -> float:
    torch.cuda.synchronize()
    count, start, before = 0, time.perf_counter(), meter.joules()
    while time.perf_counter() - start < ENERGY_S:
        for _ in step():
            torch.cuda.synchronize()
        count += images
    return (meter.joules() - before) / count
