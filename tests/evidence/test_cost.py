"""Counted costs against counts by hand."""

import pytest
import torch
from torch import nn

from attnorm.evidence.cost import count_macs, count_parameters
from attnorm.evidence.table import in_units
from attnorm.evidence.timing import Timing


def small_network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=4, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


def test_macs_by_hand():
    """One MAC per weight and output pixel: 8*3*9 at 12x10, 16*(8/4)*9 at 6x5, 16*10 once; nothing else counts."""
    assert count_macs(small_network(), (3, 12, 10)) == 8 * 3 * 9 * 120 + 16 * 2 * 9 * 30 + 160


def test_counting_leaves_the_network_as_it_was():
    network = small_network().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    count_macs(network, (3, 8, 8))
    assert network.training
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_parameters_by_hand():
    network = small_network()
    assert count_parameters(network) == (8 * 3 * 9 + 8) + 2 * 8 + 16 * 2 * 9 + (160 + 10)
    network[0].weight.requires_grad_(False)
    assert count_parameters(network) == 8 + 2 * 8 + 16 * 2 * 9 + (160 + 10)


def test_shared_parameters_count_once():
    linear = nn.Linear(4, 4)
    assert count_parameters(nn.Sequential(linear, linear)) == 20


def test_quartiles_show_the_spread():
    timing = Timing.of([0.1, 0.2, 0.3, 0.4, 9.0], images=10)
    assert (timing.low, timing.median, timing.high) == pytest.approx((20.0, 30.0, 40.0))


@pytest.mark.parametrize(
    ("count", "text"),
    [(999, "999"), (1000, "1.00 k"), (77_860, "77.9 k"), (765_432, "765 k"), (99_960, "100 k"), (999_999, "1.00 M"),
     (12_345_678, "12.3 M"), (4_110_000_000, "4.11 G")],
)  # fmt: skip
def test_counts_in_units(count: int, text: str):
    assert in_units(count) == text
