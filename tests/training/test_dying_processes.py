"""One process of a torchrun job dies, or torchrun itself: everything ends by itself, and the reason is on stderr."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.training.image_folder import write_images

HANG = 60  # seconds after which a process that should end by itself counts as one that hangs; it is no measure of speed
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
pytestmark = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for processes in /proc")


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path / "data", broken=True)


class Job:
    """A run of torchrun with its processes and their loaders' workers, all of which are gone in the end."""

    def __init__(self, folder: Path, data: Path, processes: int, *flags: str) -> None:
        self.output, self.log = folder / "run", folder / "stderr"
        command = [*TORCHRUN, str(processes), "-m", "attnorm.cli", "train", "--model", "resnet8_cifar_an"]
        command += ["--dataset", "folder", "--data-dir", str(data), "--image-size", "16", "--batch-size", "4"]
        command += ["--lr", "0.01", "--workers", "1", "--output", str(self.output), "--progress", "none", *flags]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with self.log.open("w") as log:
            self.torchrun = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=log)
        self.family: list[int] = []

    def wait_until_it_trains(self) -> list[int]:
        """The ranks' processes, each of which has a worker by then."""
        deadline = time.monotonic() + 120
        while not (self.output / "metrics.csv").exists():
            assert self.torchrun.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)
        ranks = children(self.torchrun.pid)
        self.family = [*ranks, *(worker for rank in ranks for worker in children(rank))]
        assert len(self.family) > len(ranks)
        return ranks

    def wait_for_the_end(self) -> tuple[int, list[str]]:
        """Torchrun's exit code and what is on stderr, once nothing of the job is left."""
        code = self.torchrun.wait(timeout=120)
        deadline = time.monotonic() + HANG
        while any(is_alive(process) for process in self.family):
            assert time.monotonic() < deadline, f"still there: {[p for p in self.family if is_alive(p)]}"
            time.sleep(0.1)
        return code, self.log.read_text().splitlines()

    def __enter__(self) -> "Job":
        return self

    def __exit__(self, *_: object) -> None:
        for process in (*self.family, self.torchrun.pid):
            if is_alive(process):
                os.kill(process, signal.SIGKILL)
        self.torchrun.wait()


def children(process: int) -> list[int]:
    threads = Path(f"/proc/{process}/task").iterdir()
    return [int(child) for thread in threads for child in (thread / "children").read_text().split()]


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def said(lines: list[str], rank: int) -> list[str]:
    """What one process says of its end, torchrun's summary aside."""
    return [line for line in lines if line.startswith(f"attnorm: rank {rank} of ")]


def test_a_failing_rank_ends_the_job_with_its_reason(images, tmp_path, tally):
    """Only rank 1 finds too many unreadable images; torchrun's summary ends with that, as the root cause."""
    with Job(tmp_path, images, 2, "--max-bad-images", "3", "--epochs", "100") as job:
        code, lines = job.wait_for_the_end()
    assert code == 1
    reason = "attnorm: rank 1 of 2: error: folder val: at most 3 images may be unreadable (max_bad_images); found 4"
    assert [line[: len(reason)] for line in said(lines, 1)] == [reason]
    assert len(said(lines, 0)) <= 1  # torchrun may be quicker than the broken connection
    cause = "\n".join(lines).partition("Root Cause")[2]
    assert reason in cause
    assert not any(line.startswith("Traceback") for line in lines[: lines.index(said(lines, 1)[0])])
    tally["failed ranks"] += 1


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_a_killed_rank_ends_the_job(images, tmp_path, tally, processes):
    with Job(tmp_path, images, processes, "--max-bad-images", "40", "--epochs", "10000") as job:
        ranks = job.wait_until_it_trains()
        os.kill(ranks[1], signal.SIGKILL)
        code, lines = job.wait_for_the_end()
    assert code == 1
    assert said(lines, 1) == []
    assert all(len(said(lines, rank)) <= 1 for rank in range(processes))  # and torchrun may be quicker than they are
    assert not any(
        "Traceback" in line for line in lines[: next(n for n, line in enumerate(lines) if "(exitcode" in line)]
    )
    cause = "\n".join(lines).partition("Root Cause")[2]
    assert "rank      : 1 " in cause
    assert "SIGKILL" in cause
    tally["killed ranks"] += 1


def test_processes_end_when_torchrun_is_killed(images, tmp_path, tally):
    """They and their workers would otherwise go on for 10,000 epochs."""
    with Job(tmp_path, images, 2, "--max-bad-images", "40", "--epochs", "10000") as job:
        job.wait_until_it_trains()
        job.torchrun.kill()
        code, lines = job.wait_for_the_end()
    assert code == -signal.SIGKILL
    assert any(line.endswith("error: torchrun has ended, so this process ends") for line in lines)
    assert not any("Traceback" in line for line in lines)
    tally["killed launchers"] += 1
