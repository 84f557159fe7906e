"""Bytes of memory against counts by hand."""

import torch
from torch import nn

from attnorm.evidence.memory import saved_bytes


def test_saved_bytes_of_batch_norm_are_its_input_and_two_statistics():
    """Native BatchNorm keeps x, mean and 1/std; its parameters and running statistics exist anyway."""
    x = torch.randn(4, 6, 5, 3, requires_grad=True)
    layer = nn.BatchNorm2d(6)
    with saved_bytes(layer) as count:
        layer(x)
    assert count.total == 4 * (4 * 6 * 5 * 3 + 2 * 6)


def test_saved_bytes_count_a_storage_once():
    """A product x * x saves x twice, and a view of x once more: one storage."""
    x = torch.randn(8, requires_grad=True)
    with saved_bytes(nn.Identity()) as count:
        (x * x) * x.view(2, 4).view(8)
    assert count.total == 4 * 8 + 4 * 8  # x and the product
