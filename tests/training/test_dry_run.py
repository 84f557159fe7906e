"""`attnorm train --dry-run`: it says what a run would do and need, by the run itself, and leaves no trace."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from attnorm.cli import main
from attnorm.errors import ConfigError
from attnorm.options import parse_settings
from attnorm.training import trial
from attnorm.training.config import TrainConfig, recorded, resolve
from attnorm.training.dry_report import duration, schedule, size
from attnorm.training.dry_run import dry_run
from attnorm.training.loop import fit
from attnorm.training.memory import memory_there, memory_used
from attnorm.training.resume import states

from .narrow_detectors import shrink, tiny_config
from .runs import Stopped, stop_at


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Everything in a folder, itself included, with its time of change and its size."""
    found = [folder, *folder.rglob("*")]
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in found}


def report(config: TrainConfig) -> dict[str, str]:
    """The lines of a dry run by their subjects."""
    found: dict[str, str] = {}
    for line in dry_run(config)[2:-2]:
        subject = line[:10].strip() or next(reversed(found))
        found[subject] = f"{found.get(subject, '')}{line[10:]}\n"
    return found


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """A current folder that cannot be written to, beside that of the run."""
    folder = tmp_path / "nowhere"
    folder.mkdir()
    folder.chmod(0o555)
    monkeypatch.chdir(folder)
    yield tmp_path
    folder.chmod(0o755)


def test_the_numbers_are_those_of_the_run(tiny, nowhere):
    """Sizes on the disk against the files of a run; nothing is written by the dry run before it."""
    config = replace(tiny, model_ema=True, min_lr=0.001, workers=1)
    before = tree(nowhere)
    found = report(config)
    assert tree(nowhere) == before
    assert found["network"] == "resnet8_cifar_an, 0.08 M parameters to train\n"
    assert found["data"].startswith("digits: 10 classes, 1,000 images to train (10 batches of 100), 797 to evaluate\n")
    rates = "learning rate 0 to 0.05 in 0.2 epochs, then half a cosine down to 0.001 at the end of epoch 2"
    assert found["schedule"] == f"{rates}\n"
    assert found["start"] == f"with fresh weights, in {config.output}\n"
    fit(config, quiet=True)
    output = Path(config.output)
    weights, state = (output / "last.safetensors").stat().st_size, states(output)[0].stat().st_size
    scale = {"kB": 1e3, "MB": 1e6, "GB": 1e9}
    said = [float(number) * scale[unit] for number, unit in re.findall(r"([\d.]+) (.B)", found["disk"])]
    # Beside the tensors a file has their names: some kilobytes of these files, nothing of larger ones.
    assert said[:2] == [pytest.approx(weights, rel=0.05), pytest.approx(state, rel=0.1)]
    assert "dry_run" not in (output / "config.yaml").read_text()
    assert "dry_run" not in recorded(config)


def test_a_run_that_would_go_on(tiny, nowhere, monkeypatch):
    config = replace(tiny, recovery_interval=3)
    with monkeypatch.context() as patch:
        stop_at(patch, 1, 8)
        with pytest.raises(Stopped):
            fit(config, quiet=True)
    before = tree(nowhere)
    with pytest.raises(ConfigError, match="--resume auto"):
        dry_run(config)
    found = report(replace(config, resume="auto"))
    assert found["start"] == f"goes on from {config.output}/resume-00000016.ckpt, with epoch 2, batch 7\n"
    with pytest.raises(ConfigError, match="lr"):
        dry_run(replace(config, resume="auto", lr=0.1))
    assert tree(nowhere) == before
    fit(replace(config, resume="auto"), quiet=True)
    assert dry_run(replace(config, resume="auto")) == [
        f"{config.output} holds this run already, finished: nothing is left to do"
    ]


def test_a_detector(nowhere, monkeypatch):
    shrink(monkeypatch)
    config = tiny_config(nowhere / "run", sched="multistep", decay_milestones=(1,), warmup_iters=3)
    before = tree(nowhere)
    found = report(config)
    assert tree(nowhere) == before
    assert "8 images to train (4 batches of 2), 5 to evaluate" in found["data"]
    assert found["schedule"] == "learning rate 0 to 0.01 in 3 steps, then times 0.1 after epoch 1; 2 epochs\n"


def test_steps_are_those_of_the_recipe(tiny, monkeypatch):
    """Sums of gradients, and one batch more, for which the optimizer's state is in memory; precision and batch size."""
    seen = []
    original = trial.Trial.on_train_batch_end

    def watch(self, trainer, module, outputs, batch, index):
        seen.append((len(batch[1]), trainer.precision, trainer.global_step))
        original(self, trainer, module, outputs, batch, index)

    monkeypatch.setattr(trial.Trial, "on_train_batch_end", watch)
    dry_run(replace(tiny, amp=True, grad_accum_steps=4, batch_size=50))
    assert seen == [(50, "bf16-mixed", step) for step in (0, 0, 0, 1, 2)]


def test_an_epoch_of_one_batch_is_enough(tiny):
    found = report(replace(tiny, batch_size=900))
    assert "(1 batch of 900)" in found["data"]
    assert re.match(r"about [\d.]+ m?s a batch", found["time"])


@pytest.mark.slow
def test_two_processes_and_one_voice(tiny, nowhere):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "attnorm.cli",
    ]
    flags = [
        "train",
        "--dry-run",
        "--model",
        tiny.model,
        "--output",
        tiny.output,
        "--epochs",
        "2",
        "--batch-size",
        "50",
    ]
    before = tree(nowhere)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *flags], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the run would start") == 1
    assert "10 batches of 50 in each of 2 processes" in done.stdout
    assert "100 images a step" in done.stdout
    assert tree(nowhere) == before


