"""One of several processes that read shards as training does: in step, with a state from which reading goes on.

Started by :mod:`benchmarks.shards` with its settings as JSON: python -m benchmarks.shard_readers SETTINGS.
"""

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from attnorm.data import DataConfig, load_data, make_loader
from attnorm.files import replacing, write_json_atomic


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What every process is told.

    Attributes:
        folder: holds the shards; the state and the processes' answers are written there.
        attempt: which start this is, counted from 0.
        rank: this process.
        processes: how many read.
        workers: per process.
        batch_size: per process.
        window: `DataConfig.shard_window`.
        epochs: to be read in all attempts together.
        save_steps: steps between savings of the state.
    """

    folder: str
    attempt: int
    rank: int
    processes: int
    workers: int
    batch_size: int
    window: int
    epochs: int
    save_steps: int

    @property
    def state(self) -> Path:
        """The file of the last state of all processes."""
        return Path(self.folder) / "state.pt"

    @property
    def answer(self) -> Path:
        """The file that this process writes when it has read everything."""
        return Path(self.folder) / f"answer-{self.rank}.json"

    def data_config(self) -> DataConfig:
        """The shards, with images as small as can be: reading and decoding are what is looked at."""
        return DataConfig(dataset="wds:", data_dir=self.folder, image_size=32, shard_window=self.window)


def read(settings: Reading) -> dict[str, Any]:
    """Reads from the last state to the end; what this process has seen.

    Returns:
        "labels" of all images by epoch, those before an interruption among them; "index_bytes"; the clock's "begin" and
        "end" of reading in this attempt.
    """
    torch.set_num_threads(1)
    train: Any = load_data(settings.data_config(), parts=("train",)).train
    loader = make_loader(train, batch_size=settings.batch_size, train=True, workers=settings.workers)
    first, labels = 0, [[] for _ in range(settings.epochs)]
    if settings.state.exists():
        saved = torch.load(settings.state, weights_only=True)
        first, mine = saved["epoch"], saved["processes"][settings.rank]
        labels = mine["labels"]
        loader.sampler.set_epoch(first)  # pyright: ignore[reportAttributeAccessIssue]
        loader.load_state_dict(mine["loader"])
    begin, step = time.time(), 0
    for epoch in range(first, settings.epochs):
        loader.sampler.set_epoch(epoch)  # pyright: ignore[reportAttributeAccessIssue]
        for _, numbers in loader:
            labels[epoch] += numbers.tolist()
            dist.barrier()  # as the gradients' all-reduce does: nobody is ahead of the others
            step += 1
            if step % settings.save_steps == 0:
                _save(settings, {"step": step, "epoch": epoch}, {"loader": loader.state_dict(), "labels": labels})
    return {
        "labels": labels,
        "index_bytes": sum(a.nbytes for a in (train.source.names.offset, train.source.names.size, train.labels)),
        "begin": begin,
        "end": time.time(),
    }


def _save(settings: Reading, common: dict[str, int], mine: dict[str, Any]) -> None:
    """The states of all processes in one file, which the first writes."""
    states: list[Any] = [None] * settings.processes
    dist.all_gather_object(states, mine)
    if settings.rank == 0:
        with replacing(settings.state) as temporary:
            torch.save({**common, "processes": states}, temporary)


def main() -> None:
    """See the module's docstring."""
    settings = Reading(**json.loads(sys.argv[1]))
    meeting = f"file://{settings.folder}/meeting-{settings.attempt}"
    dist.init_process_group("gloo", meeting, rank=settings.rank, world_size=settings.processes)
    write_json_atomic(settings.answer, read(settings))
    dist.destroy_process_group()


def command(settings: Reading) -> list[str]:
    """How a process is started."""
    return [sys.executable, "-m", "benchmarks.shard_readers", json.dumps(asdict(settings))]


if __name__ == "__main__":
    main()
