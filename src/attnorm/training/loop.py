"""`fit`: one training run from its configuration to its record."""

import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from attnorm.data import make_loader
from attnorm.data.loader import TrainSampler
from attnorm.errors import ConfigError
from attnorm.files import remove_parts, write_text_atomic
from attnorm.training.checks import check_batch, check_peak, check_recipe
from attnorm.training.config import TrainConfig, plain, recorded, resolve
from attnorm.training.metric import best_row
from attnorm.training.optimizer import check_optimizer
from attnorm.training.output import RECORD, Start, find_start
from attnorm.training.processes import (
    Processes,
    check_precision,
    choose_device,
    process_group,
    sum_over_processes,
    wait_for_all,
)
from attnorm.training.record import RunRecord, environment, git_state, versions
from attnorm.training.task import Row, Task, make_task


def fit(config: TrainConfig, *, quiet: bool = False, on_epoch: Callable[[Row], None] | None = None) -> RunRecord:
    """Trains a network as `config` says and leaves everything in `config.output`.

    Writes config.yaml at the start; metrics.csv, last.safetensors, best.safetensors and resume-*.ckpt (what resuming
    needs) after each epoch; record.json at the end, so that a folder with a record holds a finished run.

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
    config = resolve(config)
    check_recipe(config)
    check_optimizer(config)
    processes = Processes.from_environment()
    check_peak(config, processes.count)
    device = choose_device(config.device, processes)
    check_precision(config.precision, device)
    with process_group(processes, device):
        start = find_start(config, processes.count)
        _check_same_start(start, processes, device)
        if start.record is not None:
            return start.record
        task = make_task(config)
        model = task.network()
        wait_for_all()  # nobody may find files of this run in the output before having looked for another run's
        from attnorm.training.trainer import quiet_lightning

        with quiet_lightning():
            return _run(config, start, task, model, processes, device, quiet=quiet, on_epoch=on_epoch)


def _run(
    config: TrainConfig,
    start: Start,
    task: Task,
    model: nn.Module,
    processes: Processes,
    device: torch.device,
    *,
    quiet: bool,
    on_epoch: Callable[[Row], None] | None,
) -> RunRecord:
    from attnorm.training.averaging import WeightAverage
    from attnorm.training.epoch_end import EpochEnd, Reporting
    from attnorm.training.module import TrainModule
    from attnorm.training.progress import make_progress
    from attnorm.training.stopping import StopSignals
    from attnorm.training.trainer import make_trainer, run_trainer

    if config.sync_bn and processes.count > 1:
        from attnorm.layers import sync_norm

        model = sync_norm(model)
    check_batch(config, model)
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    loaders = [
        make_loader(part, batch_size=config.batch, train=train, seed=config.seed, workers=config.workers)
        for part, train in ((task.train, True), (task.val, False))
    ]
    _check_warmup(config, len(loaders[0]))
    if isinstance(loaders[0].sampler, TrainSampler):
        # Before Lightning restores the loader's state: at the end of an epoch that state has no images left.
        loaders[0].sampler.set_epoch(start.batches // len(loaders[0]))
    module = TrainModule(
        model,
        config,
        task,
        iterations=len(loaders[0]),
        processes=processes.count,
        rank=processes.rank,
    )
    if start.checkpoint is not None:
        module.last_checkpoint = str(start.checkpoint)
    talks = processes.is_first and not quiet and config.progress != "none"
    if talks:
        initial = [] if task.initial is None else [str(task.initial)]
        for line in start.notes if start.checkpoint is not None else [*task.notes, *initial]:
            print(line, file=sys.stderr, flush=True)
    average = WeightAverage(model, config.model_ema_decay) if config.model_ema else None
    if processes.is_first:
        remove_parts(config.output)
        write_config(config)
    progress = make_progress("none" if quiet or not processes.is_first else config.progress, config.epochs, task.line)
    told = tuple(tell for tell in (progress and progress.show, on_epoch) if tell is not None)
    stop = StopSignals()
    ending = EpochEnd(
        config,
        task,
        loaders[1],
        average=average,
        stop=stop,
        reporting=Reporting(loggers=_loggers(config) if processes.is_first else (), on_epoch=told),
        is_first=processes.is_first,
    )
    if config.torchcompile:
        model.compile()
    trainer = make_trainer(config, processes, device, [c for c in (average, progress, stop, ending) if c is not None])
    with stop.listening():
        run_trainer(trainer, module, loaders[0], start.checkpoint)
    record = _record(config, task, model, ending.history, processes, device)
    if processes.is_first:
        record.save(Path(config.output) / RECORD)
    return record


def _check_same_start(start: Start, processes: Processes, device: torch.device) -> None:
    """Refuses to go on where the processes found different states: one machine's disk is not the others'."""
    own = start.batches if start.record is None else -1
    found = sum_over_processes([float(own * (rank == processes.rank)) for rank in range(processes.count)], device)
    if len(set(found)) > 1:
        raise ConfigError(
            "output must be a folder that all processes see, and they find runs there of "
            f"{', '.join(f'{count:.0f}' for count in found)} batches; name one on a disk that the machines share"
        )


def _check_warmup(config: TrainConfig, iterations: int) -> None:
    steps = config.epochs * iterations // config.grad_accum_steps
    if config.warmup_iters is not None and config.warmup_iters >= steps:
        raise ConfigError(f"warmup_iters must be less than the {steps} steps of the run, got {config.warmup_iters}")


def write_config(config: TrainConfig) -> None:
    """Writes the resolved configuration as config.yaml, which `attnorm train --config` reads back."""
    import yaml

    content = {key: value for key, value in recorded(config).items() if key not in ("output", "resume")}
    write_text_atomic(Path(config.output) / "config.yaml", yaml.safe_dump(content, sort_keys=False))


def _loggers(config: TrainConfig) -> tuple[Any, ...]:
    found: list[Any] = []
    if config.log_tensorboard:
        from lightning.pytorch.loggers import TensorBoardLogger

        found.append(TensorBoardLogger(config.output, name="tensorboard", version=""))
    if config.log_wandb:
        from lightning.pytorch.loggers import WandbLogger

        found.append(WandbLogger(save_dir=config.output, project="attnorm", config=recorded(config)))
    return tuple(found)


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
