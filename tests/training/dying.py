"""Training runs that are killed at a chosen point, for real: by SIGKILL, in processes of their own.

Run as a program it imports everything once and then forks, for each line of its standard input, the processes of one
run. It computes nothing itself, so that the children of its fork have no threads missing.
"""

import io
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, cast

import pytest

from attnorm.training.config import TrainConfig

REPOSITORY = Path(__file__).resolve().parents[2]


class Points:
    """The places in a run where it may be killed, counted as it comes by them: the one of number `last` is its end."""

    def __init__(self, last: int | None) -> None:
        self.last, self.count = last, 0

    def pass_by(self) -> None:
        self.count += 1
        if self.count == self.last:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            self.pass_by()
            result = function(*arguments, **named)
            self.pass_by()
            return result

        return call

    def write(self, file: Any, content: bytes) -> None:
        """In two halves, with a point between them at which the first one has reached the file."""
        half = len(content) // 2
        file.write(content[:half])
        file.flush()
        self.pass_by()
        file.write(content[half:])


def lay(points: Points, patch: pytest.MonkeyPatch) -> None:
    """Puts points around every batch, in every evaluation, and in the middle of writing every kind of file."""
    import safetensors.torch
    import torch

    from attnorm.training.module import TrainModule
    from attnorm.training.stopping import StopSignals

    save, serialise, watching = torch.save, safetensors.torch.save, StopSignals.watching

    def watched(self: Any, batches: Any) -> Iterator[Any]:
        for batch in watching(self, batches):
            points.pass_by()
            yield batch

    def save_halves(content: Any, file: Any) -> None:
        buffer = io.BytesIO()
        save(content, buffer)
        points.write(file, buffer.getvalue())

    def save_file(tensors: Any, path: Any, metadata: Any = None) -> None:
        with open(path, "wb") as file:
            points.write(file, serialise(tensors, metadata))

    def write_bytes(path: Path, content: bytes) -> None:
        with path.open("wb") as file:
            points.write(file, content)

    patch.setattr(TrainModule, "training_step", points.around(TrainModule.training_step))
    patch.setattr(StopSignals, "watching", watched)
    patch.setattr(torch, "save", save_halves)
    patch.setattr(safetensors.torch, "save_file", save_file)
    patch.setattr(Path, "write_bytes", write_bytes)
    patch.setattr(os, "fsync", points.around(os.fsync))
    patch.setattr(os, "replace", points.around(os.replace))


def run(order: dict[str, Any], rank: int) -> None:
    """One process of a run, to its end or to its point."""
    from attnorm.options import make_settings
    from attnorm.training.loop import fit

    from .narrow_detectors import shrink

    if order["processes"] > 1:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": order["processes"]}
        place |= {"LOCAL_WORLD_SIZE": order["processes"], "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": order["port"]}
        os.environ.update({name: str(value) for name, value in place.items()})
    points = Points(order["last"] if rank == order["rank"] else None)
    with pytest.MonkeyPatch.context() as patch:
        if order["detects"]:
            shrink(patch)
        lay(points, patch)
        fit(make_settings(TrainConfig, order["config"]), quiet=True)
    if rank == order["rank"]:
        Path(order["count"]).write_text(str(points.count))


def serve() -> None:
    """Forks the processes of a run for each line; when one dies the others are killed, as on a machine that is lost."""
    import attnorm.training.averaging
    import attnorm.training.classification
    import attnorm.training.detecting
    import attnorm.training.epoch_end
    import attnorm.training.loop
    import attnorm.training.trainer  # noqa: F401

    for line in sys.stdin:
        order = json.loads(line)
        children: set[int] = set()
        for rank in range(order["processes"]):
            child = os.fork()
            if child == 0:
                try:
                    run(order, rank)
                    code = 0
                except BaseException as error:  # no exception may reach the loop of the parent
                    print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
                    code = 1
                os._exit(code)
            children.add(child)
        worst = 0
        while children:
            child, status = os.wait()
            children.discard(child)
            code = os.waitstatus_to_exitcode(status)
            if code and not worst:
                worst = code
                for other in children:
                    os.kill(other, signal.SIGKILL)
        print(worst, flush=True)


class Runs:
    """Starts runs in a server of their own, and kills them."""

    def __init__(self, *, detects: bool = False, processes: int = 1) -> None:
        self.detects, self.processes = detects, processes
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.training.dying"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=REPOSITORY,
        )
        self._orders, self._ends = cast(IO[str], self._server.stdin), cast(IO[str], self._server.stdout)

    def start(self, config: TrainConfig, last: int | None = None, rank: int = 0) -> int | None:
        """Runs to the end, and gives the points that process `rank` came by; None when it was killed at `last`."""
        count = Path(config.output).with_suffix(".count")
        count.unlink(missing_ok=True)
        order = {"config": asdict(config), "detects": self.detects, "processes": self.processes}
        order |= {"last": last, "rank": rank, "count": str(count), "port": _free_port()}
        self._orders.write(json.dumps(order) + "\n")
        self._orders.flush()
        code = int(self._ends.readline())
        assert code in (0, -signal.SIGKILL), f"the run ended with {code}"
        return int(count.read_text()) if code == 0 else None

    def close(self) -> None:
        self._orders.close()
        assert self._server.wait(60) == 0
        self._ends.close()


def _free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


if __name__ == "__main__":
    serve()
