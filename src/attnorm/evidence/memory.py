"""Bytes of memory: what a step keeps for its backward pass, and what it needs at its highest point.

The highest point is measured, not computed. On CUDA it is what PyTorch's allocator says of itself. On the CPU it is the
running sum of the allocations and releases that PyTorch's profiler records of the allocator while the step runs, the
scratch memory inside of operators included; what libraries take from the system without asking PyTorch is not in it.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import DeviceType  # pyright: ignore[reportPrivateImportUsage]
from torch.profiler import ProfilerActivity, profile


class SavedBytes:
    """Bytes that autograd keeps between a forward and its backward pass: distinct storages, filled by `saved_bytes`."""

    def __init__(self) -> None:
        self.total = 0


@contextmanager
def saved_bytes(model: nn.Module) -> Iterator[SavedBytes]:
    """Counts what is saved for backward inside the block.

    A storage counts once, however many operations save it or views of it. Parameters and buffers do not count: they
    exist anyway. The input does: a network must keep it for the layer.
    """
    count = SavedBytes()
    known = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: list[Tensor] = []  # an address must not be given to another storage before the block ends

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            known.add(storage.data_ptr())
            kept.append(tensor)
            count.total += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield count


def held_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the distinct storages of tensors."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """Bytes at the highest point of a call, beyond those that were there when it began.

    Args:
        run: the call; its result is dropped after the measurement.
        device: where it allocates.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    # Releases of what was there before the call are recorded with no bytes.
    events: list[Any] = recorded.profiler.kineto_results.events()  # pyright: ignore
    changes = [event for event in events if event.name() == "[memory]" and event.device_type() == DeviceType.CPU]
    changes.sort(key=lambda event: event.start_ns())
    return max(accumulate((event.nbytes() for event in changes), initial=0))
