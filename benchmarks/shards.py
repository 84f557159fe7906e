"""Reads generated shards of a few GB by several processes, kills them all half-way and lets them go on.

    python -m benchmarks.shards [--gigabytes 3] [--processes 4] [--json FILE]

Makes shards of JPEG images of noise in a temporary folder (TMPDIR) and removes them. Checks that every process has read
exactly the images that its order names, none twice and none left out by the kill, and measures the memory of each
process and its workers: Pss_Anon + Pss_Shmem of /proc/PID/smaps_rollup, without the page cache, memory that processes
share counted once. Linux only. Writes benchmarks/results/shards.json; docs/scale.md shows it.
"""

import argparse
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from attnorm.data.shard_order import ShardWindows
from attnorm.data.shards import read_wds
from benchmarks.record import ROOT, Record, options_of, parser
from benchmarks.shard_readers import Reading, command

SETTLED = 0.2  # memory is followed from here on, as a share of the time of reading


def write_shards(folder: Path, gigabytes: float, shards: int) -> np.ndarray:
    """Writes shards of together about so many GB (1e9 bytes); an image's label is its number.

    Returns:
        The number of each shard's first image, and at the end the number of images, (shards + 1,).
    """
    rng = np.random.default_rng(0)
    photographs: list[bytes] = []
    for width in range(600, 1100, 50):  # 200 to 360 kB each
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (500, width, 3), dtype=np.uint8)).save(file, "jpeg", quality=80)
        photographs.append(file.getvalue())
    count = round(gigabytes * 1e9 / np.mean([len(p) for p in photographs]))
    starts = np.linspace(0, count, shards + 1).astype(np.int64)
    for shard in range(shards):
        with tarfile.open(folder / f"train-{shard:05d}.tar", "w") as tar:
            for number in range(starts[shard], starts[shard + 1]):
                for extension, content in (("jpg", photographs[number % 10]), ("cls", str(number).encode())):
                    member = tarfile.TarInfo(f"{number:08d}.{extension}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return starts


def memory(pid: int) -> int:
    """Bytes of a process and its descendants, without the page cache; 0 when it has ended."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        children = [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in _children(task)]
    except OSError:
        return 0
    lines = (line.split() for line in rollup.splitlines()[1:])
    own = sum(int(line[1]) * 1024 for line in lines if line[0] in ("Pss_Anon:", "Pss_Shmem:"))
    return own + sum(memory(child) for child in children)


def _children(task: Path) -> list[str]:
    return (task / "children").read_text().split()


def start(reading: Reading) -> list[subprocess.Popen[bytes]]:
    """Starts the processes, each at the head of a group of its own, to which its workers belong."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    commands = [command(replace(reading, rank=rank)) for rank in range(reading.processes)]
    return [subprocess.Popen(line, cwd=ROOT, env=environment, start_new_session=True) for line in commands]


def kill(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """SIGKILL to every process and its workers."""
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    for process in processes:
        process.wait()


def watch(processes: Sequence[subprocess.Popen[bytes]], pause: float, until: Callable[[], bool]) -> np.ndarray:
    """Follows the processes to their end, or until something holds.

    Returns:
        Samples (T, 1 + processes): the clock in seconds, then the bytes of each process.
    """
    samples: list[list[float]] = []
    while any(process.poll() is None for process in processes) and not until():
        samples.append([time.time(), *(memory(process.pid) for process in processes)])
        if any(process.poll() for process in processes):
            raise RuntimeError("a process has failed; its message stands above")
        time.sleep(pause)
    return np.array(samples)


def growth(samples: np.ndarray, begin: float, end: float) -> np.ndarray:
    """Bytes that each process has grown by from SETTLED of the time to its end, by a straight line through them."""
    begin += SETTLED * (end - begin)
    times, *sizes = samples[(begin <= samples[:, 0]) & (samples[:, 0] <= end)].T
    return np.array([np.polyfit(times - begin, size, 1)[0] * (end - begin) for size in sizes])


def check_labels(answers: Sequence[dict[str, Any]], starts: np.ndarray, reading: Reading) -> None:
    """Raises RuntimeError unless each process has read what its order of each epoch says, to the last whole batch."""
    orders = ShardWindows(starts=starts, window=reading.window)
    for rank, epoch in product(range(reading.processes), range(reading.epochs)):
        expected = orders.order(0, epoch, rank, reading.processes)
        whole = len(expected) // reading.batch_size * reading.batch_size
        if answers[rank]["labels"][epoch] != expected[:whole].tolist():
            raise RuntimeError(f"process {rank} must read its order of epoch {epoch}, and has read other images")


def run(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Reads the shards twice over, with a kill in the middle of the first time; the row of the record."""
    starts = write_shards(folder, options.gigabytes, options.shards)
    steps = int(starts[-1]) // options.processes // options.batch_size
    begin = time.process_time()
    read_wds(folder, "train")
    index_seconds = time.process_time() - begin
    reading = Reading(
        folder=str(folder),
        attempt=0,
        rank=0,
        processes=options.processes,
        workers=options.workers,
        batch_size=options.batch_size,
        window=options.window,
        epochs=2,
        save_steps=options.save_steps,
    )

    def half_way() -> bool:
        return reading.state.exists() and torch.load(reading.state, weights_only=True)["step"] >= steps // 2

    processes: list[subprocess.Popen[bytes]] = []
    try:
        processes = start(reading)
        before = watch(processes, options.pause, half_way)
        if reading.answer.exists():
            raise RuntimeError("the processes must be killed in mid-epoch and were done before: give more gigabytes")
        kill(processes)
        killed_at = torch.load(reading.state, weights_only=True)["step"]
        processes = start(replace(reading, attempt=1))
        after = watch(processes, options.pause, lambda: False)
    finally:
        kill(processes)
    answers = [json.loads(replace(reading, rank=rank).answer.read_text()) for rank in range(options.processes)]
    check_labels(answers, starts, reading)
    begin, end = min(a["begin"] for a in answers), max(a["end"] for a in answers)
    return {
        "images": int(starts[-1]),
        "bytes": sum(path.stat().st_size for path in folder.glob("*.tar")),
        "steps_per_epoch": steps,
        "killed_after_step": killed_at,
        "index_us_per_image": 1e6 * index_seconds / int(starts[-1]),
        "index_bytes_per_image": answers[0]["index_bytes"] / int(starts[-1]),
        "seconds": end - begin,
        "images_per_second": (2 * steps - killed_at) * options.batch_size * options.processes / (end - begin),
        "max_bytes_before_kill": before[:, 1:].max(0).astype(int).tolist(),
        "max_bytes": after[:, 1:].max(0).astype(int).tolist(),
        "growth_bytes": growth(after, begin, end).astype(int).tolist(),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    command_line = parser("Reads shards by several processes, with a kill in the middle.", "shards")
    command_line.add_argument("--gigabytes", type=float, default=3.0, help="size of all shards")
    command_line.add_argument("--shards", type=int, default=30, help="how many there are")
    command_line.add_argument("--window", type=int, default=3, help="shards whose images are mixed")
    command_line.add_argument("--processes", type=int, default=4, help="processes that read")
    command_line.add_argument("--workers", type=int, default=1, help="workers of each")
    command_line.add_argument("--batch-size", type=int, default=16, help="images per step and process")
    command_line.add_argument("--save-steps", type=int, default=10, help="steps between two savings of the state")
    command_line.add_argument("--pause", type=float, default=0.5, help="seconds between two looks at the memory")
    options = command_line.parse_args(arguments)
    record = Record(options.json, "shards", "cpu", options_of(options))
    with tempfile.TemporaryDirectory() as folder:
        record.add(run(Path(folder), options))
    record.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
