"""The runs of a comparison: every network with every seed, one after another or several at once.

A finished run leaves record.json and is not repeated; an unfinished one goes on from its own checkpoint.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from attnorm import errors
from attnorm.errors import ConfigError, DataError, DivergedError, JobError
from attnorm.evidence.config import CompareConfig
from attnorm.evidence.console import ComparisonProgress
from attnorm.evidence.jobs import LOG, Event, environments, train_in_children
from attnorm.training.config import TrainConfig
from attnorm.training.loop import fit
from attnorm.training.metric import Metric
from attnorm.training.output import read_record
from attnorm.training.processes import Processes, choose_device
from attnorm.training.record import RunRecord

# Record or None, why there is none, and whether it was trained now.
Ended = Callable[[TrainConfig, RunRecord | None, str | None, bool], None]


def check_jobs(config: CompareConfig) -> None:
    """Refuses two ways at once of using several processes.

    Raises:
        ConfigError: torchrun started this process, and it is to train several runs at once.
    """
    count = Processes.from_environment().count
    if config.jobs > 1 and count > 1:
        raise ConfigError(
            f"jobs must be 1 under torchrun, which shares each run among its processes; got jobs {config.jobs} in "
            f"{count} processes: leave out one of the two"
        )


def run_all(config: CompareConfig, metrics: Sequence[Metric], shown: str) -> list[dict[str, Any]]:
    """Trains what is not trained yet.

    Args:
        config: the comparison.
        metrics: what is kept of a run, the judged one first.
        shown: how progress is shown, see `ComparisonProgress`.

    Returns:
        One entry per run, seed by seed.

    Raises:
        ConfigError: a run cannot be followed as it is configured.
        JobError: data cannot be read, or a process was ended from outside.
    """
    # Seed by seed, so that an interrupted comparison holds whole pairs.
    runs = [config.run_config(name, seed) for seed in config.seed_numbers() for name in config.networks]
    entries: dict[str, dict[str, Any]] = {}
    with ComparisonProgress(len(runs), config.epochs, shown, several=config.jobs > 1) as progress:

        def ended(run: TrainConfig, record: RunRecord | None, why: str | None, trained: bool) -> None:
            entry = _entry(run, record, why, metrics)
            entries[run.output] = entry
            value = entry[metrics[0].name]
            outcome = f"failed: {why}" if record is None else f"{metrics[0].label} {value:.2f}%"
            progress.end_run(run.model, run.seed, outcome, trained=trained)

        if config.jobs == 1:
            for run in runs:
                _train_here(run, progress, ended)
        else:
            _train_beside(runs, config, progress, ended)
    return [entries[run.output] for run in runs]


def _train_here(run: TrainConfig, progress: ComparisonProgress, ended: Ended) -> None:
    progress.start_run(run.model, run.seed)
    trained = read_record(Path(run.output)) is None
    try:
        record = fit(run, quiet=True, on_epoch=lambda row: progress.epoch_done(run.model, run.seed, row["epoch"]))
    except DivergedError as error:
        # A network that diverges under the shared recipe is a result, and the others can still be compared.
        ended(run, None, str(error), True)
    else:
        ended(run, record, None, trained)


def _train_beside(
    runs: Sequence[TrainConfig], config: CompareConfig, progress: ComparisonProgress, ended: Ended
) -> None:
    unfinished = [run for run in runs if read_record(Path(run.output)) is None]
    for run in runs:
        if run not in unfinished:
            _train_here(run, progress, ended)  # which looks whether it is the same run, and trains nothing
    device = choose_device(config.device, Processes())
    died: list[str] = []
    with closing(train_in_children(unfinished, environments(config.jobs, device))) as events:
        for run, event in events:
            match event["event"]:
                case "started":
                    progress.start_run(run.model, run.seed)
                case "epoch":
                    progress.epoch_done(run.model, run.seed, event["epoch"])
                case "done":
                    ended(run, _finished(run), None, True)
                case "diverged":
                    ended(run, None, event["why"], True)
                case "died":
                    died.append(f"{run.model}, seed {run.seed}: {event['why']}, log in {run.output}/{LOG}")
                    progress.end_run(run.model, run.seed, f"ended from outside ({event['why']})", trained=True)
                case _:
                    raise _error(run, event)
    if died:
        raise JobError(f"{len(died)} of {len(runs)} runs ended early ({'; '.join(died)}); the same command goes on")


def _finished(run: TrainConfig) -> RunRecord:
    record = read_record(Path(run.output))
    if record is None:
        raise JobError(f"a finished run must leave record.json, and {run.output} has none that can be read")
    return record


def _error(run: TrainConfig, event: Event) -> Exception:
    """What stopped a run, as it would have been raised here."""
    known: type[Exception] = getattr(errors, event["kind"], JobError)
    log = "" if known is ConfigError else f"; see {run.output}/{LOG}"
    return known(f"{run.model}, seed {run.seed}: {event['why']}{log}")


def _entry(run: TrainConfig, record: RunRecord | None, why: str | None, metrics: Sequence[Metric]) -> dict[str, Any]:
    values = {metric.name: metric.percent(record.metrics) if record else None for metric in metrics}
    if record and None in values.values():
        raise DataError("AP is not defined without objects in the evaluation part; compare on other data")
    return {
        "model": run.model,
        "seed": run.seed,
        "status": "done" if record else "failed",
        "why": why,
        **values,
        "record": asdict(record) if record else None,
    }
