"""Bytes of memory against counts by hand."""

import pytest
import torch
from torch import nn

from attnorm.evidence.memory import held_bytes, peak_bytes, saved_bytes


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


def test_held_bytes_count_a_storage_once():
    """A view and its base are one storage of 12 floats, whatever part of it the view shows."""
    x, y = torch.zeros(12), torch.zeros(3, dtype=torch.float64)
    assert held_bytes([x[:4], x, y]) == 4 * 12 + 8 * 3


MEGA = 4 * 2**20  # bytes of a tensor of 1024 x 1024 floats


def test_peak_bytes_by_hand():
    """a; a and b; b; b and c; b, c and d: three tensors at the most, and none of those that were there before."""
    before = torch.ones(1024, 1024)

    def run() -> None:
        a = before + before
        b = a * a
        del a
        c = b + b
        d = c * b
        del b, c, d

    assert peak_bytes(run, torch.device("cpu")) == 3 * MEGA


def test_releases_of_what_was_there_before_make_no_room():
    """The call frees one tensor that existed, then makes two: the peak is two above the start, not one."""
    held = [torch.ones(1024, 1024)]

    def run() -> None:
        held.pop()
        held.extend(torch.empty(1024, 1024) for _ in range(2))

    assert peak_bytes(run, torch.device("cpu")) == 2 * MEGA


def test_peak_of_a_training_step_by_hand():
    """exp(w x): w x and its exponential e at first, then e and its gradient, then that and w's, which stays.

    Where e is kept until the end, there are three at the end.
    """
    x, w = torch.ones(1024, 1024), torch.ones(1024, 1024, requires_grad=True)

    def step() -> None:
        w.grad = None
        (w * x).exp().sum().backward()

    def keeping() -> None:
        w.grad = None
        e = (w * x).exp()
        e.sum().backward()

    small = 1024  # sums and scalars
    assert peak_bytes(step, torch.device("cpu")) == pytest.approx(2 * MEGA, abs=small)
    w.grad = None
    assert peak_bytes(keeping, torch.device("cpu")) == pytest.approx(3 * MEGA, abs=small)
