"""The output folder of a run: whether a run may start there, go on there, or is already done."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnorm.errors import CheckpointError, ConfigError
from attnorm.training.config import TrainConfig, resume_differences
from attnorm.training.record import RunRecord
from attnorm.training.resume import ResumeState, newest_state, read_state

RECORD = "record.json"
WEIGHTS = "last.safetensors"


@dataclass(frozen=True)
class Start:
    """How a run begins.

    Attributes:
        checkpoint: resume state to go on from; None starts with fresh weights.
        batches: batches of the whole run that are done there.
        record: of the finished run, when nothing is left to do.
        notes: what a person should know of it, in sentences.
    """

    checkpoint: Path | None = None
    batches: int = 0
    record: RunRecord | None = None
    notes: tuple[str, ...] = ()


def find_start(config: TrainConfig, processes: int = 1) -> Start:
    """Decides how a run of so many processes begins, without writing anything.

    The order: a finished run of the same configuration is done (with resume); else the newest resume state that is
    whole, or the one that `resume` names; else, with resume "auto", fresh weights; without resume the folder must be
    new or empty.

    Raises:
        ConfigError: the folder holds another run, or the recorded configuration differs.
        CheckpointError: the file to go on from cannot be read.
    """
    output = Path(config.output)
    if output.exists() and not output.is_dir():
        raise ConfigError(f"output must be a folder, and {output} is a file; name another")
    if config.resume is None:
        if output.is_dir() and any(output.iterdir()):
            raise ConfigError(
                f"output must be a new or empty folder, and {output} holds another run; "
                "name another folder, or give --resume auto to go on with that run"
            )
        return Start()
    if (record := read_record(output)) is not None:
        _refuse_differences(record.config, config, output / RECORD)
        return Start(record=record)
    if config.resume != "auto":
        path = Path(config.resume)
        if not path.is_file():
            raise CheckpointError(f'resume must be "auto" or a .ckpt file of a run, and there is no file {path}')
        try:
            state = read_state(path)
        except CheckpointError as error:
            raise CheckpointError(f"{error}; name another, or give --resume auto to take the newest that can") from None
        return _go_on(state, config, processes)
    state, damaged = newest_state(output)
    if state is None:
        # A state is written before the weights: here it was taken away, or is of a version before 0.2.
        if (output / WEIGHTS).exists():
            raise CheckpointError(
                f"{output} must hold the resume state of its run, and holds weights without one; name another output, "
                f"and give --initial-checkpoint {output / WEIGHTS} to begin with them"
            )
        return Start()
    return _go_on(state, config, processes, tuple(f"{one}; going on from {state.path.name}" for one in damaged))


def read_record(output: Path) -> RunRecord | None:
    """The record of the finished run in a folder; None when there is none that can be read."""
    try:
        return RunRecord.from_dict(json.loads((output / RECORD).read_text()))
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def _go_on(state: ResumeState, config: TrainConfig, processes: int, notes: tuple[str, ...] = ()) -> Start:
    _refuse_differences(state.config, config, state.path)
    if state.processes != processes:
        raise ConfigError(
            f"resume needs as many processes as the run in {state.path} had: {state.processes}, got {processes}; "
            "with another number the batches would be others"
        )
    return Start(checkpoint=state.path, batches=state.batches, notes=notes)


def _refuse_differences(recorded: dict[str, Any], config: TrainConfig, path: Path) -> None:
    if differences := resume_differences(recorded, config):
        raise ConfigError(
            f"resume needs the settings of the run in {path}, which differ in {'; '.join(differences)}; "
            "give the recorded values, or another output without resume"
        )
