"""Bytes that operations move, against counts by hand."""

import torch

from benchmarks.traffic import copy_step, traffic


def test_traffic_counts_reads_and_writes_of_every_operation():
    """By hand, in floats: each line reads and writes what its comment says."""
    x, row, out = torch.randn(4, 6), torch.randn(6), torch.empty(4, 6)

    def run() -> None:
        y = x * x  # reads 24, writes 24
        y.add_(row)  # reads 24 + 6, writes 24
        out.copy_(y)  # reads 24, writes 24
        torch.mul(y, row.expand(4, 6), out=out)  # reads 24 + 6: the expanded row as it lies in memory; writes 24
        y.view(-1)  # nothing

    assert traffic(run) == 4 * (48 + 54 + 48 + 54)


def test_the_yardstick_copies():
    x = torch.randn(3, 4, 5, 5).to(memory_format=torch.channels_last)
    assert list(copy_step(x)()) == ["copy"]
    assert traffic(lambda: list(copy_step(x)())) == 2 * x.nbytes
