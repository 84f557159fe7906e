"""Two processes on a CPU, as torchrun starts them."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from attnorm.errors import ConfigError
from attnorm.training.loop import fit
from attnorm.training.processes import Processes, choose_device
from attnorm.training.record import RunRecord
from tests.processes import run_together
from tests.training import together
from tests.training.image_folder import write_images
from tests.training.runs import assert_same_weights, weights

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


def test_tasks_of_srun_that_would_each_train_for_themselves(monkeypatch):
    """All in the same output. torchrun's processes, in a task of srun, have their own variables."""
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    with pytest.raises(ConfigError, match="srun must start one torchrun per machine, and has started 2 tasks"):
        Processes.from_environment()
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "1")
    assert Processes.from_environment() == Processes(1, 1, 1, 1)


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


@pytest.mark.parametrize("count", [2, 4])
def test_steps_of_several_processes_are_those_of_the_whole_batch(tmp_path, tally, count):
    """Gradients, weights and all running statistics, AN's attention norms included, to the rounding of float64."""
    truth = together.training_steps()
    assert any(name.endswith("attention.logits.norm.running_var") for name in truth)
    for found in run_together(together.training_steps, count, tmp_path):
        assert found.keys() == truth.keys()
        for name, expected in truth.items():
            assert_close(found[name], expected, rtol=1e-11, atol=1e-12, msg=lambda text, n=name: f"{n}: {text}")
        tally["processes"] += 1


def test_four_processes_train_as_one(tiny, tmp_path):
    """Whole runs: the same steps, numbers and weights as one process that takes all four batches together."""
    one = replace(tiny, output=str(tmp_path / "one"), batch_size=240, epochs=1)
    record = fit(one, quiet=True)
    four = replace(one, batch_size=60, sync_bn=True)
    found, *_ = run_together(together.fits, 4, tmp_path / "meeting", [four], tmp_path / "runs")
    # Sums of float32 in another order, through the few steps of an epoch; a share of a batch too many would be far off.
    torch.testing.assert_close(found[0], weights(one), rtol=1e-3, atol=1e-4)
    row = json.loads((tmp_path / "runs" / "run0" / "record.json").read_text())["history"][0]
    assert (row["step"], row["val_count"]) == (record.history[0]["step"], 797)
    assert row["train_loss"] == pytest.approx(record.history[0]["train_loss"], rel=1e-5)


def test_weights_do_not_depend_on_the_number_of_workers(tiny, tmp_path, tally):
    """Order, augmentation and mixup of two processes: bit for bit, whoever reads the files."""
    data = str(write_images(tmp_path / "data"))
    base = replace(tiny, dataset="folder", data_dir=data, image_size=16, batch_size=6, aa="rand-m9", mixup=0.2)
    configs = [replace(base, workers=workers) for workers in (0, 1, 2)]
    (first, *others), same = run_together(together.fits, 2, tmp_path / "meeting", configs, tmp_path / "runs")
    for found in [*others, *same]:
        assert_same_weights(found, first)
        tally["runs"] += 1
    (other_seed,), _ = run_together(together.fits, 2, tmp_path / "again", [replace(base, seed=1)], tmp_path / "other")
    assert not torch.equal(other_seed["conv1.weight"], first["conv1.weight"])


def test_a_process_that_hangs_is_not_waited_for_without_end(tmp_path):
    answer, *_ = run_together(together.waiting_for_one_that_hangs, 2, tmp_path, 4)
    assert "all processes of a run must be there and answer" in answer
    assert "Timed out" in answer
