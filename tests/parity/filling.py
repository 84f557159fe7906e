"""The deterministic filling of state dicts and inputs that the reference fixtures were made with."""

import math

import numpy as np
import torch
from torch import Tensor

INPUT_INDEX = 1 << 20


def uniform(index: int, shape: tuple[int, ...]) -> Tensor:
    """Numbers in [0, 1) from a hash of the entry's index and each element's position, float64."""
    mask = np.uint64(0xFFFFFFFF)
    position = np.arange(math.prod(shape), dtype=np.uint64)
    h = (np.uint64(index * 0x9E3779B1 & 0xFFFFFFFF) + position * np.uint64(0x85EBCA77) + np.uint64(0x165667B1)) & mask
    for shift, factor in ((15, 0x2C1B3C6D), (12, 0x297A2D39)):
        h = ((h ^ (h >> np.uint64(shift))) * np.uint64(factor)) & mask
    h ^= h >> np.uint64(15)
    return torch.from_numpy(h.astype(np.float64) / 2**32).reshape(shape)


def entry(index: int, name: str, shape: tuple[int, ...]) -> Tensor:
    """The value of state-dict entry number `index`, which depends on the last part of its name."""
    u, last = uniform(index, shape), name.rpartition(".")[2]
    if last == "num_batches_tracked":
        return torch.zeros((), dtype=torch.long)
    if last == "running_var" or (last == "weight" and len(shape) == 1):
        return 0.5 + u
    if last in ("running_mean", "bias"):
        return 0.2 * (u - 0.5)
    if last == "weight_":
        return 2 * (0.5 + u) / shape[0]
    if last == "bias_":
        return 0.4 * (u - 0.5) / shape[0]
    assert last == "weight", name
    return 2 * (u - 0.5) * math.sqrt(3 / math.prod(shape[1:]))


def network_input(shape: tuple[int, ...]) -> Tensor:
    """The input of a fixture, float64."""
    return math.sqrt(3) * (2 * uniform(INPUT_INDEX, shape) - 1)
