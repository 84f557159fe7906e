"""The benchmark of synchronised norms: what it says torch's norms send, and the tables made of its record."""

import json

import pytest
from torch import nn

from benchmarks import sync_cost, tables


def test_what_torchs_norms_send_is_a_sum_over_the_layers():
    """Two layers of 4 and of 6 channels: 2C + 1 values forward and 2C backward for each."""
    model = nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6))
    assert sync_cost.sent_by_torch(model) == {
        "forward": {"collectives": 2, "values": 22},
        "backward": {"collectives": 2, "values": 20},
    }


@pytest.mark.slow
def test_two_processes_measure_together(tmp_path):
    """In the smallest form; our BatchNorms send what torch's would, AN two small collectives more for each layer."""
    path = tmp_path / "sync_cost.json"
    arguments = ["--rounds", "6", "--side", "32", "--batch-size", "2", "--networks", "resnet18", "--json", str(path)]
    assert sync_cost.main(arguments) == 0
    record = json.loads(path.read_text())
    (row,) = record["rows"]
    assert (row["network"], row["processes"], row["backend"]) == ("resnet18", 2, "gloo")
    sent = row["sent"]
    assert sent["BN synchronised"] == sent["torch's SyncBatchNorm"]
    assert sent["BN synchronised"]["forward"]["collectives"] == 20  # the BatchNorms of ResNet-18
    assert sent["AN synchronised"]["forward"]["collectives"] == 28  # one AN layer in each of eight blocks
    assert "| resnet18 | AN synchronised | 28 | 28 |" in tables.sync_sent(record)
    assert tables.sync_ratios(record).splitlines()[2].startswith("| resnet18 | ")
