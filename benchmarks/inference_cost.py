"""What inference costs: networks with AN beside their BN twins, in PyTorch, compiled, and in onnxruntime.

    python -m benchmarks.inference_cost [--time-limit-s 30] [--networks resnet18,resnet50] [--json FILE]

Three ways to run each network: eager as it is; `torch.compile` with frozen weights, where Inductor folds BN into the
convolutions, of the network whose AN is folded (`attnorm.deploy.fold`); the file of `attnorm export` in onnxruntime,
with BN in the convolutions as well. All take turns, on one thread, and the processor's time counts, so that other
programs may run beside. Writes benchmarks/results/inference_cost.json.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from attnorm.deploy.config import ExportConfig
from attnorm.deploy.fold import fold_norm
from attnorm.deploy.onnx_file import onnx_runner, write_onnx
from attnorm.deploy.subject import Subject, read_subject
from attnorm.deploy.trace import trace
from attnorm.evidence.interleaved import Interleaved, Step, timing_dict
from attnorm.layers.statistics import BatchStatistics
from benchmarks.network_cost import HALF_WIDTH
from benchmarks.record import Record, options_of, parser

SIDES = {"resnet20_cifar": 32, "resnet18": 224, "resnet50": 224}  # of the networks' images
BATCHES = (1, 8)
WAYS = ("eager", "compiled", "onnxruntime")

Run = Callable[[Tensor], Tensor]


@torch.no_grad()
def enliven(model: nn.Module, images: Tensor) -> nn.Module:
    """Random weights under which every layer counts: no norm scales by 0, statistics are those of the images."""
    for name, parameter in model.named_parameters():
        if name.endswith("weight") and parameter.ndim == 1 and not parameter.any():
            parameter.fill_(0.5)  # timm starts the last norm of a residual branch with 0
    norms = [module for module in model.modules() if isinstance(module, (BatchStatistics, _BatchNorm))]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average: after one batch, that batch's
    model.train()(images)
    return model.eval()


def runs(name: str, folder: Path) -> dict[str, Run]:
    """The ways to run a network with random weights, each from images (N, C, H, W) to logits."""
    torch.manual_seed(0)
    subject = read_subject(ExportConfig(model=name, output="net.onnx"))
    enliven(subject.model, torch.randn(8, 3, subject.meta.image_size, subject.meta.image_size))
    path = folder / f"{name}.onnx"
    write_onnx(trace(subject, static=False), subject, ExportConfig(model=name, output="net.onnx").opset, path)
    session = onnx_runner(path, subject.outputs)
    return {
        "eager": _without_gradient(subject.model),
        "compiled": _compiled(subject),
        "onnxruntime": lambda images: session(images)[0],
    }


def _compiled(subject: Subject) -> Run:
    # A fresh compilation for every size: what is timed is a program of one size, as a server of one model would have.
    options: dict[str, Any] = {"freezing": True}
    return _without_gradient(cast(nn.Module, torch.compile(fold_norm(subject.model), options=options, dynamic=False)))


def _without_gradient(model: nn.Module) -> Run:
    def run(images: Tensor) -> Tensor:
        with torch.no_grad():
            return model(images)

    return run


def measure(
    name: str, side: int, batch: int, networks: dict[str, dict[str, Run]], time_limit_s: float
) -> dict[str, Any]:
    """One row: a network and its twin with AN, on a batch of images.

    Raises:
        RuntimeError: If a way does not compute what eager does.
    """
    images = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(1))
    steps: dict[str, Step] = {}
    for network, ways in networks.items():
        truth = ways["eager"](images)
        for way, run in ways.items():
            error = float((run(images) - truth).abs().max() / truth.abs().max())
            if not error <= 1e-3:
                raise RuntimeError(
                    f"{network} {way} must compute what eager does, and differs by {error:.1e}; not timed"
                )
            steps[f"{network} {way}"] = _step(run, images)
    timed = Interleaved(steps, clock=time.process_time)
    pairs = {way: (f"{name}_an {way}", f"{name} {way}") for way in WAYS}
    narrow = timed.run_until(tuple(pairs.values()), HALF_WIDTH, time_limit_s)
    return {
        "network": name,
        "side": side,
        "batch": batch,
        "narrow": narrow,
        "ms": {step: timing_dict(timed.timing(step)) for step in steps},
        "ratios": {way: timed.ratio(*pair).as_dict() for way, pair in pairs.items()},
    }


def _step(run: Run, images: Tensor) -> Step:
    def step() -> Iterator[str]:
        run(images)
        yield "eval"

    return step


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    command_line = parser("What inference with AN costs beside BN.", "inference_cost")
    command_line.add_argument("--time-limit-s", type=float, default=30, help="for each row")
    command_line.add_argument("--networks", default=",".join(SIDES), help="which, without AN")
    options = command_line.parse_args(arguments)
    torch.set_num_threads(1)
    record = Record(options.json, "inference-cost", "cpu", options_of(options), ("onnx", "onnxruntime"))
    with tempfile.TemporaryDirectory() as folder:
        for name in options.networks.split(","):
            networks = {network: runs(network, Path(folder)) for network in (name, f"{name}_an")}
            for batch in BATCHES:
                row = measure(name, SIDES[name], batch, networks, options.time_limit_s)
                shown = "  ".join(f"{way} {value['median']:.2f}" for way, value in row["ratios"].items())
                print(f"{name} x{batch}: AN / BN {shown}", flush=True)
                record.add(row)
    record.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
