"""Synchronised norms in each of several processes; a module of its own, which the processes import."""

from contextlib import ExitStack
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules._functions import SyncBatchNorm

from attnorm import AttentiveBatchNorm2d, AttentiveGroupNorm, sync_norm
from benchmarks.sync_cost import counted_collectives


def network() -> nn.Module:
    """Every norm that can be synchronised."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        AttentiveBatchNorm2d(8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        AttentiveGroupNorm(8, 4, 3, logit_norm="batch"),
    ).double()


def whole_batch() -> tuple[Tensor, Tensor]:
    """Seven images and the gradient of the loss at the output."""
    torch.manual_seed(1)
    x = torch.randn(7, 3, 6, 5, dtype=torch.float64) * 2 + 3
    return x, torch.randn(7, 8, 6, 5, dtype=torch.float64)


def step(model: nn.Module, x: Tensor, dy: Tensor) -> dict[str, Tensor]:
    """Output, gradients of the input and the parameters, and the buffers afterwards."""
    x = x.clone().requires_grad_()
    y = model(x)
    (y * dy).sum().backward()
    assert x.grad is not None
    grads = {f"grad {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"y": y.detach(), "dx": x.grad, **grads, **dict(model.named_buffers())}


def step_of_a_share(shares: list[int]) -> dict[str, Tensor]:
    """The step of this process's share of the batch."""
    x, dy = (t.split(shares)[dist.get_rank()] for t in whole_batch())
    return step(sync_norm(network()), x, dy)


def maps_of_several_sizes() -> list[tuple[Tensor, Tensor]]:
    """For each of two processes, maps and the gradient at the output."""
    generator = torch.Generator().manual_seed(2)
    shapes = ((3, 4, 6, 5), (1, 4, 2, 7))
    return [
        (torch.randn(s, generator=generator).double() * (n + 1) + n, torch.randn(s, generator=generator).double())
        for n, s in enumerate(shapes)
    ]


def step_of_other_sizes() -> dict[str, Tensor]:
    """A step of a BatchNorm on the maps of this process."""
    return step(sync_norm(nn.BatchNorm2d(4).double()), *maps_of_several_sizes()[dist.get_rank()])


def collectives(channels: int, components: int) -> dict[str, list[tuple[str, int]]]:
    """What a training step of one layer sends, forward and backward."""
    layers = {"BN": nn.BatchNorm2d(channels), "AN": AttentiveBatchNorm2d(channels, components)}
    found: dict[str, list[tuple[str, int]]] = {}
    for name, layer in layers.items():
        x = torch.randn(2, channels, 3, 3, requires_grad=True)
        with counted_collectives() as found[f"{name} forward"]:
            y = sync_norm(layer)(x)
        with counted_collectives() as found[f"{name} backward"]:
            y.square().sum().backward()
    return found


def collectives_of_torch(channels: int) -> dict[str, list[tuple[str, int]]]:
    """What torch's SyncBatchNorm sends. It runs on accelerators only: here its kernels are stand-ins without values."""
    x = torch.randn(2, channels, 3, 3, requires_grad=True)
    weight, bias = (torch.ones(channels, requires_grad=True) for _ in range(2))
    of_channels, of_maps = torch.zeros(channels), torch.zeros_like(x)
    stand_ins = {
        "batch_norm_stats": (of_channels, of_channels),
        "batch_norm_gather_stats_with_counts": (of_channels, of_channels),
        "batch_norm_elemt": of_maps,
        "batch_norm_backward_reduce": (of_channels,) * 4,
        "batch_norm_backward_elemt": of_maps,
    }
    found: dict[str, list[tuple[str, int]]] = {}
    with ExitStack() as stack:
        for name, value in stand_ins.items():
            stack.enter_context(patch.object(torch, name, lambda *_, value=value: value))
        with counted_collectives() as found["forward"]:
            y = SyncBatchNorm.apply(x, weight, bias, None, None, 1e-5, 0.1, dist.group.WORLD, dist.get_world_size())
        with counted_collectives() as found["backward"]:
            y.sum().backward()
    return found
