"""The modules of a network by their qualified names."""

from collections.abc import Callable, Iterator
from typing import cast

from torch import nn


def named_modules(model: nn.Module, remove_duplicate: bool = True) -> list[tuple[str, nn.Module]]:
    """As `model.named_modules()`, whose annotation leaves the modules' type open; a list, safe to replace from."""
    walk = cast(Callable[..., Iterator[tuple[str, nn.Module]]], model.named_modules)
    return list(walk(remove_duplicate=remove_duplicate))


def set_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of the one with that qualified name."""
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)
