"""What a network costs: ResNet-50 with BatchNorm, with Attentive Normalization and with SE, side by side.

    python -m benchmarks.network_cost [--time-limit-s 300] [--json FILE]

A whole training step (forward, loss, backward, SGD) and an evaluation, in both memory layouts. A network step scatters
by some 5% on a shared machine, so rounds are added until the 95% interval of every median ratio is within +-1% or the
time limit is over; the interval is reported either way. Writes benchmarks/results/network_cost.json.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import attnorm
import attnorm.models  # registers resnet50_an
from attnorm.evidence.cost import count_parameters
from attnorm.evidence.interleaved import Interleaved, Step, timing_dict
from attnorm.evidence.memory import saved_bytes
from benchmarks.contenders import LAYOUTS
from benchmarks.record import Record, options_of, parser
from benchmarks.targets import NETWORK_RATIOS

HALF_WIDTH = 0.01


def networks(layout: str, training: bool, names: Sequence[str]) -> dict[str, nn.Module]:
    """Networks with random weights, in one mode and layout."""
    form = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    made: dict[str, nn.Module] = {}
    for name in names:
        torch.manual_seed(0)
        made[name] = timm.create_model(name).to(memory_format=form).train(training)  # pyright: ignore
    return made


def batch(size: int, side: int, layout: str, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Random images (size, 3, side, side) and labels (size,)."""
    form = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    torch.manual_seed(1)
    images = torch.randn(size, 3, side, side, device=device).to(memory_format=form)
    return images, torch.arange(size, device=device) % 1000


def train_step(model: nn.Module, images: Tensor, labels: Tensor, precision: torch.dtype | None = None) -> Step:
    """Forward, loss, backward and SGD's step, under autocast where a precision is given."""
    # So slow that random labels move no weight to where arithmetic takes another time (denormals, infinities).
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    kind = images.device.type

    def step() -> Iterator[str]:
        with torch.autocast(kind, precision, enabled=precision is not None):
            logits = model(images)
        loss = F.cross_entropy(logits.float(), labels)
        yield "forward"
        loss.backward()
        yield "backward"
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield "update"

    return step


def eval_step(model: nn.Module, images: Tensor, precision: torch.dtype | None = None) -> Step:
    """Inference."""

    def step() -> Iterator[str]:
        with torch.no_grad(), torch.autocast(images.device.type, precision, enabled=precision is not None):
            model(images)
        yield "eval"

    return step


def check_values(device: str = "cpu", side: int = 64) -> float:
    """Relative error of resnet50_an's training-mode logits against its definition in float64.

    Raises:
        RuntimeError: If it is above 1e-3; float32 makes about 1e-5 in a network so deep.
    """
    torch.manual_seed(0)
    model = timm.create_model("resnet50_an").to(device).train()
    images, _ = batch(4, side, "NCHW", device)
    logits = model(images).detach().double()
    with attnorm.backend("reference"):
        truth = model.double()(images.double()).detach()
    error = float((logits - truth).norm() / truth.norm())
    if not error <= 1e-3:
        raise RuntimeError(f"resnet50_an: relative error {error:.2g} against float64, allowed 0.001; not timed")
    return error


def saved(model: nn.Module, images: Tensor, precision: torch.dtype | None = None) -> int:
    """Bytes that a training forward pass keeps for the backward pass."""
    with saved_bytes(model) as count, torch.autocast(images.device.type, precision, enabled=precision is not None):
        model(images)
    return count.total


def measure(
    layout: str,
    kind: str,
    size: int,
    side: int,
    time_limit_s: float,
    ratios: Mapping[str, tuple[str, str]] = NETWORK_RATIOS,
) -> dict[str, Any]:
    """One row: kind "train" or "eval", on `size` images of side x side pixels.

    The ratios, by names that end with their kind, say which networks are measured.
    """
    images, labels = batch(size, side, layout)
    wanted = {key: pair for key, pair in ratios.items() if key.endswith(kind)}
    names = tuple(dict.fromkeys(name for pair in wanted.values() for name in reversed(pair)))  # baselines first
    models = networks(layout, kind == "train", names)
    if kind == "train":
        steps = {name: train_step(model, images, labels) for name, model in models.items()}
    else:
        steps = {name: eval_step(model, images) for name, model in models.items()}
    timed = Interleaved(steps)
    narrow = timed.run_until(tuple(wanted.values()), HALF_WIDTH, time_limit_s)
    described: dict[str, dict[str, Any]] = {}
    for name, model in models.items():
        described[name] = {f"{kind}_ms": timing_dict(timed.timing(name)), "parameters": count_parameters(model)}
        if kind == "train":
            _check_finite(name, model)
            described[name]["saved_bytes"] = saved(model, images)
    return {
        "kind": kind,
        "layout": layout,
        "batch": size,
        "side": side,
        "narrow": narrow,
        "networks": described,
        "ratios": {key: timed.ratio(*pair).as_dict() for key, pair in wanted.items()},
    }


def _check_finite(name: str, model: nn.Module) -> None:
    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        raise RuntimeError(f"{name} diverged while it was timed: its times are not those of ordinary training")


def summary(row: Mapping[str, Any]) -> str:
    """One line for the terminal."""
    shown = "  ".join(
        f"{key} {ratio['median']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]" for key, ratio in row["ratios"].items()
    )
    rounds = next(iter(row["ratios"].values()))["rounds"]
    return f"{next(iter(row['networks']))} {row['layout']} {row['kind']}: {shown} ({rounds:g} rounds)"


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    command_line = parser("What a network with AN costs in time and memory.", "network_cost")
    command_line.add_argument("--batch-size", type=int, default=8)
    command_line.add_argument("--side", type=int, default=224, help="height and width of the images, in pixels")
    command_line.add_argument(
        "--time-limit-s", type=float, default=300, help="for the training row of a layout; evaluation gets a third"
    )
    options = command_line.parse_args(arguments)
    print(f"values: relative error {check_values():.1e} against float64", flush=True)
    record = Record(options.json, "network-cost", "cpu", options_of(options))
    for layout in LAYOUTS:
        for kind, share in (("train", 1.0), ("eval", 1 / 3)):
            row = measure(layout, kind, options.batch_size, options.side, share * options.time_limit_s)
            print(summary(row), flush=True)
            record.add(row)
    record.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
