"""Tables of docs/scale.md: what they reckon with, by hand; and what a step sends, counted anew."""

import json

import pytest
import torch
from PIL import Image
from torch import nn

from attnorm import AttentiveBatchNorm2d
from attnorm.models import create_model
from benchmarks import assumptions, collectives, decoding, scale
from benchmarks.record import RESULTS

RECORDS = {name: json.loads((RESULTS / f"{name}.json").read_text()) for name in ("decoding", "collectives", "shards")}


def cells(table):
    return {line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ")[1:] for line in table.splitlines()}


def test_what_small_networks_send():
    """Mean, variance and number of each channel forth, two gradients back, 4 bytes each; AN's attention has 3 more."""
    network = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 8, 1), AttentiveBatchNorm2d(8, 3))
    found = collectives.count(network, torch.randn(2, 4, 5, 5))
    assert sorted(found["all_gather"]) == [4 * (2 * 3 + 1), 4 * (2 * 4 + 1), 4 * (2 * 8 + 1)]
    assert sorted(found["all_reduce"]) == [4 * 2 * 3, 4 * 2 * 4, 4 * 2 * 8]
    assert found["gradient_bytes"] == 4 * sum(p.numel() for p in network.parameters())


def test_the_record_is_what_is_sent_today():
    (recorded,) = (row for row in RECORDS["collectives"]["rows"] if row["network"] == "resnet50_an")
    found = collectives.count(create_model("resnet50_an"), torch.randn(2, 3, 32, 32))
    assert found == {key: recorded[key] for key in found}


def test_moments_are_sent_one_after_another(monkeypatch):
    """Two calls of 100 bytes among 2 GPUs: 1 s of delay and 1 s for the bytes to gather, twice 1 and 0.5 to reduce."""
    monkeypatch.setattr(assumptions, "LINK_RATE", 100.0)
    monkeypatch.setattr(assumptions, "LINK_DELAY", 1.0)
    calls = {"all_gather": [100], "all_reduce": [100]}
    assert scale.moments_seconds(calls, assumptions.cluster(2)) == (1 + 1) + 2 * (1 + 0.5)


def test_decoding_is_measured_of_training_images(tmp_path):
    """Two sizes by turns: the mean of 100 and 400 pixels; as many images as asked for."""
    for i in range(6):
        Image.new("RGB", (10, 10) if i % 2 else (20, 20)).save(tmp_path / f"{i}.png")
    row = decoding.measure(tmp_path, 100)
    assert (row["images"], row["mean_pixels"]) == (6, 250)
    assert row["mean_bytes"] == pytest.approx(sum(file.stat().st_size for file in tmp_path.iterdir()) / 6)
    assert 0 < row["mean_ms"] < 1000
    assert decoding.measure(tmp_path, 2)["images"] == 2


def test_decoding_of_imagenet_lies_on_the_line(monkeypatch):
    monkeypatch.setattr(assumptions, "IMAGE_PIXELS", 250)
    rows = [
        {"mean_pixels": 100, "mean_ms": 1.0, "deviation_ms": 0.1},
        {"mean_pixels": 300, "mean_ms": 3.0, "deviation_ms": 0.5},
    ]
    assert scale.decoding({"decoding": {"rows": rows}}) == pytest.approx((0.0025, 0.0004))


def test_the_plan_by_hand():
    plan = cells(scale.plan_table(RECORDS))
    # 2,000 images a second on each GPU
    assert plan["images to read and decode, per second"] == ["16,000", "128,000", "1,024,000"]
    # 115.4 kB each
    assert plan["from storage, GB/s"] == ["1.8", "14.8", "118.2"]
    assert plan["images per step, 128 per GPU"] == ["1,024", "8,192", "65,536"]
    # 0.1 for 256, by the ratio; 0.005 for 2,048, by its root
    assert plan["learning rate by resnet50_an.yaml (linear)"] == ["0.4", "3.2", "25.6"]
    assert plan["learning rate by modern_resnet50_an.yaml (sqrt)"] == ["0.005", "0.0141", "0.04"]
    assert plan["an epoch of ImageNet, seconds"] == ["80.1", "10.0", "1.3"]


def test_what_is_assumed_is_told():
    text = scale.assumptions(RECORDS)
    for value in ("2,000 images/s", "200 GB/s", "1.5 µs", "100 GB/s", "5 µs", "115 kB", "0.3 s", "48 hours", "180 s"):
        assert value in text
