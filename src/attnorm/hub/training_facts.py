"""What is known of how a network was trained and measured: from a run's record, or the card of a shipped network."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnorm.errors import CheckpointError, ConfigError, shown
from attnorm.models import shipped
from attnorm.training.header import CheckpointMeta
from attnorm.training.output import RECORD
from attnorm.training.record import RunRecord

# Settings that say where a run was done and not what.
PLACES = ("data_dir", "output", "resume", "progress", "workers", "device")


@dataclass(frozen=True, kw_only=True)
class TrainingFacts:
    """A run, as far as a model card speaks of it.

    Attributes:
        data: Name of the data set.
        source: Where the data are to be had.
        train_images: Their number; likewise eval_images.
        config: Every setting that is no place.
        seed: Of the run.
        epochs: That it had.
        best_epoch: The one that the evaluation part liked best; None where none was chosen.
        seconds_per_epoch: Training only; likewise images_per_second.
        processes: That trained.
        machine: As `attnorm.training.record.environment` gives it.
        versions: Of packages.
        git: Commit, and whether files differed from it.
        limits: What is known to go wrong.
    """

    data: str
    source: str | None = None
    train_images: int | None
    eval_images: int | None
    config: Mapping[str, Any]
    seed: int
    epochs: int
    best_epoch: int | None = None
    seconds_per_epoch: float | None = None
    images_per_second: float | None = None
    processes: int = 1
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    git: Mapping[str, Any]
    limits: str | None = None


def find_facts(checkpoint: str | Path | None, record: str | Path | None, meta: CheckpointMeta) -> TrainingFacts | None:
    """What is known of the run behind a checkpoint; None where that is nothing.

    Args:
        checkpoint: Its path or name.
        record: The run's record.json; the one beside the checkpoint when not given.
        meta: The checkpoint's header.

    Raises:
        ConfigError: The record that was given is not there, or one is of another run than the checkpoint.
        CheckpointError: It is damaged.
    """
    card = shipped.cards().get(str(checkpoint))
    if record is None and card is not None:
        return _of_card(card)
    if record is not None and not Path(record).is_file():
        raise ConfigError(f"record must be the record.json of a run, and there is no file {record}")
    if record is None and checkpoint is not None:
        record = Path(checkpoint).parent / RECORD
    if record is None or not Path(record).is_file():
        return None
    try:
        run = RunRecord.from_dict(json.loads(Path(record).read_text(encoding="utf-8")))
        matches = any(_is_of(row, meta) for row in run.history)
        facts = _of_record(run)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        reason = shown(" ".join(str(error).split()), 200)
        raise CheckpointError(f"{record} must be a record.json of `attnorm train`, and is not: {reason}") from None
    if not matches:
        raise ConfigError(
            f"{record} must be of the run that made the checkpoint, and has no epoch {meta.epoch} with its numbers; "
            "name the run's own with --record"
        )
    return facts


def _is_of(row: Mapping[str, Any], meta: CheckpointMeta) -> bool:
    """Whether a checkpoint was written after that epoch of a history."""
    return row["epoch"] == meta.epoch and all(row.get(name) == value for name, value in (meta.metrics or {}).items())


def _of_record(run: RunRecord) -> TrainingFacts:
    return TrainingFacts(
        data=str(run.data["name"]),
        train_images=int(run.data["train_images"]),
        eval_images=int(run.data["val_images"]),
        config=_without_places(run.config),
        seed=int(run.seed),
        epochs=len(run.history),
        best_epoch=int(run.best_epoch),
        seconds_per_epoch=float(run.seconds_per_epoch),
        images_per_second=float(run.images_per_second),
        processes=int(run.processes),
        machine=dict(run.environment),
        versions=dict(run.versions),
        git=dict(run.git),
    )


def _of_card(card: Mapping[str, Any]) -> TrainingFacts:
    return TrainingFacts(
        data=card["data"]["name"],
        source=card["data"]["source"],
        train_images=card["data"]["train_images"],
        eval_images=card["measured"]["images"],
        config=_without_places(card["config"]),
        seed=card["seed"],
        epochs=card["epochs"],
        machine=card["machine"],
        versions=card["versions"],
        git=card["git"],
        limits=card["data"]["limits"],
    )


def _without_places(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without folders of the machine that they were used on; of a file only its name is told."""
    return {key: _without_folder(value) for key, value in config.items() if key not in PLACES}


def _without_folder(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_folder(each) for key, each in value.items()}
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
