"""FSDP: between the steps each process keeps its part of the weights, and of the gradients and the optimizer's state.

torch's `fully_shard`, on the network as a whole: in a step all weights are in every process, as they may well be for
networks whose activations are what fills the memory. (A unit of its own for a single norm has crashed torch 2.15 in the
backward pass, where an activation in place follows.)
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from attnorm.training.module import TrainModule

_WHOLE = StateDictOptions(full_state_dict=True)
_WHOLE_IN_FIRST = StateDictOptions(full_state_dict=True, cpu_offload=True)  # nothing in the other processes


class ShardedStrategy(DDPStrategy):
    """Lightning's strategy of several processes with FSDP in the place of DDP.

    Lightning's own for `fully_shard` reads a resume state after `on_fit_start`, by which a run that was stopped in an
    evaluation must know of it. Here weights are read before the network is sharded, as with DDP; resume states hold
    whole tensors and are written by the first process.
    """

    def configure_ddp(self) -> None:
        """Shards the network, which is on its device and has its weights."""
        assert isinstance(self.lightning_module, TrainModule)
        mesh = init_device_mesh(self.root_device.type, (dist.get_world_size(),))
        fully_shard(self.lightning_module.model, mesh=mesh)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The whole weights, in the first process; all take part."""
        assert self.lightning_module is not None
        return get_model_state_dict(self.lightning_module, options=_WHOLE_IN_FIRST)

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """The whole state, in the first process, by the parameters' names; all take part."""
        assert self.lightning_module is not None
        return get_optimizer_state_dict(self.lightning_module, optimizer, options=_WHOLE_IN_FIRST)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Takes this process's part of the state that every process has read whole."""
        assert self.lightning_module is not None
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            set_optimizer_state_dict(self.lightning_module, optimizer, state, options=_WHOLE)


class WholeNetwork:
    """A second network in each process, to evaluate and to save.

    The sharded one gathers its weights for every batch, for which all processes must have as many batches; in an
    evaluation they may not.

    Args:
        model: the network before it is sharded.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = deepcopy(model)

    def of(self, sharded: nn.Module) -> nn.Module:
        """The network with the weights and statistics of the sharded one; all processes ask together."""
        self.model.load_state_dict(get_model_state_dict(sharded, options=_WHOLE))
        return self.model.to(next(sharded.buffers(), torch.empty(0)).device)
