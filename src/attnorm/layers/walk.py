"""The modules of a network by their qualified names."""

from collections.abc import Callable, Iterator
from typing import Any, cast

from torch import nn
from torch.nn.modules import module as torch_module

_everywhere = cast(Any, torch_module)  # where hooks of all modules are kept


def named_modules(model: nn.Module, remove_duplicate: bool = True) -> list[tuple[str, nn.Module]]:
    """As `model.named_modules()`, whose annotation leaves the modules' type open; a list, safe to replace from."""
    walk = cast(Callable[..., Iterator[tuple[str, nn.Module]]], model.named_modules)
    return list(walk(remove_duplicate=remove_duplicate))


def set_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of the one with that qualified name."""
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)


def is_untouched(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether calling a module runs nothing but the forward method of its class, which is one of `kinds`.

    Hooks, replaced methods and subclasses want to see or change a module at work; what bypasses the module for speed
    asks here first.
    """
    if type(module) not in kinds or "forward" in module.__dict__:
        return False
    own = cast(Any, module)
    if own._forward_hooks or own._forward_pre_hooks or own._backward_hooks or own._backward_pre_hooks:
        return False
    return not (
        _everywhere._global_forward_hooks
        or _everywhere._global_forward_pre_hooks
        or _everywhere._global_backward_hooks
        or _everywhere._global_backward_pre_hooks
    )
