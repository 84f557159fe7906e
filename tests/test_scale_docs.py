"""docs/scale.md is up to date, its commands are commands, and the SLURM script does what it says."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.run import get_args_parser

from attnorm.options import parse_settings
from attnorm.training.checks import check_recipe
from attnorm.training.config import TrainConfig
from benchmarks import scale

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
SCRIPT = ROOT / "configs" / "slurm" / "train.sbatch"
USER = "--config configs/imagenet/resnet50_an.yaml --data-dir DIR --output DIR"
# Writes down how it was called; then it ends with the code it is told, or waits for SIGUSR1 and ends with 1.
TORCHRUN = """#!{python}
import json, os, signal, sys, time
from pathlib import Path
folder = Path(os.environ["STAND_IN"])
signal.signal(signal.SIGUSR1, lambda *_: (time.sleep(0.3), os._exit(1)))
(folder / "called.part").write_text(json.dumps(sys.argv[1:]))
(folder / "called.part").rename(folder / "called")
if "CODE" in os.environ:
    sys.exit(int(os.environ["CODE"]))
time.sleep(60)
"""
SRUN = '#!/bin/bash\nwhile [ "$1" != torchrun ]; do shift; done\nexec "$@"\n'
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then tr , "\n" <<< "$3"; else echo "$@" >> "$STAND_IN/scontrol"; fi
"""


def test_the_page_is_up_to_date(capsys):
    assert scale.main(["--check"]) == 0, capsys.readouterr().err


def check_torchrun(arguments, monkeypatch):
    """Both halves of a command are taken by their parsers; the settings of each."""
    launch = get_args_parser().parse_args(arguments)
    assert launch.module
    assert launch.training_script == "attnorm.cli"
    assert launch.training_script_args[0] == "train"
    monkeypatch.chdir(ROOT)
    config = parse_settings(TrainConfig, launch.training_script_args[1:], command="train", recipe=True)
    check_recipe(config)
    return launch, config


def test_commands_on_the_page(monkeypatch):
    text = PAGE.replace("\\\n", " ")
    found = [shlex.split(line) for line in re.findall(r"^ {4}torchrun +(.*)", text, re.MULTILINE)]
    configs = [check_torchrun(arguments, monkeypatch)[1] for arguments in found]
    assert [config.resume for config in configs] == [None, "auto"]
    (shards,) = re.findall(r"^ {4}attnorm train (.*) \.\.\.$", PAGE, re.MULTILINE)
    settings = [*shlex.split(shards), "--model", "resnet50_an", "--output", "o"]
    assert parse_settings(TrainConfig, settings, command="train", recipe=True).shard_window == 16
    (submitted,) = re.findall(r"^ {4}sbatch configs/slurm/train\.sbatch (.*)", PAGE, re.MULTILINE)
    assert submitted == USER
    for link in re.findall(r"\]\((\.\./[^)#]+)\)", PAGE):
        assert (ROOT / "docs" / link).exists(), link


@pytest.fixture
def job(tmp_path):
    """Starts the script as SLURM would, its commands being stand-ins."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("torchrun", TORCHRUN.format(python=sys.executable)), ("srun", SRUN), ("scontrol", SCONTROL)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    slurm = {"SLURM_JOB_ID": "77", "SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "node7,node8", "SLURM_GPUS_ON_NODE": "4"}
    base = {**os.environ, **slurm, "PATH": f"{programs}:{os.environ['PATH']}", "STAND_IN": str(tmp_path)}

    def start(arguments=USER, **more):
        return subprocess.Popen(["bash", str(SCRIPT), *shlex.split(arguments)], env={**base, **more}, cwd=ROOT)

    return start


def wait_for(path, seconds=30):
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.02)
    return path


def test_the_script_starts_one_run_on_all_machines(job, tmp_path, monkeypatch):
    assert job(CODE="0").wait(30) == 0
    launch, config = check_torchrun(json.loads((tmp_path / "called").read_text()), monkeypatch)
    assert (launch.nnodes, launch.nproc_per_node, launch.rdzv_backend) == ("2", "4", "c10d")
    assert (launch.rdzv_endpoint, launch.rdzv_id) == ("node7:29500", "77-0")
    assert {"SIGTERM", "SIGUSR1"} <= set(launch.signals_to_handle.split(","))
    assert (config.model, config.resume) == ("resnet50_an", "auto")
    assert not (tmp_path / "scontrol").exists()


def test_when_time_is_up_the_job_goes_back_into_the_queue(job, tmp_path):
    """After the run has ended, and not where it failed of itself."""
    process = job()
    wait_for(tmp_path / "called")
    process.send_signal(signal.SIGUSR1)
    assert process.wait(30) == 1
    assert (tmp_path / "scontrol").read_text() == "requeue 77\n"
    (tmp_path / "scontrol").unlink()
    assert job(CODE="3").wait(30) == 3
    assert not (tmp_path / "scontrol").exists()


@pytest.mark.slow
def test_a_job_whose_time_was_up_ends_as_one_that_had_time(job, tmp_path, tally):
    """With the real torchrun: two processes are told in the middle, and the job is started again."""
    (tmp_path / "bin" / "torchrun").unlink()
    here = {
        "SLURM_NNODES": "1",
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_GPUS_ON_NODE": "2",
        "PATH": f"{tmp_path}/bin:{Path(sys.executable).parent}:/bin",
    }
    run = "--model resnet8_cifar_an --dataset digits --device cpu --batch-size 32 --epochs 4 --output"
    assert job(f"{run} {tmp_path}/whole", **here).wait(200) == 0
    process = job(f"{run} {tmp_path}/told", **here)
    wait_for(tmp_path / "told" / "log.jsonl", seconds=100)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(100) == 1
    assert (tmp_path / "scontrol").read_text() == "requeue 77\n"
    assert not (tmp_path / "told" / "record.json").exists()
    assert job(f"{run} {tmp_path}/told", **here).wait(200) == 0
    whole, told = (load_file(tmp_path / name / "last.safetensors") for name in ("whole", "told"))
    assert whole.keys() == told.keys()
    assert all(torch.equal(whole[name], told[name]) for name in whole)
    tally["processes told to stop"] += 2
