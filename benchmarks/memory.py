"""Bytes: what a step keeps for its backward pass, and what its operations read and write."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# They write their first argument without reading it.
_OVERWRITING = {"copy_", "fill_", "zero_"}


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
