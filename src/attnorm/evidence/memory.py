"""Bytes that a step keeps for its backward pass."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


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
