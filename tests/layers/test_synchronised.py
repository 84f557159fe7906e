"""Norms that are synchronised over processes: values, and what they send."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from attnorm import sync_norm
from tests.layers.synchronised import (
    collectives,
    collectives_of_torch,
    maps_of_several_sizes,
    network,
    step,
    step_of_a_share,
    step_of_other_sizes,
    whole_batch,
)
from tests.processes import run_together


@pytest.mark.parametrize("shares", [[3, 4], [5, 0, 1, 1]], ids=str)
def test_synchronised_norms_equal_one_process_with_the_whole_batch(shares, tmp_path, tally):
    """Uneven shares, an empty one and single samples included: outputs, gradients and running statistics, float64."""
    truth = step(network(), *whole_batch())
    ranks = run_together(step_of_a_share, len(shares), tmp_path, shares)
    for name, expected in truth.items():
        if name in ("y", "dx"):
            assert_close(torch.cat([r[name] for r in ranks]), expected, rtol=1e-9, atol=1e-9, msg=name)
        elif name.startswith("grad"):
            total = sum(r[name] for r in ranks if name in r)
            assert_close(total, expected, rtol=1e-9, atol=1e-9, msg=name)
        else:
            for r in ranks:
                assert_close(r[name], expected, rtol=1e-12, atol=1e-12, msg=name)
    tally["processes"] += len(shares)


def test_images_of_several_sizes_are_weighed_by_their_pixels(tmp_path):
    """As torch's SyncBatchNorm does: the truth is nn.BatchNorm1d over the pixels of all processes."""
    parts = maps_of_several_sizes()
    x, dy = (torch.cat([pair[n].permute(0, 2, 3, 1).reshape(-1, 4) for pair in parts]) for n in (0, 1))
    truth = step(nn.BatchNorm1d(4).double(), x, dy)
    ranks = run_together(step_of_other_sizes, 2, tmp_path)
    for name, expected in truth.items():
        values = [r[name] for r in ranks]
        if name in ("y", "dx"):
            found = torch.cat([value.permute(0, 2, 3, 1).reshape(-1, 4) for value in values])
            assert_close(found, expected, rtol=1e-10, atol=1e-12, msg=name)
        elif name.startswith("grad"):
            assert_close(values[0] + values[1], expected, rtol=1e-10, atol=1e-12, msg=name)
        else:
            for value in values:
                assert_close(value, expected, rtol=1e-10, atol=1e-12, msg=name)


def test_a_synchronised_batch_norm_sends_what_torchs_sends(tmp_path):
    """2C + 1 values forward, 2C backward, each in one collective; AN sends as much again for its K logits."""
    channels, components = 12, 5
    theirs = run_together(collectives_of_torch, 2, tmp_path / "torch", channels)
    assert theirs == [{"forward": [("all_gather", 25)], "backward": [("all_reduce", 24)]}] * 2
    for ours in run_together(collectives, 2, tmp_path / "ours", channels, components):
        assert {phase: ours[f"BN {phase}"] for phase in ("forward", "backward")} == theirs[0]
        assert ours["AN forward"] == [("all_gather", 11), ("all_gather", 25)]
        assert ours["AN backward"] == [("all_reduce", 24), ("all_reduce", 10)]


def test_synchronised_norms_without_processes_are_ordinary():
    x, dy = whole_batch()
    ours, theirs = step(sync_norm(network()), x, dy), step(network(), x, dy)
    for name, value in theirs.items():
        assert_close(ours[name], value, rtol=1e-9, atol=1e-10, msg=name)
