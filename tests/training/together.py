"""What processes do together in tests of training; a module of its own, without fixtures, which they import."""

import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import timm
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import attnorm.models  # noqa: F401  # registers the networks
from attnorm import sync_norm
from attnorm.errors import PeerError
from attnorm.training import processes
from attnorm.training.config import TrainConfig
from attnorm.training.loop import fit
from tests.processes import join_group
from tests.training.runs import weights

STEPS, BATCH = 3, 8


def training_steps() -> dict[str, Tensor]:
    """Gradients of each step, and parameters and buffers after the last, of this process's share of every batch."""
    torch.manual_seed(0)
    network = timm.create_model("resnet8_cifar_an", num_classes=10, in_chans=1).double()
    rank, count, model = 0, 1, network
    if dist.is_initialized():
        rank, count = dist.get_rank(), dist.get_world_size()
        network = sync_norm(network)
        model = DistributedDataParallel(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    found: dict[str, Tensor] = {}
    for step in range(STEPS):
        images, labels = batch(step)
        loss = nn.functional.cross_entropy(model(images[rank::count]), labels[rank::count])
        optimizer.zero_grad()
        loss.backward()
        found |= {f"step {step} {name}": p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
        optimizer.step()
    return found | {name: value.detach().clone() for name, value in network.state_dict().items()}


def batch(step: int) -> tuple[Tensor, Tensor]:
    """Images (BATCH, 1, 16, 16), whose means and spreads differ, and labels."""
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(BATCH, 1, 16, 16, generator=generator, dtype=torch.float64)
    spread = torch.rand(2, BATCH, 1, 1, 1, generator=generator, dtype=torch.float64)
    return images * spread[0] + 2 * spread[1], torch.randint(10, (BATCH,), generator=generator)


def fits(configs: list[TrainConfig], folder: Path) -> list[dict[str, Tensor]]:
    """The weights that runs end with, one after the other."""
    for number, config in enumerate(configs):
        if not dist.is_initialized():  # Lightning ends the group with each run
            join_group(folder / str(number))
        fit(replace(config, output=f"{folder}/run{number}"), quiet=True)
    return [weights(replace(config, output=f"{folder}/run{number}")) for number, config in enumerate(configs)]


def waiting_for_one_that_hangs(seconds: float) -> str:
    """What the first process is told when the last one is there, but does not answer in time."""
    place = processes.Processes.from_environment()
    processes.TIMEOUT = timedelta(seconds=seconds)
    dist.destroy_process_group()
    try:
        with processes.process_group(place, torch.device("cpu")):
            processes.wait_for_all()
            if not place.is_first:
                time.sleep(seconds + 3)
            processes.wait_for_all()
    except PeerError as error:
        return str(error)
    return "nothing"
