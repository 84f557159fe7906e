"""What processes with FSDP do in tests of it; a module of its own, without fixtures, which they import."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from attnorm.training.config import TrainConfig
from attnorm.training.loop import fit
from attnorm.training.sharding import ShardedStrategy


def held(config: TrainConfig, folder: Path) -> dict[str, Tensor]:
    """How many numbers of weights, of gradients and of momentum this process has when a state is saved, and of all."""
    found: dict[str, Tensor] = {}
    save = ShardedStrategy.optimizer_state

    def look(self: ShardedStrategy, optimizer: torch.optim.Optimizer):
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        momenta = [optimizer.state[p]["momentum_buffer"] for p in parameters]
        found["all"] = torch.tensor(sum(p.numel() for p in parameters))
        found["weights"] = torch.tensor(sum(p.to_local().numel() for p in parameters))
        found["momenta"] = torch.tensor(sum(m.to_local().numel() for m in momenta))
        return save(self, optimizer)

    ShardedStrategy.optimizer_state = look
    fit(replace(config, output=str(folder / "held")), quiet=True)
    return found
