"""One process or several: what torchrun says in the environment, and the process group that Lightning then uses."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from attnorm.errors import ConfigError, PeerError
from attnorm.training.launcher import watch_launcher

# So long may a process be waited for. The longest honest wait is for the first one while it writes or computes what the
# others do not, such as COCO's numbers: minutes.
TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True)
class Processes:
    """Place of this process among those that torchrun started; one process alone is the ordinary case."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1

    @property
    def is_first(self) -> bool:
        """The first process is the one that writes and prints."""
        return self.rank == 0

    @classmethod
    def from_environment(cls) -> "Processes":
        """Reads RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE, as torchrun sets them.

        Raises:
            ConfigError: they are no numbers; or srun has started several tasks without torchrun.
        """
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        if "WORLD_SIZE" not in os.environ or "LOCAL_RANK" not in os.environ:
            tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
            if tasks != "1":
                raise ConfigError(
                    f"srun must start one torchrun per machine, and has started {tasks} tasks that know nothing of "
                    "each other; see configs/slurm/train.sbatch"
                )
            return cls()
        try:
            return cls(*(int(os.environ[name]) for name in names))
        except (KeyError, ValueError) as error:
            raise ConfigError(f"{', '.join(names)} must be integers as torchrun sets them, got {error}") from None


def choose_device(name: str, processes: Processes) -> torch.device:
    """The device for "auto", "cpu" or "cuda"; each process of a machine has its own CUDA device.

    Raises:
        ConfigError: CUDA was asked for and is not there, or there are fewer devices than processes.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError('device "cuda" needs a CUDA device that torch can use, and there is none; use device "cpu"')
    if torch.cuda.device_count() < processes.local_count:
        raise ConfigError(
            f"{processes.local_count} processes on this machine need as many CUDA devices, "
            f"there are {torch.cuda.device_count()}; start fewer processes"
        )
    return torch.device("cuda", processes.local_rank)


def check_precision(precision: str, device: torch.device) -> None:
    """Refuses float16 on a CPU, where Lightning would take bfloat16 in its place.

    Raises:
        ConfigError: names the type that works there.
    """
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError(
            'amp_dtype "float16" needs a CUDA device, and this run is on the CPU; use amp_dtype "bfloat16"'
        )


@contextmanager
def process_group(processes: Processes, device: torch.device) -> Iterator[None]:
    """Joins the process group for the length of a run; does nothing for one process alone.

    A process that dies closes its connections: what the others wait for fails at once (gloo) or within seconds (nccl,
    when torchrun ends them). One that hangs keeps them open, and nobody can tell it from a slow one: the others
    wait for `TIMEOUT`, then they fail, by the error below or (nccl) by torch's watchdog, which ends the process; and
    torchrun ends the one that hangs, with SIGTERM and half a minute later with SIGKILL. When torchrun itself has gone,
    the processes end by themselves, see :func:`attnorm.training.launcher.watch_launcher`.

    Raises:
        PeerError: in place of the backend's error, where another process has ended or does not answer.
    """
    if processes.count == 1 or dist.is_initialized():
        yield
        return
    watch_launcher()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
        yield
    except RuntimeError as error:
        if not _is_of_a_collective(error):
            raise
        raise PeerError(
            f"all processes of a run must be there and answer, but talking to the others failed ({_brief(error)}); "
            "the one that ended first says why, or was killed"
        ) from error
    finally:
        # Lightning ends the group that it finds; after an error before or within its run this one may still be there.
        if dist.is_initialized():
            dist.destroy_process_group()


def _is_of_a_collective(error: RuntimeError) -> bool:
    # Gloo raises plain RuntimeErrors, which name its source files.
    return isinstance(error, dist.DistError) or "/gloo/" in str(error)


def _brief(error: RuntimeError) -> str:
    """The first sentence, without the place in the backend's source."""
    return str(error).partition("] ")[2].partition(". ")[0] or type(error).__name__


def sum_over_processes(values: list[float], device: torch.device) -> list[float]:
    """Sums numbers over all processes, in float64."""
    if not dist.is_initialized():
        return values
    total = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return total.tolist()


def wait_for_all() -> None:
    """Waits until every process is here."""
    if dist.is_initialized():
        dist.barrier()
