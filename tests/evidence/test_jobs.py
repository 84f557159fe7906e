"""Trainings at once: the same results as one after another, and nothing lost or left over when something is ended."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from attnorm.errors import ConfigError, DataError, JobError
from attnorm.evidence import compare_cost, compare_runs
from attnorm.evidence.compare import compare
from attnorm.evidence.config import CompareConfig
from attnorm.evidence.console import ComparisonProgress
from attnorm.evidence.jobs import LOG, environments
from attnorm.training.metric import TOP1

MODELS, SEEDS, EPOCHS = ("resnet8_cifar", "resnet8_cifar_an:num_components=2"), (0, 1), 5
needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are found in /proc")


def settings(output: Path, **changes: Any) -> CompareConfig:
    small = {
        "models": ",".join(MODELS),
        "seeds": "0,1",
        "epochs": EPOCHS,
        "batch_size": 100,
        "device": "cpu",
        "jobs": 2,
    }
    return CompareConfig(output=str(output), progress="plain", **{**small, **changes})


def start(output: Path, *, epochs: int) -> "subprocess.Popen[str]":
    """`attnorm compare` of the settings above, in a process of its own."""
    arguments = ["compare", "--models", ",".join(MODELS), "--seeds", "0,1", "--epochs", str(epochs), "--jobs", "2"]
    arguments += ["--batch-size", "100", "--device", "cpu", "--output", str(output)]
    code = "import sys; from attnorm.cli import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Where the tests run in the background of a script, interrupts are ignored, which would be inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def children(pid: int) -> list[int]:
    """The processes that a process started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(holds: Callable[[], object], timeout_s: float = 300) -> None:
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def in_the_middle(output: Path) -> list[Path]:
    """Folders of the runs that have a state to go on from and are not finished."""
    folders = {path.parent for path in output.glob("runs/*/*/resume-*.ckpt")}
    return [folder for folder in folders if not (folder / "record.json").exists()]


def losses(folder: Path) -> list[float]:
    return [epoch["train_loss"] for epoch in json.loads((folder / "record.json").read_text())["history"]]


