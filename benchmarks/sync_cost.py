"""What synchronised norms cost: training steps of networks in DistributedDataParallel, with and without `sync_norm`.

    python -m benchmarks.sync_cost [--processes 2] [--rounds 21] [--device cuda] [--json FILE]

On the CPU with gloo; with --device cuda with nccl, one device for each process, and then with torch's SyncBatchNorm as
well, which refuses to run on a CPU. What our norms send is counted as they send it; for torch's it follows from its
source, which tests/layers/test_synchronised.py runs: 2C + 1 values gathered forward, 2C summed backward. Writes
benchmarks/results/sync_cost.json.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import timm
import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

import attnorm.models  # noqa: F401  # registers the networks
from attnorm import sync_norm
from attnorm.evidence.interleaved import MIN_ROUNDS, Interleaved, Step, timing_dict
from benchmarks.network_cost import batch, train_step
from benchmarks.record import Record, options_of, parser

RATIOS = {
    "bn_sync": ("BN synchronised", "BN"),
    "an_sync": ("AN synchronised", "AN"),
    "an_bn_sync": ("AN synchronised", "BN synchronised"),
    "an_bn": ("AN", "BN"),
    "torch_sync": ("torch's SyncBatchNorm", "BN"),
    "an_torch_sync": ("AN synchronised", "torch's SyncBatchNorm"),
}
Sent = list[tuple[str, int]]  # the name of a collective and the values that a process puts into it


@contextmanager
def counted_collectives() -> Iterator[Sent]:
    """What norms send through torch.distributed; DistributedDataParallel's own sums take another way."""
    sent: Sent = []
    gather, reduce = dist.all_gather, dist.all_reduce

    def all_gather(parts: list[torch.Tensor], part: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        sent.append(("all_gather", part.numel()))
        return gather(parts, part, *arguments, **options)

    def all_reduce(tensor: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        sent.append(("all_reduce", tensor.numel()))
        return reduce(tensor, *arguments, **options)

    with patch.object(dist, "all_gather", all_gather), patch.object(dist, "all_reduce", all_reduce):
        yield sent


def contenders(name: str, device: torch.device) -> dict[str, nn.Module]:
    """A network with BN and with AN, plain and synchronised."""

    def made(model: str) -> nn.Module:
        torch.manual_seed(0)
        return timm.create_model(model).to(device).train()

    found = {
        "BN": made(name),
        "BN synchronised": sync_norm(made(name)),
        "AN": made(f"{name}_an"),
        "AN synchronised": sync_norm(made(f"{name}_an")),
    }
    if device.type == "cuda":
        found["torch's SyncBatchNorm"] = nn.SyncBatchNorm.convert_sync_batchnorm(made(name))
    return found


def sent_by(model: nn.Module, images: torch.Tensor) -> dict[str, dict[str, int]]:
    """Collectives of a training step, and the values that a process puts into them."""
    with counted_collectives() as forward:
        loss = model(images).square().mean()
    with counted_collectives() as backward:
        loss.backward()
    model.zero_grad()
    phases = {"forward": forward, "backward": backward}
    return {
        phase: {"collectives": len(sent), "values": sum(values for _, values in sent)} for phase, sent in phases.items()
    }


def sent_by_torch(model: nn.Module) -> dict[str, dict[str, int]]:
    """The same of torch's SyncBatchNorm in the place of a network's BatchNorms, by its source."""
    channels = [module.num_features for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    return {
        "forward": {"collectives": len(channels), "values": sum(2 * c + 1 for c in channels)},
        "backward": {"collectives": len(channels), "values": sum(2 * c for c in channels)},
    }


def measure(name: str, size: int, side: int, rounds: int, device: torch.device) -> dict[str, Any]:
    """One network's row; all processes measure together."""
    images, labels = batch(size, side, "NCHW", str(device))
    models = contenders(name, device)
    sent = {key: sent_by(model, images) for key, model in models.items() if "synchronised" in key}
    wrapped = {key: DistributedDataParallel(model) for key, model in models.items()}
    steps = {key: _together(train_step(model, images, labels)) for key, model in wrapped.items()}
    timed = Interleaved(steps, device, sample_s=0)  # each step once: processes that repeat differently would wait
    timed.run(rounds)
    return {
        "network": name,
        "processes": dist.get_world_size(),
        "backend": dist.get_backend(),
        "batch": size,
        "side": side,
        "rounds": rounds,
        "step_ms": {key: timing_dict(timed.timing(key)) for key in steps},
        "ratios": {
            key: timed.ratio(*pair).as_dict() for key, pair in RATIOS.items() if all(one in steps for one in pair)
        },
        "sent": {**sent, "torch's SyncBatchNorm": sent_by_torch(models["BN"])},
    }


def _together(step: Step) -> Step:
    """A step that begins when all processes are there; the waiting is not timed."""

    def run() -> Iterator[str]:
        yield from step()
        dist.barrier()

    return run


def _process(rank: int, options: Any, folder: str) -> None:
    device = torch.device(options.device, rank) if options.device == "cuda" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.set_num_threads(options.threads)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, f"file://{folder}/meeting", rank=rank, world_size=options.processes)
    record = Record(options.json, "sync-cost", device, options_of(options)) if rank == 0 else None
    for name in options.networks.split(","):
        load = os.getloadavg()[0]
        row = measure(name, options.batch_size, options.side, options.rounds, device)
        if record is not None:
            print(name, row["ratios"], row["sent"], flush=True)
            record.add({**row, "load_before": round(load, 1)})
    if record is not None:
        record.finish()
    dist.destroy_process_group()


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    command_line = parser("What synchronised norms cost in several processes.", "sync_cost")
    command_line.add_argument("--networks", default="resnet18,resnet50", help="BN networks of timm that have AN twins")
    command_line.add_argument("--processes", type=int, default=2)
    command_line.add_argument("--batch-size", type=int, default=8, help="of each process")
    command_line.add_argument("--side", type=int, default=96, help="height and width of the images, in pixels")
    command_line.add_argument("--rounds", type=int, default=21, help="how often each step is timed")
    command_line.add_argument("--threads", type=int, default=1, help="of each process")
    command_line.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = command_line.parse_args(arguments)
    if options.rounds < MIN_ROUNDS:
        command_line.error(f"--rounds must be at least {MIN_ROUNDS}; got {options.rounds}")
    if options.device == "cuda" and torch.cuda.device_count() < options.processes:
        command_line.error(f"--processes must be at most the {torch.cuda.device_count()} CUDA devices")
    with TemporaryDirectory() as folder:
        spawn(_process, (options, folder), nprocs=options.processes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
