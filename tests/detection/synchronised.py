"""A backbone with norms that are synchronised, in each of two processes; a module that every process imports anew."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from attnorm.detection.backbone import Backbone
from attnorm.detection.config import DetectorConfig


def whole_batch() -> Tensor:
    """Two images."""
    torch.manual_seed(1)
    return torch.randn(2, 3, 64, 64) + torch.tensor([0.0, 2.0]).view(2, 1, 1, 1)


def step(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Levels of the pyramid and running statistics after a pass in training, from parameters that a seed gives."""
    torch.manual_seed(0)
    for parameter in net.parameters():
        nn.init.uniform_(parameter, -0.1, 0.1)
    levels = net.train()(x)
    return {f"level {name}": level.detach() for name, level in levels.items()} | dict(net.named_buffers())


def step_of_one_image() -> dict[str, Tensor]:
    """The step of the image that is this process's, through the synchronised network."""
    rank = dist.get_rank()
    return step(Backbone("resnet18_an", DetectorConfig(norm_policy="sync")), whole_batch()[rank : rank + 1])
