"""What a recipe must not be: values out of range, fields that contradict each other or belong to the other task."""

import math
from dataclasses import MISSING, fields
from importlib.util import find_spec
from typing import Any

from attnorm.data.coco_config import DETECTION, CocoConfig
from attnorm.detection.config import DetectorConfig, is_detector, split_name
from attnorm.errors import ConfigError
from attnorm.training.config import Recipe

# What a detector has no use for, and what serves in its place.
CLASSIFICATION_ONLY = {
    "num_classes": "the data set's categories are the classes",
    "in_chans": "a detector takes images of three channels, which grey ones are made into",
    "train_split": "coco.train_annotations names the part",
    "val_split": "coco.val_annotations names the part",
    "augment": "use coco.augment",
    "aa": "use coco.augment",
    "reprob": "use coco.augment",
    "interpolation": "detector.conventions says how images are resized",
    "crop_pct": "images are resized to detector.min_size and not cut",
    "init": "leave it out",
    "drop": "leave it out",
    "mixup": "leave it out",
    "cutmix": "leave it out",
    "smoothing": "leave it out",
    "sync_bn": "use detector.norm_policy sync",
    "strategy": "detectors are trained by ddp",
    "torchcompile": "images of changing sizes would be compiled again and again",
}

# Those that treat each number of a parameter by itself, so that it does not matter which process has it.
FSDP_OPTIMIZERS = ("sgd", "adamw")


def check_recipe(config: Recipe) -> None:
    """Refuses values of `config` that contradict each other or make no sense, before data or devices are touched.

    Raises:
        ConfigError: names the field, what it must be and what came.
    """
    _check_ranges(config)
    _check_rates(config)
    _check_schedule(config)
    _check_loggers(config)
    _check_task(config)
    _check_strategy(config)
    if config.pretrained and config.initial_checkpoint is not None:
        raise ConfigError(
            "pretrained and initial_checkpoint exclude each other: give the first for timm's weights, or the second "
            f"for those of a file; got both, with {config.initial_checkpoint}"
        )


def _check_ranges(config: Recipe) -> None:
    positive = (
        "batch_size",
        "grad_accum_steps",
        "epochs",
        "lr_base_size",
        "num_classes",
        "in_chans",
        "image_size",
        "checkpoint_hist",
    )
    not_negative = (
        "workers",
        "recovery_interval",
        "log_interval",
        "weight_decay",
        "warmup_lr",
        "min_lr",
        "mixup",
        "cutmix",
        "max_bad_images",
        "warmup_iters",
    )
    fractions = ("smoothing", "drop", "drop_path", "momentum", "model_ema_decay")
    values = {item.name: getattr(config, item.name) for item in fields(config)}
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{name} must be a finite number, got {value}")
    for name in positive:
        if values[name] is not None and values[name] < 1:
            raise ConfigError(f"{name} must be at least 1, got {values[name]}")
    for name in not_negative:
        if values[name] is not None and values[name] < 0:
            raise ConfigError(f"{name} must not be negative, got {values[name]}")
    for name in fractions:
        if not 0 <= values[name] < 1:
            raise ConfigError(f"{name} must be at least 0 and less than 1, got {values[name]}")


def _check_rates(config: Recipe) -> None:
    if config.lr is not None and config.lr_base is not None:
        raise ConfigError(
            "lr and lr_base exclude each other: give lr for the rate itself, or lr_base for lr_base_size images"
        )
    for name in ("lr", "lr_base", "clip_grad"):
        value = getattr(config, name)
        if value is not None and value <= 0:
            raise ConfigError(f"{name} must be above 0, got {value}")
    if config.rates[1] is None:  # else the peak depends on the number of processes
        check_peak(config, 1)
    if config.nesterov and config.opt != "sgd":
        raise ConfigError(f'nesterov belongs to opt "sgd", got opt "{config.opt}"')
    if config.nesterov and config.momentum == 0:
        raise ConfigError("nesterov needs a momentum above 0")


def check_peak(config: Recipe, processes: int) -> None:
    """Refuses rates at the start and end of a run above the one in between.

    Raises:
        ConfigError: names the field and the peak for so many processes.
    """
    peak = config.peak_lr(processes)
    for name in ("warmup_lr", "min_lr"):
        value = getattr(config, name)
        if value > peak:
            images = config.batch * config.grad_accum_steps * processes
            raise ConfigError(
                f"{name} must not be above the peak learning rate, {peak:g} for {images} images per step; got {value}"
            )


def check_batch(config: Recipe, model: Any) -> None:
    """Refuses batches of one image for a network whose attention is normalised over the batch.

    Args:
        config: the run.
        model: the network in training mode, as it will be trained.

    Raises:
        ConfigError: says what to take instead.
    """
    from attnorm.layers.attention import LogitNorm

    try:
        for module in model.modules():
            if isinstance(module, LogitNorm):
                module.check_count(config.batch)
    except ValueError:
        instead = "detector.norm_policy eval" if config.detects else "batch_size 2"
        raise ConfigError(
            f"batch_size must be at least 2 for {config.networks[0]}, whose attention is normalised over the images of "
            f"a batch, unless several processes share their statistics; got {config.batch}: take {instead}"
        ) from None


