"""Bytes that a step's operations read and write, and the yardstick of both bytes and time: a copy."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from attnorm.evidence.interleaved import Step

# They write their first argument without reading it.
_OVERWRITING = {"copy_", "fill_", "zero_"}


class _Traffic(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        if not func.is_view and "empty" not in name:
            read = args[1:] if name in _OVERWRITING else args
            named = {key: value for key, value in kwargs.items() if key != "out"}
            self.total += _touched((read, named)) + _touched(result)
        return result


def traffic(run: Callable[[], object]) -> int:
    """Bytes that the eager operations of a call read and write: every tensor once for each operation it goes through.

    What an operation does inside is not seen: native BatchNorm reads its input twice and is counted with one read.
    """
    with _Traffic() as mode:
        run()
    return mode.total


def _touched(tree: Any) -> int:
    """Bytes of the distinct tensors in the tree; an expanded tensor counts once, as it lies in memory."""
    tensors = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
    distinct = {(t.data_ptr(), tuple(t.shape), t.stride()): t for t in tensors}
    return sum(_bytes(t) for t in distinct.values())


def _bytes(tensor: Tensor) -> int:
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    return tensor.element_size() * math.prod(size for size, stride in sizes if stride != 0)


def copy_step(x: torch.Tensor) -> Step:
    """The yardstick: a copy into memory that is there already, one read and one write of x's bytes."""
    target = torch.empty_like(x)

    def step() -> Iterator[str]:
        target.copy_(x)
        yield "copy"

    return step
