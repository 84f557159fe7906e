"""A network with every norm that can be synchronised, and one training step of it in each of several processes.

A module of its own that imports torch and the layers alone: every process has to import it anew.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from attnorm import AttentiveBatchNorm2d, AttentiveGroupNorm, sync_norm


def network() -> nn.Module:
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


def process(rank: int, shares: list[int], port: int, results) -> None:
    """Take this process's share of the batch through the synchronised network; put the outcome into the queue."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://localhost:{port}", rank=rank, world_size=len(shares))
    x, dy = (t.split(shares)[rank] for t in whole_batch())
    results.put((rank, {name: value.numpy() for name, value in step(sync_norm(network()), x, dy).items()}))
    dist.barrier()
    dist.destroy_process_group()
