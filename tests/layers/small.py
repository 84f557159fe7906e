"""Small layers for the tests."""

import torch
from torch import nn

from attnorm import AttentiveBatchNorm2d, AttentiveGroupNorm

KINDS = [AttentiveBatchNorm2d, AttentiveGroupNorm]


def make(kind: type, channels: int = 8, **options) -> nn.Module:
    """A layer with seeded parameters, K = 3 and, for the group variant, 4 groups."""
    torch.manual_seed(0)
    groups = {"num_groups": 4} if issubclass(kind, AttentiveGroupNorm) else {}
    return kind(channels, num_components=3, **groups, **options)
