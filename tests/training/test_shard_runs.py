"""Training from shards that are read a few at a time, in processes that are killed."""

from dataclasses import replace

import pytest

from attnorm.training.config import TrainConfig
from tests.data.shard_files import write_image_shards
from tests.training.dying import Runs
from tests.training.runs import assert_same_weights, weights


@pytest.mark.slow
def test_a_killed_run_reads_the_rest_of_its_shards(tmp_path, tally):
    """Two processes with a state after every batch: within shards of 7 to 12 images and at their ends."""
    write_image_shards(tmp_path, [7, 12, 9, 10, 10], "train")
    write_image_shards(tmp_path, [9], "val")
    config = TrainConfig(
        model="resnet8_cifar_an",
        dataset="wds:",
        data_dir=str(tmp_path),
        image_size=16,
        shard_window=1,
        epochs=2,
        batch_size=3,
        recovery_interval=1,
        sync_bn=True,
        output=str(tmp_path / "whole" / "run"),
    )
    runs = Runs(processes=2)
    points = runs.start(config)
    assert points is not None
    broken = replace(config, output=str(tmp_path / "broken" / "run"), resume="auto")
    for part in (5, 4, 3):
        assert runs.start(broken, last=points // part) is None
        tally["kills"] += 1
    runs.start(broken)
    runs.close()
    assert_same_weights(weights(broken), weights(config))
