"""What a training step sends between processes: counted, not estimated.

    python -m benchmarks.collectives [--json FILE]

One training step of networks with synchronised norms, in a group of two processes that sends nothing (torch's "fake"
one): each collective of the norms with the bytes that a process gives to it, and the bytes of the gradients, which DDP
adds up. Writes benchmarks/results/collectives.json, from which docs/scale.md reckons.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.testing._internal.distributed.fake_pg import FakeStore

from attnorm import sync_norm
from attnorm.models import create_model
from benchmarks.record import Record, options_of, parser

NETWORKS = ("resnet50", "resnet50_an")


@contextmanager
def counted() -> Iterator[dict[str, list[int]]]:
    """Every collective within: for "all_gather" and "all_reduce" the bytes of each call, of one process."""
    calls: dict[str, list[int]] = {"all_gather": [], "all_reduce": []}
    gather, reduce = dist.all_gather, dist.all_reduce

    def all_gather(parts: list[Tensor], local: Tensor, *more: Any, **options: Any) -> Any:
        calls["all_gather"].append(local.nbytes)
        return gather(parts, local, *more, **options)

    def all_reduce(tensor: Tensor, *more: Any, **options: Any) -> Any:
        calls["all_reduce"].append(tensor.nbytes)
        return reduce(tensor, *more, **options)

    with patch.object(dist, "all_gather", all_gather), patch.object(dist, "all_reduce", all_reduce):
        yield calls


def count(model: nn.Module, x: Tensor) -> dict[str, Any]:
    """The collectives of a training step of `model`, whose norms become synchronised; the row of the record."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        with counted() as calls:
            sync_norm(model)(x).sum().backward()
    finally:
        dist.destroy_process_group()
    gradients = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    return {"gradient_bytes": gradients, **calls}


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    options = parser("Count what a training step sends between processes.", "collectives").parse_args(arguments)
    record = Record(options.json, "collectives", "cpu", options_of(options))
    for name in NETWORKS:
        record.add({"network": name, **count(create_model(name), torch.randn(2, 3, 64, 64))})
    record.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
