"""Shards read by processes that are killed and go on: the images, and the memory that it takes."""

import json
import mmap
import os

import numpy as np
import pytest

from benchmarks import shard_readers, shards


def test_killed_in_mid_epoch_every_image_is_read_once(tmp_path, tally):
    """The script itself compares what each process has read in two epochs with its orders."""
    small = {
        "gigabytes": 0.03,
        "shards": 6,
        "processes": 2,
        "workers": 0,
        "batch-size": 2,
        "save-steps": 1,
        "pause": 0.02,
    }
    flags = [f"--{name}={value}" for name, value in small.items()]
    assert shards.main([*flags, "--json", str(tmp_path / "shards.json")]) == 0
    record = json.loads((tmp_path / "shards.json").read_text())
    (row,) = record["rows"]
    assert record["finished"] is not None
    assert row["bytes"] == pytest.approx(0.03e9, rel=0.05)
    assert row["steps_per_epoch"] // 2 <= row["killed_after_step"] < row["steps_per_epoch"]
    assert row["index_bytes_per_image"] == 24
    tally["processes killed"] += 2
    tally["images"] += row["images"]


def test_an_image_read_twice_is_noticed(monkeypatch, tmp_path):
    """What processes say that they have read is compared, not counted."""
    starts = np.array([0, 4, 8])
    orders = [shards.ShardWindows(starts=starts, window=1).order(0, epoch, 0, 1).tolist() for epoch in range(2)]
    reading = shard_readers.Reading(
        folder=str(tmp_path), attempt=0, rank=0, processes=1, workers=0, batch_size=2, window=1, epochs=2, save_steps=1
    )
    shards.check_labels([{"labels": orders}], starts, reading)
    orders[1][3] = orders[1][2]
    with pytest.raises(RuntimeError, match="process 0 must read its order of epoch 1"):
        shards.check_labels([{"labels": orders}], starts, reading)


def test_memory_is_seen_and_its_growth_is_a_slope():
    """By hand: 10 MB held are 10 MB; 3 bytes a second over the last 80 of 100 seconds are 240 bytes."""
    before = shards.memory(os.getpid())
    held = mmap.mmap(-1, 10_000_000, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # no memory that was freed before
    held.write(bytes(len(held)))
    assert shards.memory(os.getpid()) - before == pytest.approx(len(held), rel=0.05)
    assert shards.memory(2**22 + 1) == 0
    clock = np.arange(0, 101.0)
    samples = np.stack([1000 + clock, 5 + 3 * clock, np.where(clock < 20, 1e6 * clock, 7.0)], axis=1)
    assert shards.growth(samples, 1000, 1100) == pytest.approx([240, 0], abs=1e-6)
