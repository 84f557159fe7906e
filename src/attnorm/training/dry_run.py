"""`attnorm train --dry-run`: would the run start, and what would it cost? It is tried, and nothing is written."""

import os
import shutil
from pathlib import Path

from attnorm.errors import JobError
from attnorm.training.config import TrainConfig
from attnorm.training.dry_report import Room, describe, size
from attnorm.training.preparation import Prepared, launched, prepare
from attnorm.training.trial import Costs, try_steps


def dry_run(config: TrainConfig) -> list[str]:
    """Does what a run does before its first step, a few steps, and two batches of an evaluation; in every process.

    Returns:
        What was found, in lines for a person.

    Raises:
        ConfigError: as `fit` raises it.
        JobError: likewise, and where the memory or the disk are too small or the output cannot be written to.
    """
    from attnorm.training.trainer import quiet_lightning

    with launched(config) as launch:
        if launch.start.record is not None:
            return [f"{config.output} holds this run already, finished: nothing is left to do"]
        _check_writable(Path(config.output))
        run = prepare(launch)
        with quiet_lightning():
            costs = try_steps(run)
        return describe(run, costs, _room(run, costs))


def _check_writable(output: Path) -> None:
    folder = _nearest(output)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise JobError(f"output must be a folder that can be written to, and {folder} cannot; name another")


def _room(run: Prepared, costs: Costs) -> Room:
    """What the checkpoints need beyond those that are there, and what the disk has.

    Raises:
        JobError: it has less.
    """
    output = Path(run.launch.config.output)
    weights = sum(tensor.nbytes for tensor in run.model.state_dict().values())
    # Each file is whole under another name before it takes the place of the one before.
    most = 3 * weights + (run.launch.config.checkpoint_hist + 1) * costs.state_bytes
    there = sum(path.stat().st_size for pattern in ("*.safetensors", "resume-*.ckpt") for path in output.glob(pattern))
    room = Room(weights, costs.state_bytes, max(0, most - there), shutil.disk_usage(_nearest(output)).free)
    if room.needed > room.free:
        raise JobError(
            f"the disk of {output} must have room for {size(room.needed)} of checkpoints, and has {size(room.free)}; "
            "free some space, name another output, or keep fewer states with checkpoint_hist"
        )
    return room


def _nearest(path: Path) -> Path:
    """The folder itself, or the one that is there in which it would be made."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
