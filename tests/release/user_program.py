"""A user's program as a type checker sees it; read by pyright against the installed wheel, never run.

The wrong call at the end must be found: without type information in the package everything would be right.
"""

from typing import Any, assert_type

import torch
from torch import Tensor, nn

import attnorm


class Block(nn.Module):
    """A convolution with Attentive Normalization."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = attnorm.AttentiveBatchNorm2d(channels, num_components=5, gate="softmax")

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).relu()


network = attnorm.replace_norm(nn.Sequential(Block(8), nn.BatchNorm2d(8)))
groups = attnorm.weight_decay_groups(network, weight_decay=1e-4)
optimizer = torch.optim.SGD(groups, lr=0.1)
assert_type(network, nn.Module)
assert_type(groups, list[dict[str, Any]])
assert_type(attnorm.load_released("model_best.pth.tar"), nn.Module)

attnorm.AttentiveBatchNorm2d("eight")  # pyright: ignore[reportArgumentType]
