"""What a network costs in time: a training step and an evaluation pass, measured side by side.

The networks take turns, round by round, so that whatever else the machine does falls on all of them alike; of the
rounds the median counts, and the quartiles show how steady it was.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnorm.training.evaluation import autocast

ROUNDS = 9


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Milliseconds per image over the rounds: the median, and the quartiles on both sides of it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, seconds: Sequence[float], images: int) -> "Timing":
        """Summarise the rounds' durations, each of which served `images` images."""
        low, median, high = (1000 * q / images for q in statistics.quantiles(seconds, n=4, method="inclusive"))
        return cls(median=median, low=low, high=high)


def time_networks(
    models: Mapping[str, nn.Module],
    input_size: Sequence[int],
    num_classes: int,
    *,
    batch_size: int,
    device: torch.device | str = "cpu",
    precision: str = "32",
    channels_last: bool = False,
    rounds: int = ROUNDS,
) -> dict[str, dict[str, Timing]]:
    """Times every network on one and the same batch of random images.

    Args:
        models: the networks by name; their running statistics and gradients are changed.
        input_size: (C, H, W) of an image.
        num_classes: outputs of the networks.
        batch_size: images per step.
        device: where they run.
        precision: "32", "bf16" or "fp16".
        channels_last: memory format of weights and images.
        rounds: how often each is timed, after one pass to warm up.

    Returns:
        By name "train" (forward, loss, backward; no optimizer step) and "eval" (forward).
    """
    device = torch.device(device)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    images = torch.randn(batch_size, *input_size, device=device).to(memory_format=memory_format)
    labels = torch.arange(batch_size, device=device) % num_classes
    seconds: dict[tuple[str, str], list[float]] = {}
    placed = {name: model.to(device).to(memory_format=memory_format) for name, model in models.items()}  # pyright: ignore
    for round_number in range(rounds + 1):
        for name, model in placed.items():
            train = _duration(lambda model=model: _train_step(model, images, labels, precision), device)
            evaluate = _duration(lambda model=model: _eval_pass(model, images, precision), device)
            if round_number > 0:
                seconds.setdefault((name, "train"), []).append(train)
                seconds.setdefault((name, "eval"), []).append(evaluate)
    return {name: {kind: Timing.of(seconds[name, kind], batch_size) for kind in ("train", "eval")} for name in models}


def _duration(run: Callable[[], object], device: torch.device) -> float:
    """Seconds that one call takes, the device's work included."""
    _wait(device)
    start = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _train_step(model: nn.Module, images: Tensor, labels: Tensor, precision: str) -> None:
    model.train()
    model.zero_grad(set_to_none=True)
    with autocast(precision, images.device):
        logits = model(images)
    F.cross_entropy(logits.float(), labels).backward()


def _eval_pass(model: nn.Module, images: Tensor, precision: str) -> None:
    model.eval()
    with torch.no_grad(), autocast(precision, images.device):
        model(images)
