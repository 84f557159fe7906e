"""`attnorm eval`: a checkpoint measured on a data set."""

import math
import sys
from typing import Any

import torch

from attnorm.data import DataConfig, ImageData, load_data, make_loader
from attnorm.errors import DataError
from attnorm.files import write_json_atomic
from attnorm.training.checkpoint import CheckpointMeta, load_checkpoint
from attnorm.training.evaluation import evaluate
from attnorm.training.processes import Processes, check_precision, choose_device, process_group
from attnorm.training.use_config import EvalConfig


def evaluate_checkpoint(config: EvalConfig) -> dict[str, Any]:
    """Loads a checkpoint and evaluates it as the run that made it did; under torchrun in several processes.

    Args:
        config: what to evaluate on what. What is not given is taken from the checkpoint.

    Returns:
        checkpoint, model, dataset, top1, top5 (percent), loss (None when not finite) and count; written to
        `config.json` too when that is given.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        DataError: the data are missing, damaged, or of other classes or channels than the network's.
    """
    processes = Processes.from_environment()
    device = choose_device(config.device, processes)
    precision = ("bf16" if config.amp_dtype == "bfloat16" else "fp16") if config.amp else "32"
    check_precision(precision, device)
    model, meta = load_checkpoint(config.checkpoint)
    with process_group(processes, device):
        data = load_data(_data_config(config, meta), parts=("val",))
        _check_fit(data, meta, config.checkpoint)
        assert data.val is not None
        loader = make_loader(data.val, batch_size=config.batch_size, train=False, workers=config.workers)
        model = model.to(device)
        if config.channels_last:
            model = model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        numbers = evaluate(
            model, loader, mean=meta.mean, std=meta.std, precision=precision, channels_last=config.channels_last
        )
    loss = numbers["loss"] if math.isfinite(numbers["loss"]) else None
    result = {
        "checkpoint": config.checkpoint,
        "model": meta.model,
        "dataset": data.name,
        **numbers,
        "loss": loss,
    }
    if config.json is not None and processes.is_first:
        write_json_atomic(config.json, result)
    return result


def _data_config(config: EvalConfig, meta: CheckpointMeta) -> DataConfig:
    chosen = {
        "dataset": config.dataset or meta.dataset,
        "data_dir": config.data_dir,
        "val_split": config.val_split,
        "image_size": config.image_size or meta.image_size,
        "crop_pct": config.crop_pct or meta.crop_pct,
        "interpolation": config.interpolation or meta.interpolation,
        "max_bad_images": config.max_bad_images,
    }
    return DataConfig(**chosen)


def _check_fit(data: ImageData, meta: CheckpointMeta, checkpoint: str) -> None:
    if len(data.classes) != len(meta.classes):
        raise DataError(
            f"{data.name} must have the {len(meta.classes)} classes of {checkpoint}, it has {len(data.classes)}; "
            "a label would mean another class"
        )
    if data.in_chans != meta.in_chans:
        raise DataError(
            f"{data.name} must have the {meta.in_chans} channels of {checkpoint}, it has {data.in_chans}; "
            "evaluate on the data that the network is made for"
        )
    if tuple(data.classes) != meta.classes:
        names = next((a, b) for a, b in zip(data.classes, meta.classes, strict=True) if a != b)
        print(
            f"attnorm: warning: classes of {data.name} and of {checkpoint} have other names (first: {names[0]!r} and "
            f"{names[1]!r}); the count is right only if their order is the same",
            file=sys.stderr,
        )
