"""Runs whose loss leaves the finite numbers at one place; a module of its own, which processes import."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from attnorm.errors import JobError
from attnorm.training.classification import Classification
from attnorm.training.config import TrainConfig
from attnorm.training.loop import fit


def diverge(config: TrainConfig, epoch: int, batch: int, rank: int, value: float) -> tuple[str, str, bool]:
    """Trains with a loss of `value` at that place in that process.

    Returns:
        Name and text of the error that this process stopped with, and whether all weights and resume states on disk
        were the same before and after.
    """
    original, before = Classification.losses, {}

    def losses(self, model, images, place):
        found = original(self, model, images, place)
        if place[1:3] == (epoch, batch):
            before.update(contents(config.output))
            if place[3] == rank:
                return {name: torch.full_like(loss, value) * loss for name, loss in found.items()}
        return found

    if dist.is_initialized():  # the run makes its own group, whose errors it explains
        dist.destroy_process_group()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classification, "losses", losses)
        try:
            fit(config, quiet=True)
        except JobError as error:
            return type(error).__name__, str(error), before == contents(config.output)
    return "", "the run ended as if nothing had been", False


def contents(folder: str) -> dict[str, bytes]:
    """The weights and resume states of a run."""
    files = Path(folder).rglob("*")
    return {str(path): path.read_bytes() for path in files if path.suffix in (".ckpt", ".safetensors")}
