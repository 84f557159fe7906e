"""The output folder of a run: whether a run may start there, go on there, or is already done."""

import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnorm.errors import CheckpointError, ConfigError
from attnorm.training.config import TrainConfig, resume_differences
from attnorm.training.record import RunRecord

RECORD = "record.json"
# Entries that the resume state has beside Lightning's own.
CONFIG_KEY = "attnorm_config"
PROCESSES_KEY = "attnorm_processes"


@dataclass(frozen=True)
class Start:
    """How a run begins.

    Attributes:
        checkpoint: file to go on from; None starts with fresh weights.
        epoch: epoch to go on with, from 0.
        record: of the finished run, when nothing is left to do.
    """

    checkpoint: Path | None = None
    epoch: int = 0
    record: RunRecord | None = None


def find_start(config: TrainConfig, processes: int = 1) -> Start:
    """Decides how a run of so many processes begins, without writing anything.

    The order: a finished run of the same configuration is done (with resume); else last.ckpt or the file that `resume`
    names; else, with resume "auto", fresh weights; without resume the folder must be new or empty.

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
    path = output / "last.ckpt" if config.resume == "auto" else Path(config.resume)
    if path.is_file():
        return _go_on(path, config, processes)
    if config.resume != "auto":
        raise CheckpointError(f'resume must be "auto" or a .ckpt file of a run, and there is no file {path}')
    return Start()


def read_record(output: Path) -> RunRecord | None:
    """The record of the finished run in a folder; None when there is none that can be read."""
    try:
        return RunRecord.from_dict(json.loads((output / RECORD).read_text()))
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def _go_on(path: Path, config: TrainConfig, processes: int) -> Start:
    import torch

    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        recorded, before = state[CONFIG_KEY], state[PROCESSES_KEY]
        loops = state["loops"]["fit_loop"]["epoch_progress"]["current"]
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path} must be the resume state of a training run, but it cannot be read ({reason}); "
            "remove it to start anew"
        ) from None
    _refuse_differences(recorded, config, path)
    if before != processes:
        raise ConfigError(
            f"resume needs as many processes as the run in {path} had: {before}, got {processes}; "
            "with another number the batches would be others"
        )
    return Start(checkpoint=path, epoch=int(loops["processed"]))


def _refuse_differences(recorded: dict[str, Any], config: TrainConfig, path: Path) -> None:
    if differences := resume_differences(recorded, config):
        raise ConfigError(
            f"resume needs the settings of the run in {path}, which differ in {'; '.join(differences)}; "
            "give the recorded values, or another output without resume"
        )