@pytest.fixture(scope="module", autouse=True)
def short_timing() -> Iterator[None]:
    """The times of the networks are not in question here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare_cost, "LIMIT_S", 1.0)
        yield


@pytest.fixture(scope="module")
def one_by_one(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The comparison without children, in this process, which has one thread as its children get."""
    output = tmp_path_factory.mktemp("one") / "out"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return output, compare(settings(output, jobs=1))
    finally:
        torch.set_num_threads(threads)


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the children."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.usefixtures("one_thread")
def test_results_are_those_of_one_after_another(
    one_by_one: tuple[Path, dict[str, Any]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    """Weights, losses and accuracies, bit for bit; in the same order, whichever run ended first."""
    folder, expected = one_by_one
    capfd.readouterr()
    result = compare(settings(tmp_path))
    said = capfd.readouterr().err
    assert sorted(re.findall(r"^\[(\d)/4\] \S+, seed \d: top-1 \d+\.\d\d% \(\d+ s\)$", said, re.M)) == list("1234")
    for ours, theirs in zip(result["runs"], expected["runs"], strict=True):
        assert (ours["model"], ours["seed"], ours["top1"]) == (theirs["model"], theirs["seed"], theirs["top1"])
        mine, reference = (
            {
                key: value
                for key, value in run["record"]["history"][-1].items()
                if "second" not in key and "share" not in key
            }
            for run in (ours, theirs)
        )
        assert mine == reference
        name = f"runs/{ours['model']}/seed{ours['seed']}"
        assert ours["record"]["environment"]["threads"] == 1
        weights, wanted = (load_file(root / name / "last.safetensors") for root in (tmp_path, folder))
        assert weights.keys() == wanted.keys()
        assert all(torch.equal(weights[key], wanted[key]) for key in wanted)
        log = (tmp_path / name / LOG).read_text()
        assert re.findall(r"epoch (\d)/5  train loss \d\.\d{4}  top-1 \d+\.\d\d%", log) == list("12345")
    assert [m["verdict"] for m in result["models"]] == [m["verdict"] for m in expected["models"]]

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*")}
    compare(settings(tmp_path))
    assert capfd.readouterr().err.count("done before") == 4
    assert {path: path.stat().st_mtime_ns for path in before} == before


@needs_proc
@pytest.mark.usefixtures("one_thread")
def test_a_child_that_is_killed(one_by_one: tuple[Path, dict[str, Any]], tmp_path: Path):
    """The other runs are finished; one line says what happened; the same command goes on, and ends the same."""
    parent = start(tmp_path, epochs=EPOCHS)
    wait_until(lambda: in_the_middle(tmp_path))
    os.kill(children(parent.pid)[0], signal.SIGKILL)
    _, said = parent.communicate(timeout=600)
    assert parent.returncode == 1
    last = said.strip().splitlines()[-1]
    assert re.fullmatch(
        r"attnorm: 1 of 4 runs ended early \(\S+, seed \d: SIGKILL, log in \S+/train.log\); the same command goes on",
        last.replace("error: ", ""),
    )
    assert len(list(tmp_path.glob("runs/*/*/record.json"))) == 3
    assert not (tmp_path / "compare.json").exists()

    result = compare(settings(tmp_path))
    assert [run["status"] for run in result["runs"]] == ["done"] * 4
    for folder in (f"runs/{model}/seed{seed}" for model in MODELS for seed in SEEDS):
        assert losses(tmp_path / folder) == losses(one_by_one[0] / folder)


@needs_proc
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_parent_that_is_ended_leaves_no_process(tmp_path: Path, number: signal.Signals):
    parent = start(tmp_path, epochs=50)
    wait_until(lambda: len(in_the_middle(tmp_path)) == 2)
    processes = children(parent.pid)
    assert len(processes) == 2
    os.kill(parent.pid, number)
    _, said = parent.communicate(timeout=120)
    wait_until(lambda: not any(alive(pid) for pid in processes), timeout_s=60)
    last = said.strip().splitlines()[-1] if said.strip() else ""
    if number == signal.SIGINT:
        assert (parent.returncode, last) == (130, "attnorm: interrupted")
        assert "stopped; the same command goes on from here" in said
        assert not list(tmp_path.rglob("*.part"))
    elif number == signal.SIGTERM:
        assert (parent.returncode, last) == (1, "attnorm: error: stopped by SIGTERM; the same command goes on")
    for folder in in_the_middle(tmp_path):
        state = torch.load(max(folder.glob("resume-*.ckpt")), map_location="cpu", weights_only=True, mmap=True)
        assert state["epoch"] >= 0


@pytest.mark.usefixtures("one_thread")
def test_what_stops_a_run_stops_the_comparison_as_without_children(tmp_path: Path):
    """A damaged state to go on from: the type of the error and its words are those of a run in this process."""
    config = settings(tmp_path)
    folder = Path(config.run_folder(MODELS[1], 0))
    folder.mkdir(parents=True)
    (folder / "resume-00000010.ckpt").write_bytes(b"no checkpoint")
    with pytest.raises(
        JobError, match=r"components=2, seed 0: .*resume-00000010\.ckpt must be the resume state.*train\.log"
    ):
        compare(config)
    assert "Traceback" in (folder / LOG).read_text()


def events(*said: dict[str, Any]) -> Callable[..., Any]:
    def train(runs: Any, environments: Any):
        for run in runs:
            for event in said:
                yield run, event

    return train


def test_a_diverged_run_is_a_result_here_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        compare_runs,
        "train_in_children",
        events({"event": "started"}, {"event": "diverged", "why": "the loss was nan"}),
    )
    runs = compare_runs.run_all(settings(tmp_path), (TOP1,), "none")
    assert [(run["status"], run["why"], run["top1"]) for run in runs] == [("failed", "the loss was nan", None)] * 4


@pytest.mark.parametrize(
    ("kind", "error"), [("ConfigError", ConfigError), ("DataError", DataError), ("ZeroDivisionError", JobError)]
)
def test_errors_keep_their_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, error: type[Exception]):
    told = {"event": "error", "kind": kind, "why": "something is wrong"}
    monkeypatch.setattr(compare_runs, "train_in_children", events(told))
    with pytest.raises(error, match="resnet8_cifar, seed 0: something is wrong"):
        compare_runs.run_all(settings(tmp_path), (TOP1,), "none")


def test_cores_are_shared_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(7)), raising=False)
    cpu = torch.device("cpu")
    assert environments(3, cpu) == [{"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}] * 3
    assert environments(9, cpu)[8] == {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert environments(3, cpu)[0]["OMP_NUM_THREADS"] == "4"


def test_devices_are_taken_in_turn(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    cuda = torch.device("cuda", 0)
    assert [e["CUDA_VISIBLE_DEVICES"] for e in environments(3, cuda)] == ["0", "1", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, GPU-ab")
    assert [e["CUDA_VISIBLE_DEVICES"] for e in environments(3, cuda)] == ["5", "GPU-ab", "5"]


def test_torchrun_and_jobs_exclude_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"jobs must be 1 under torchrun.* got jobs 2 in 2 processes"):
        compare(settings(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_progress_says_which_run_is_where(capfd: pytest.CaptureFixture[str]):
    with ComparisonProgress(3, 5, "plain", several=True, interval_s=0) as progress:
        progress.start_run("a", 0)
        progress.start_run("b", 0)
        progress.epoch_done("b", 0, 2)
        progress.epoch_done("a", 0, 1)
        progress.end_run("b", 0, "top-1 97.00%", trained=True)
        progress.epoch_done("a", 0, 2)
    assert capfd.readouterr().err.splitlines() == [
        "[0/3] running: a, seed 0: epoch 0/5; b, seed 0: epoch 2/5",
        "[0/3] running: a, seed 0: epoch 1/5; b, seed 0: epoch 2/5",
        "[1/3] b, seed 0: top-1 97.00% (0 s)",
        "[1/3] running: a, seed 0: epoch 2/5",
    ]
