"""The optimizer of a recipe."""

from difflib import get_close_matches

import timm.optim
import torch
from torch import nn

from attnorm.errors import ConfigError
from attnorm.layers import weight_decay_groups
from attnorm.training.config import Recipe


def check_optimizer(recipe: Recipe) -> None:
    """Refuses a name that is not an optimizer, before anything is written.

    Raises:
        ConfigError: no such optimizer; near names are given.
    """
    if recipe.opt == "sgd":
        return
    known = [str(name) for name in timm.optim.list_optimizers()]  # pyright: ignore[reportPrivateImportUsage]
    if recipe.opt.lower() not in known:
        near = ", ".join(get_close_matches(recipe.opt.lower(), known, n=4, cutoff=0.4)) or "adamw, lamb, rmsproptf"
        raise ConfigError(f'opt must be "sgd" or an optimizer of timm, got "{recipe.opt}"; for example {near}')


def create_optimizer(model: nn.Module, recipe: Recipe, lr: float) -> torch.optim.Optimizer:
    """Makes the optimizer that the recipe names, for the parameters of `model`.

    Args:
        model: the network to train.
        recipe: gives opt, momentum, nesterov, weight_decay and decay_norm.
        lr: the peak learning rate.
    """
    groups = weight_decay_groups(model, recipe.weight_decay, policy=recipe.decay_norm)
    if recipe.opt == "sgd":
        # Not timm's "sgd", which switches Nesterov's momentum on: the paper's recipes have it off.
        return torch.optim.SGD(groups, lr=lr, momentum=recipe.momentum, nesterov=recipe.nesterov)
    return timm.optim.create_optimizer_v2(  # pyright: ignore[reportPrivateImportUsage]
        groups, recipe.opt, lr=lr, weight_decay=recipe.weight_decay, momentum=recipe.momentum
    )
