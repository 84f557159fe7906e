"""`fit`: one training run from its configuration to its record."""

import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import nn

from attnorm.errors import ConfigError
from attnorm.files import remove_parts, write_text_atomic
from attnorm.training.config import TrainConfig, plain, recorded
from attnorm.training.metric import best_row
from attnorm.training.output import RECORD
from attnorm.training.preparation import Prepared, launched, prepare
from attnorm.training.processes import Processes
from attnorm.training.record import RunRecord, environment, git_state, versions
from attnorm.training.resume import remove_old_states
from attnorm.training.task import Row, Task


def fit(config: TrainConfig, *, quiet: bool = False, on_epoch: Callable[[Row], None] | None = None) -> RunRecord:
    """Trains a network as `config` says and leaves everything in `config.output`.

    Writes config.yaml at the start; log.jsonl all along; metrics.csv, last.safetensors, best.safetensors and
    resume-*.ckpt (what resuming needs) after each epoch; record.json at the end, so that a folder with a record holds a
    finished run.

    Args:
        config: the run.
        quiet: print nothing.
        on_epoch: called in the first process after each epoch with its row of the history.

    Returns:
        The record. With `resume`, the record of a run that is already finished is returned at once.

    Raises:
        ConfigError: settings that contradict each other, or the output holds another run.
        DataError: data that are missing or damaged.
        CheckpointError: the state to resume from cannot be read.
        DivergedError: the loss left the finite numbers; checkpoints up to the epoch before are kept.
    """
    if config.dry_run:
        raise ConfigError("a dry run does not train: call attnorm.training.dry_run.dry_run, or leave dry_run out")
    from attnorm.training.trainer import quiet_lightning

    with launched(config) as launch:
        if launch.start.record is not None:
            return launch.start.record
        run = prepare(launch)
        with quiet_lightning():
            return _train(run, quiet=quiet, on_epoch=on_epoch)


def _train(run: Prepared, *, quiet: bool, on_epoch: Callable[[Row], None] | None) -> RunRecord:
    from attnorm.training.epoch_end import EpochEnd, Reporting
    from attnorm.training.fetching import FetchClock
    from attnorm.training.loggers import make_loggers
    from attnorm.training.progress import make_progress
    from attnorm.training.stopping import StopSignals
    from attnorm.training.trainer import make_trainer, run_trainer
    from attnorm.training.watch import RunLog

    launch, task = run.launch, run.task
    config, start, processes, device = launch.config, launch.start, launch.processes, launch.device
    talks = processes.is_first and not quiet and config.progress != "none"
    if talks:
        initial = [] if task.initial is None else [str(task.initial)]
        for line in start.notes if start.checkpoint is not None else [*task.notes, *initial]:
            print(line, file=sys.stderr, flush=True)
    if processes.is_first:
        # What a run that was killed had no time for.
        remove_parts(config.output)
        remove_old_states(Path(config.output), start.batches, keep=config.checkpoint_hist)
        write_config(config)
    progress = make_progress(config.progress if talks else "none", config.epochs, task.line, config.workers)
    told = tuple(tell for tell in (progress and progress.show, on_epoch) if tell is not None)
    clock, stop = FetchClock(device), StopSignals()
    log = RunLog(config, clock, device, processes, resumed_from=start.checkpoint)
    ending = EpochEnd(
        config,
        task,
        run.val,
        network=run.evaluated,
        stop=stop,
        clock=clock,
        reporting=Reporting(
            loggers=(log.write_epoch, *make_loggers(config)) if processes.is_first else (), on_epoch=told
        ),
        is_first=processes.is_first,
    )
    callbacks = [callback for callback in (run.average, log, progress, stop, ending) if callback is not None]
    trainer = make_trainer(config, processes, device, callbacks, clock=clock)
    with stop.listening():
        run_trainer(trainer, run.module, run.train, start.checkpoint)
    record = _record(config, task, run.model, ending.history, processes, device)
    if processes.is_first:
        record.save(Path(config.output) / RECORD)
    return record


def write_config(config: TrainConfig) -> None:
    """Writes the resolved configuration as config.yaml, which `attnorm train --config` reads back."""
    import yaml

    content = {key: value for key, value in recorded(config).items() if key not in ("output", "resume")}
    write_text_atomic(Path(config.output) / "config.yaml", yaml.safe_dump(content, sort_keys=False))


def _record(
    config: TrainConfig, task: Task, model: nn.Module, history: list[Row], processes: Processes, device: torch.device
) -> RunRecord:
    last, best = history[-1], best_row(history, task.metric)
    metrics = {name: last[name] for name in task.metrics}
    return RunRecord(
        model=config.model,
        seed=config.seed,
        config=recorded(config),
        data={**task.facts(), "train_images": len(task.train), "val_images": last["val_count"]},
        history=history,
        metrics=metrics,
        metric=task.metric.name,
        best=best[task.metric.name],
        best_epoch=best["epoch"],
        top1=metrics.get("top1"),
        top5=metrics.get("top5"),
        val_loss=metrics.get("val_loss"),
        best_top1=best.get("top1"),
        params=sum(p.numel() for p in model.parameters() if p.requires_grad),
        seconds_per_epoch=median(row["seconds"] for row in history),
        images_per_second=median(row["images_per_second"] for row in history),
        processes=processes.count,
        versions=versions(),
        git=git_state(),
        environment=environment(device),
        initial=None if task.initial is None else plain(task.initial.to_dict()),
    )
