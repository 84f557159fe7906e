"""Several processes that train together on this machine, for tests: their own, without the seconds of torchrun's.

They are forked from a server that has imported what they need, once for all tests of a session.
"""

import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

# Imported, but not used: the server has no threads that its children would miss.
IMPORTED = ["attnorm.models", "attnorm.training.loop", "attnorm.training.module", "attnorm.training.trainer"]


def run_together(function: Callable[..., Any], count: int, folder: Path, *arguments: Any) -> list[Any]:
    """What `function(*arguments)` returns in each of `count` processes, in the order of their ranks.

    Args:
        function: of a module that can be imported.
        count: of processes, which are in one process group with gloo.
        folder: where they meet and leave their results.
        arguments: the same for all.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    # As torchrun has it: without a run's name Lightning removes WORLD_SIZE at the end of its first run.
    place = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "tests"}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    processes = [
        context.Process(
            target=_process,
            args=(folder, function, arguments),
            kwargs={"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, **place},
        )
        for rank in range(count)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=300)
        process.kill()
        process.join()
    assert [process.exitcode for process in processes] == [0] * count
    return [torch.load(folder / f"{rank}.pt") for rank in range(count)]


def join_group(folder: Path) -> None:
    """Makes a process group of the processes of `run_together`; again where a run of Lightning has ended it."""
    folder.mkdir(parents=True, exist_ok=True)
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=count)


def _process(folder: Path, function: Callable[..., Any], arguments: tuple[Any, ...], **place: Any) -> None:
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # of the loaders' workers, as in any other process
    os.environ.update({name: str(value) for name, value in place.items()})
    join_group(folder)
    torch.save(function(*arguments), folder / f"{place['RANK']}.pt")
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