def no_room(patch):
    usage = shutil.disk_usage("/")
    patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))


def no_rights(patch):
    patch.setattr(os, "access", lambda path, mode: False)


def no_memory(patch):
    class Properties:
        total_memory = 4_000_000_000

    def fail(*arguments):
        raise torch.OutOfMemoryError

    patch.setattr("attnorm.training.trainer.run_trainer", fail)
    patch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_room, r"must have room for 3\.0 MB of checkpoints, and has 1\.0 MB"),
        (no_rights, "output must be a folder that can be written to"),
        (no_memory, r"step of batch_size 100 must fit into the memory of cpu, 4\.0 GB.*smaller batch_size"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_in_the_way_exits_with_1_and_one_line(tiny, nowhere, monkeypatch, capsys, damage, message):
    damage(monkeypatch)
    arguments = ["train", "--dry-run", "--model", tiny.model, "--batch-size", "100", "--output", tiny.output]
    before = tree(nowhere)
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(rf"attnorm: error: .*{message}.*\n", err)
    assert tree(nowhere) == before


def test_unreadable_images(nowhere, capsys):
    """One is left out if that is allowed, and named; else it is in the way."""
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            folder = nowhere / "images" / part / name
            folder.mkdir(parents=True)
            for number in range(4):
                pixels = np.random.default_rng(number).integers(0, 255, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    (nowhere / "images" / "train" / "dog" / "2.png").write_bytes(b"no image")
    flags = ["--model", "resnet8_cifar_an", "--dataset", "folder", "--data-dir", str(nowhere / "images")]
    flags += ["--image-size", "32", "--batch-size", "4", "--epochs", "1", "--output", str(nowhere / "run")]
    before = tree(nowhere)
    assert main(["train", "--dry-run", *flags, "--max-bad-images", "1"]) == 0
    assert re.search(r"1 image could not be: .*dog/2\.png", capsys.readouterr().out)
    assert main(["train", "--dry-run", *flags, "--max-bad-images", "0"]) == 1
    assert "dog/2.png" in capsys.readouterr().err
    assert tree(nowhere) == before


def test_wrong_arguments_exit_with_2(tiny, capsys):
    assert main(["train", "--dry-run", "--model", tiny.model, "--output", tiny.output, "--warmup-epochs", "900"]) == 2
    assert "warmup_epochs" in capsys.readouterr().err


def test_fit_does_not_take_a_dry_run_for_a_run(tiny):
    with pytest.raises(ConfigError, match=r"attnorm\.training\.dry_run"):
        fit(replace(tiny, dry_run=True))
    assert not Path(tiny.output).exists()


def test_memory_is_what_the_process_has():
    """A hundred megabytes more, then gone again: the peak stays."""
    device = torch.device("cpu")
    before = memory_used(device)
    if before["rss_bytes"] is None:
        pytest.skip("the system does not tell")
    block = torch.ones(100_000_000, dtype=torch.uint8)
    during = memory_used(device)
    assert during["rss_bytes"] - before["rss_bytes"] == pytest.approx(len(block), rel=0.1)
    assert during["rss_peak_bytes"] >= during["rss_bytes"]
    assert during["rss_bytes"] < memory_there(device)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"warmup_epochs": 0, "lr": 0.1}, "learning rate 0.1, half a cosine down to 0 at the end of epoch 120"),
        (
            {
                "sched": "multistep",
                "decay_milestones": (30, 60, 90),
                "lr_base": 0.1,
                "batch_size": 512,
                "warmup_lr": 0.02,
            },
            "learning rate 0.02 to 0.2 in 5 epochs, then times 0.1 after epochs 30, 60 and 90; 120 epochs",
        ),
    ],
)
def test_the_schedule_in_words(changes, words):
    config = resolve(TrainConfig(model="resnet8_cifar", output="runs/x", **changes))
    assert schedule(config, config.peak_lr()) == words


def masked(lines: Iterable[str]) -> list[str]:
    """A report without what is measured."""
    return [re.sub(r"\d+:\d\d:\d\d|[\d.,]+ (ms|s|.B|images/s)\b", "#", line) for line in lines]


def test_the_docs_show_what_is_printed(tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "watching.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    command = re.search(r"^    attnorm train (.*--dry-run)$", page, re.MULTILINE)
    assert command is not None
    config = parse_settings(TrainConfig, command[1].split(), command="attnorm train", recipe=True)
    shown = page[page.index("<!-- dry run:begin -->") : page.index("<!-- dry run:end -->")].splitlines()[2:-1]
    printed = [f"    {line}".rstrip() for line in dry_run(replace(config, device="cpu"))]
    # Which notes on reading there are is another matter in each run.
    assert masked(line for line in printed if "reading:" not in line) == masked(shown)


def test_sizes_and_times_for_a_person():
    assert [size(count) for count in (999, 1_500, 97_500_000, 234_000_000, 1_200_000_000)] == (
        ["999 bytes", "1.5 kB", "97.5 MB", "234 MB", "1.2 GB"]
    )
    assert [duration(seconds) for seconds in (0.0042, 0.25, 12.34, 3_600.4, 90_061)] == (
        ["4.2 ms", "250 ms", "12.3 s", "1:00:00", "1 day, 1:01:01"]
    )
