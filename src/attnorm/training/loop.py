"""`fit`: one training run from its configuration to its record."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from attnorm.data import ImageData, load_data, make_loader
from attnorm.data.loader import TrainSampler
from attnorm.errors import ConfigError
from attnorm.files import write_text_atomic
from attnorm.training.checkpoint import CheckpointMeta
from attnorm.training.config import TrainConfig, check_recipe, resolve
from attnorm.training.optimizer import check_optimizer
from attnorm.training.output import RECORD, Start, find_start
from attnorm.training.processes import Processes, check_precision, choose_device, process_group, wait_for_all
from attnorm.training.record import RunRecord, environment, git_state, versions

Row = dict[str, Any]


def fit(config: TrainConfig, *, quiet: bool = False, on_epoch: Callable[[Row], None] | None = None) -> RunRecord:
    """Trains a network as `config` says and leaves everything in `config.output`.

    Writes config.yaml at the start; metrics.csv, last.safetensors, best.safetensors and last.ckpt (what resuming needs)
    after each epoch; record.json at the end, so that a folder with a record holds a finished run.

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
    device = choose_device(config.device, processes)
    check_precision(config.precision, device)
    with process_group(processes, device):
        start = find_start(config, processes.count)
        if start.record is not None:
            return start.record
        data = load_data(config)
        model = build_network(config, data)
        wait_for_all()  # nobody may find files of this run in the output before having looked for another run's
        from attnorm.training.trainer import quiet_lightning

        with quiet_lightning():
            return _run(config, start, data, model, processes, device, quiet=quiet, on_epoch=on_epoch)


def build_network(config: TrainConfig, data: ImageData) -> nn.Module:
    """The network with the initial weights that the seed gives.

    Raises:
        ConfigError: the network does not fit the data, or cannot be built or initialised so.
    """
    from attnorm.models import create_model
    from attnorm.models.initialise import initialise_as_released

    num_classes = config.num_classes or len(data.classes)
    if num_classes < len(data.classes):
        raise ConfigError(f"num_classes must be at least {len(data.classes)} for {data.name}, got {num_classes}")
    in_chans = config.in_chans or data.in_chans
    if in_chans != data.in_chans:
        raise ConfigError(f"in_chans must be {data.in_chans} for {data.name}, got {in_chans}")
    rates = {"drop_rate": config.drop, "drop_path_rate": config.drop_path}
    torch.manual_seed(config.seed)
    try:
        model = create_model(
            config.model, num_classes=num_classes, in_chans=in_chans, **{k: v for k, v in rates.items() if v > 0}
        )
    except TypeError as error:
        raise ConfigError(f"{config.model} does not take these settings ({error}); leave them out") from None
    return initialise_as_released(model) if config.init == "released" else model


def _run(
    config: TrainConfig,
    start: Start,
    data: ImageData,
    model: nn.Module,
    processes: Processes,
    device: torch.device,
    *,
    quiet: bool,
    on_epoch: Callable[[Row], None] | None,
) -> RunRecord:
    from attnorm.training.callbacks import EpochEnd, Reporting, WeightAverage
    from attnorm.training.module import TrainModule
    from attnorm.training.progress import make_progress
    from attnorm.training.trainer import make_trainer, run_trainer

    if config.sync_bn and processes.count > 1:
        from attnorm.layers import sync_norm

        model = sync_norm(model)
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    assert data.train is not None
    assert data.val is not None
    loaders = [
        make_loader(part, batch_size=config.batch_size, train=train, seed=config.seed, workers=config.workers)
        for part, train in ((data.train, True), (data.val, False))
    ]
    if isinstance(loaders[0].sampler, TrainSampler):
        # Before Lightning restores the loader's state: at the end of an epoch that state has no images left.
        loaders[0].sampler.set_epoch(start.epoch)
    module = TrainModule(
        model,
        config,
        mean=data.mean,
        std=data.std,
        iterations=len(loaders[0]),
        processes=processes.count,
        rank=processes.rank,
    )
    if start.checkpoint is not None:
        module.last_checkpoint = str(start.checkpoint)
    average = WeightAverage(model, config.model_ema_decay) if config.model_ema else None
    if processes.is_first:
        write_config(config)
    progress = make_progress("none" if quiet or not processes.is_first else config.progress, config.epochs)
    told = tuple(tell for tell in (progress and progress.show, on_epoch) if tell is not None)
    ending = EpochEnd(
        config,
        loaders[1],
        _meta(config, data),
        average=average,
        reporting=Reporting(loggers=_loggers(config) if processes.is_first else (), on_epoch=told),
        is_first=processes.is_first,
    )
    if config.torchcompile:
        model.compile()
    trainer = make_trainer(config, processes, device, [c for c in (average, progress, ending) if c is not None])
    run_trainer(trainer, module, loaders[0], start.checkpoint)
    record = _record(config, data, model, ending.history, processes, device)
    if processes.is_first:
        record.save(Path(config.output) / RECORD)
    return record


def write_config(config: TrainConfig) -> None:
    """Writes the resolved configuration as config.yaml, which `attnorm train --config` reads back."""
    import yaml

    content = {key: value for key, value in asdict(config).items() if key not in ("output", "resume")}
    write_text_atomic(Path(config.output) / "config.yaml", yaml.safe_dump(content, sort_keys=False))


def _loggers(config: TrainConfig) -> tuple[Any, ...]:
    found: list[Any] = []
    if config.log_tensorboard:
        from lightning.pytorch.loggers import TensorBoardLogger

        found.append(TensorBoardLogger(config.output, name="tensorboard", version=""))
    if config.log_wandb:
        from lightning.pytorch.loggers import WandbLogger

        found.append(WandbLogger(save_dir=config.output, project="attnorm", config=asdict(config)))
    return tuple(found)


def _meta(config: TrainConfig, data: ImageData) -> CheckpointMeta:
    return CheckpointMeta(
        model=config.model,
        num_classes=config.num_classes or len(data.classes),
        in_chans=data.in_chans,
        classes=tuple(data.classes),
        dataset=data.name,
        image_size=data.image_size,
        mean=tuple(data.mean),
        std=tuple(data.std),
        crop_pct=data.crop_pct,
        interpolation=data.interpolation,
        attnorm_version=versions()["attnorm"],
    )


def _record(
    config: TrainConfig,
    data: ImageData,
    model: nn.Module,
    history: list[Row],
    processes: Processes,
    device: torch.device,
) -> RunRecord:
    last, best = history[-1], max(history, key=lambda row: (row["top1"], -row["epoch"]))
    return RunRecord(
        model=config.model,
        seed=config.seed,
        config=asdict(config),
        data={
            "name": data.name,
            "classes": list(data.classes),
            "in_chans": data.in_chans,
            "image_size": data.image_size,
            "mean": list(data.mean),
            "std": list(data.std),
            "train_images": len(data.train) if data.train is not None else 0,
            "val_images": last["val_count"],
        },
        history=history,
        top1=last["top1"],
        top5=last["top5"],
        val_loss=last["val_loss"],
        best_top1=best["top1"],
        best_epoch=best["epoch"],
        params=sum(p.numel() for p in model.parameters() if p.requires_grad),
        seconds_per_epoch=median(row["seconds"] for row in history),
        images_per_second=median(row["images_per_second"] for row in history),
        processes=processes.count,
        versions=versions(),
        git=git_state(),
        environment=environment(device),
    )
