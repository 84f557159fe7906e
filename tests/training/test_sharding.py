"""Strategy fsdp on two processes of a CPU: the same run as with ddp, in parts, and as exact to resume."""

import random
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from attnorm.errors import ConfigError
from attnorm.training.checkpoint import load_checkpoint
from attnorm.training.checks import check_recipe
from attnorm.training.config import TrainConfig
from attnorm.training.loop import fit
from tests.fuzz import NIGHTLY
from tests.processes import run_together
from tests.training import sharded, together
from tests.training.dying import Runs
from tests.training.runs import assert_same_weights, newest, weights


def sharded_config(folder, **changes):
    settings = {"model": "resnet8_cifar_an", "dataset": "digits", "epochs": 2, "batch_size": 60, "lr": 0.05}
    settings |= {"sync_bn": True, "strategy": "fsdp", "drop": 0.2, "mixup": 0.2, "output": str(folder / "run")}
    return TrainConfig(**{**settings, **changes})


RECIPES = {
    "sgd": {"clip_grad": 0.5, "decay_norm": "no_norm"},
    "adamw, accumulated": {"opt": "adamw", "lr": 0.001, "grad_accum_steps": 2},
    "bfloat16": {"amp": True},
}


def test_the_weights_are_those_of_ddp(tmp_path, tally):
    """Two processes of each; sums in another order are all that differs, and bfloat16's steps are coarser."""
    pairs = [sharded_config(tmp_path, epochs=1, **changes) for changes in RECIPES.values()]
    configs = [replace(config, strategy=strategy) for config in pairs for strategy in ("ddp", "fsdp")]
    tally["processes"] += len(run_together(together.fits, 2, tmp_path, configs, tmp_path))
    for number, name in enumerate(RECIPES):
        ddp, fsdp = (weights(replace(configs[0], output=f"{tmp_path}/run{2 * number + i}")) for i in range(2))
        assert ddp.keys() == fsdp.keys()
        tolerance = {"rtol": 1e-2, "atol": 1e-3} if name == "bfloat16" else {"rtol": 1e-4, "atol": 1e-6}
        assert_close(fsdp, ddp, **tolerance, msg=lambda text, name=name: f"{name}: {text}")
    network, meta = load_checkpoint(f"{tmp_path}/run1/last.safetensors")  # a file as any other
    assert meta.model == "resnet8_cifar_an"
    assert_same_weights(dict(network.state_dict()), weights(replace(configs[0], output=f"{tmp_path}/run1")))


def test_each_process_has_its_part(tmp_path):
    """Parts of two processes: half of every tensor's rows each, but for odd numbers of them."""
    parts = run_together(sharded.held, 2, tmp_path, sharded_config(tmp_path, epochs=1), tmp_path)
    for kind in ("weights", "momenta"):
        assert sum(int(part[kind]) for part in parts) == int(parts[0]["all"])
        assert max(int(part[kind]) for part in parts) < 0.52 * int(parts[0]["all"])
    state = torch.load(newest(tmp_path / "held"), weights_only=True)
    momenta = [value["momentum_buffer"] for value in state["optimizer_states"][0]["state"].values()]
    assert sum(momentum.numel() for momentum in momenta) == int(parts[0]["all"])  # whole in the file


def test_a_killed_run_ends_as_if_nobody_had(tmp_path, tally):
    """SIGKILL between batches, in evaluations, which the processes do with unequal batches, and in writing files."""
    config = sharded_config(tmp_path / "whole", epochs=1, recovery_interval=2)
    runs = Runs(processes=2)
    points = runs.start(config)
    assert points is not None
    kills = [random.randint(1, points) for _ in range(10)] if NIGHTLY else [points // 2, points // 4]
    for number, kill in enumerate(kills):
        broken = replace(config, output=str(tmp_path / f"broken {number // 2}" / "run"), resume="auto")
        tally["kills"] += runs.start(broken, last=kill) is None
        if number % 2:
            runs.start(broken)
            assert_same_weights(weights(broken), weights(config))
            assert_same_weights(weights(broken, "best"), weights(config, "best"))
    runs.close()
    assert tally["kills"] >= len(kills) // 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sync_bn": False}, "strategy fsdp needs sync_bn"),
        ({"model_ema": True}, "model_ema does not go together with strategy fsdp"),
        ({"torchcompile": True}, "torchcompile does not go together"),
        ({"channels_last": True}, "channels_last does not go together"),
        ({"amp": True, "amp_dtype": "float16"}, "amp_dtype float16 does not go together"),
        ({"opt": "lamb"}, "opt must be sgd or adamw with strategy fsdp; got lamb"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        check_recipe(sharded_config(tmp_path, **changes))


def test_one_process_has_nothing_to_shard(tmp_path):
    with pytest.raises(ConfigError, match="strategy fsdp is for several processes, and this is one"):
        fit(sharded_config(tmp_path), quiet=True)
    assert list(tmp_path.iterdir()) == []
