"""Memory in bytes: of this process, of the workers that read for it, of its CUDA device, and what is there."""

import multiprocessing
import sys
from pathlib import Path

import torch


def memory_used(device: torch.device) -> dict[str, int | None]:
    """What is in use and was in use at most.

    Returns:
        `rss_bytes` and `rss_peak_bytes` of this process, and `workers_rss_bytes` of its loader's workers together,
        pages that they share counted for each; None where the system does not tell (they are read from Linux's /proc).
        On a CUDA device `cuda_allocated_peak_bytes` of tensors too, and `cuda_reserved_peak_bytes` with what the
        allocator keeps.
    """
    rss, workers = _rss("self"), [_rss(child.pid) for child in multiprocessing.active_children()]
    used = {
        "rss_bytes": rss,
        "rss_peak_bytes": _status(Path("/proc/self/status"), "VmHWM"),
        # One that has just ended has none.
        "workers_rss_bytes": None if rss is None else sum(worker or 0 for worker in workers),
    }
    if device.type == "cuda":
        used["cuda_allocated_peak_bytes"] = torch.cuda.max_memory_allocated(device)
        used["cuda_reserved_peak_bytes"] = torch.cuda.max_memory_reserved(device)
    return used


def memory_there(device: torch.device) -> int | None:
    """Bytes that this process may have on its device, what it has already included; None where the system is silent."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device)
    available, rss = _status(Path("/proc/meminfo"), "MemAvailable"), _rss("self")
    if available is None or rss is None:
        return None
    return min(available + rss, *_container_limits())


def _container_limits() -> list[int]:
    limits = []
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limits.append(int(Path(path).read_text()))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return [*limits, sys.maxsize]


def _rss(process: int | str | None) -> int | None:
    return _status(Path(f"/proc/{process}/status"), "VmRSS")


def _status(path: Path, name: str) -> int | None:
    """A number of kilobytes from a file of /proc, in bytes."""
    try:
        lines = path.read_text().splitlines()
    except OSError:  # no Linux, or the process has ended
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)
