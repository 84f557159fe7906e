"""Training: one configuration in, weights and a record out.

Names are loaded when they are used: the configuration alone needs neither torch nor Lightning.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from attnorm.extras import naming_extras

if TYPE_CHECKING:
    from attnorm.training.checkpoint import CheckpointMeta, load_checkpoint, save_checkpoint
    from attnorm.training.checks import check_recipe
    from attnorm.training.config import Recipe, TrainConfig, resume_differences
    from attnorm.training.evaluation import evaluate
    from attnorm.training.loop import fit
    from attnorm.training.record import RunRecord
    from attnorm.training.schedule import learning_rate

_HOMES = {
    "CheckpointMeta": "checkpoint",
    "load_checkpoint": "checkpoint",
    "save_checkpoint": "checkpoint",
    "Recipe": "config",
    "TrainConfig": "config",
    "check_recipe": "checks",
    "resume_differences": "config",
    "evaluate": "evaluation",
    "fit": "loop",
    "RunRecord": "record",
    "learning_rate": "schedule",
}

__all__ = [
    "CheckpointMeta",
    "Recipe",
    "RunRecord",
    "TrainConfig",
    "check_recipe",
    "evaluate",
    "fit",
    "learning_rate",
    "load_checkpoint",
    "resume_differences",
    "save_checkpoint",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with naming_extras(f"{__name__}.{name}"):
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