def _check_schedule(config: Recipe) -> None:
    if config.warmup_epochs is not None and config.warmup_iters is not None:
        raise ConfigError(
            "warmup_epochs and warmup_iters exclude each other: give the length of the warm-up in epochs or in steps"
        )
    if not 0 <= config.warmup < config.epochs:
        raise ConfigError(
            f"warmup_epochs must be at least 0 and less than epochs ({config.epochs}), got {config.warmup_epochs}"
        )
    milestones, name = config.decay_milestones, "decay_milestones"
    if config.sched == "cosine":
        if milestones or config.decay_rate != Recipe.decay_rate:
            raise ConfigError(f"{name} and decay_rate belong to sched multistep; got them with sched {config.sched}")
        return
    if not milestones or list(milestones) != sorted(set(milestones)) or not 0 < milestones[0] <= milestones[-1]:
        raise ConfigError(f"{name} must be epochs in ascending order, such as [16,22], for sched multistep; "
                          f"got {list(milestones)}")  # fmt: skip
    if milestones[-1] >= config.epochs:
        raise ConfigError(f"{name} must be less than epochs ({config.epochs}), got {list(milestones)}")
    if not 0 < config.decay_rate < 1:
        raise ConfigError(f"decay_rate must be above 0 and less than 1, got {config.decay_rate}")
    if config.min_lr:
        raise ConfigError(f"min_lr belongs to sched cosine; got {config.min_lr} with sched multistep")


def _check_strategy(config: Recipe) -> None:
    """Refuses with strategy fsdp what would not be exact or is not known to work."""
    if config.strategy != "fsdp":
        return
    if not config.sync_bn:
        raise ConfigError("strategy fsdp needs sync_bn: the running statistics of a process are its own otherwise")
    if config.opt not in FSDP_OPTIMIZERS:
        raise ConfigError(f"opt must be {' or '.join(FSDP_OPTIMIZERS)} with strategy fsdp; got {config.opt}")
    refused = [name for name in ("model_ema", "torchcompile", "channels_last") if getattr(config, name)]
    refused += ["amp_dtype float16"] if config.precision == "fp16" else []
    if refused:
        raise ConfigError(f"{refused[0]} does not go together with strategy fsdp; leave it out, or use strategy ddp")


def check_processes(config: Recipe, processes: int) -> None:
    """Refuses to shard over one process.

    Raises:
        ConfigError: says how to start several.
    """
    if config.strategy == "fsdp" and processes == 1:
        raise ConfigError("strategy fsdp is for several processes, and this is one: start them by torchrun")


def _check_loggers(config: Recipe) -> None:
    packages = {"log_tensorboard": ("tensorboard", "train"), "log_wandb": ("wandb", "wandb")}
    for name, (package, extra) in packages.items():
        if getattr(config, name) and find_spec(package) is None:
            raise ConfigError(
                f"{name} needs the package {package}, which is not installed; run: pip install 'attnorm[{extra}]'"
            )


def _check_task(config: Recipe) -> None:
    """A detector, data with boxes and the sections of detection go together, or none of them is there."""
    if not config.networks:
        return
    detectors = [name for name in config.networks if is_detector(name)]
    others = [name for name in config.networks if not is_detector(name)]
    if detectors and others:
        raise ConfigError(f"detectors and other networks cannot be compared; got {detectors[0]} and {others[0]}")
    if not detectors:
        _check_classification(config, others[0])
        return
    for name in detectors:
        split_name(name)
    if config.dataset not in DETECTION:
        raise ConfigError(
            f"{detectors[0]} is a detector and needs dataset {' or '.join(DETECTION)}; got dataset {config.dataset}"
        )
    _check_detection_data(config)
    for item in fields(Recipe):
        default = None if item.default is MISSING else item.default
        if item.name in CLASSIFICATION_ONLY and getattr(config, item.name) != default:
            raise ConfigError(
                f"{item.name} is not for detectors ({CLASSIFICATION_ONLY[item.name]}); "
                f"got {getattr(config, item.name)} with {detectors[0]}"
            )


def _check_detection_data(config: Recipe) -> None:
    """Refuses settings of the data that would do nothing, or be undone."""
    coco, detector = config.coco, config.detector
    if config.dataset == "coco" and config.image_size is not None:
        raise ConfigError(
            f"image_size is not for dataset coco: use detector.min_size and max_size; got {config.image_size}"
        )
    files = ("train_annotations", "val_annotations", "train_images", "val_images")
    given = [f"coco.{name}" for name in files if getattr(coco, name) is not None]
    given += ["data_dir"] if config.data_dir is not None else []
    if config.dataset == "shapes" and given:
        raise ConfigError(f"{given[0]} does nothing for dataset shapes, which is drawn; use dataset coco for your own")
    side = coco.jitter_size
    if coco.augment == "lsj" and (detector.min_sizes != (side,) or detector.max_size < side):
        raise ConfigError(
            f"coco.augment lsj makes squares of {side} pixels, which detector.min_size {detector.min_size} and "
            f"max_size {detector.max_size} would resize again: give detector.min_size and max_size {side}"
        )


def _check_classification(config: Recipe, network: str) -> None:
    if config.dataset in DETECTION:
        raise ConfigError(
            f"dataset {config.dataset} has boxes and needs a detector, such as mask_rcnn_{network}_fpn; got {network}"
        )
    for name, default in (("detector", DetectorConfig()), ("coco", CocoConfig())):
        if getattr(config, name) != default:
            raise ConfigError(f"{name}.* is for detectors, such as mask_rcnn_{network}_fpn; got it with {network}")
