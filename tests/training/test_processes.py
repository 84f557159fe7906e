"""Two processes on a CPU, as torchrun starts them."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from attnorm.errors import ConfigError
from attnorm.training.loop import fit
from attnorm.training.processes import Processes, choose_device
from attnorm.training.record import RunRecord

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "attnorm.cli"]


def test_place_among_the_processes(monkeypatch):
    for name, value in (("RANK", 5), ("WORLD_SIZE", 8), ("LOCAL_RANK", 1), ("LOCAL_WORLD_SIZE", 4)):
        monkeypatch.setenv(name, str(value))
    assert Processes.from_environment() == Processes(rank=5, count=8, local_rank=1, local_count=4)
    monkeypatch.setenv("RANK", "one")
    with pytest.raises(ConfigError, match="as torchrun sets them"):
        Processes.from_environment()
    monkeypatch.delenv("WORLD_SIZE")
    assert Processes.from_environment() == Processes()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_is_not_replaced_silently():
    with pytest.raises(ConfigError, match="needs a CUDA device"):
        choose_device("cuda", Processes())
    assert choose_device("auto", Processes()) == torch.device("cpu")


def test_two_processes_train_as_one_and_evaluate_exactly(tiny, elsewhere, tmp_path):
    """With synchronised statistics two processes of 125 images make the steps of one process of 250.

    797 test images do not divide by two: every one counts once.
    """
    one = elsewhere(tiny, "one", batch_size=250, epochs=1)
    record = fit(one, quiet=True)
    two = replace(one, output=str(tmp_path / "two"), batch_size=125, sync_bn=True)
    flags = ["--model", two.model, "--output", two.output, "--epochs", "1", "--batch-size", "125", "--lr", "0.05"]
    flags.append("--sync-bn")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*TORCHRUN, "train", *flags], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("top-1") == 1  # one process speaks
    assert done.stderr.count("epoch 1/1") == 1
    together = RunRecord.from_dict(json.loads((tmp_path / "two" / "record.json").read_text()))
    assert together.processes == 2
    assert [row["val_count"] for row in together.history] == [797]
    assert together.history[0]["step"] == record.history[0]["step"] == 4
    # Sums of float32 in another order; four steps, because ReLU's kinks make the difference grow with every step.
    assert together.history[0]["train_loss"] == pytest.approx(record.history[0]["train_loss"], rel=1e-5)
    weights = [load_file(f"{config.output}/last.safetensors") for config in (one, two)]
    torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-4)

    checkpoint, answer = tmp_path / "two" / "last.safetensors", tmp_path / "answer.json"
    command = [*TORCHRUN, "eval", "--checkpoint", str(checkpoint), "--json", str(answer)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    result = json.loads(answer.read_text())
    assert (result["count"], result["top1"], result["top5"]) == (797, together.top1, together.top5)
