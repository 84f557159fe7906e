"""What a process of its own does with checkpoints that are to be refused; it imports no more than that takes."""

from pathlib import Path

from attnorm.errors import CheckpointError
from attnorm.training.checkpoint import load_checkpoint


def refusals(paths: list[Path]) -> list[str]:
    """The messages of the refusals."""
    return [_refusal(path) for path in paths]


def _refusal(path: Path) -> str:
    try:
        load_checkpoint(path)
    except CheckpointError as error:
        return str(error)
    return f"{path} was loaded"
