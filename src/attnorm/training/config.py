"""What a training run is made of: one flat, frozen dataclass, whose fields are the flags and the recipe's keys.

Imports nothing heavy: the command line reads its flags from here before torch is loaded.
"""

import math
from dataclasses import MISSING, dataclass, field, fields, replace
from importlib.util import find_spec
from typing import Any, Literal

from attnorm.data.config import DataConfig
from attnorm.errors import ConfigError

# A field that says where, how fast or how visibly a run is done, but not what comes out of it. It may change at resume.
FREE: dict[str, Any] = {"free": True}
# The data fields of that sort; they are declared in attnorm.data, which knows nothing of resuming.
FREE_DATA_FIELDS = frozenset({"data_dir", "max_bad_images"})


@dataclass(frozen=True, kw_only=True)
class Recipe(DataConfig):
    """Everything that decides how a network is trained, except which network, which seed and where to.

    Args:
        num_classes: classes of the network; the data set's own number when not given.
        in_chans: image channels of the network; the data set's own number when not given.
        init: initial weights: timm's (for AOGNet, its own), or drawn as the authors' trainers drew them.
        drop: dropout rate before the classifier.
        drop_path: stochastic depth rate, for networks that have it.
        batch_size: images per process and step.
        grad_accum_steps: batches whose gradients are averaged before one optimizer step.
        opt: optimizer; "sgd" is plain SGD with momentum, any other name is timm's (adamw, lamb, ...).
        lr: peak learning rate; 0.1 when neither lr nor lr_base is given.
        lr_base: peak learning rate for lr_base_size images per optimizer step, scaled to those of this run (of all
            processes and accumulated batches); instead of lr.
        lr_base_size: images per optimizer step that lr_base is for.
        lr_base_scale: how lr_base is scaled: by the ratio of images per step, or by its square root.
        momentum: momentum of SGD and of the optimizers that have one.
        nesterov: Nesterov's momentum, for opt "sgd".
        weight_decay: weight decay.
        decay_norm: "all" decays every parameter as the paper does, "no_norm" leaves norm parameters and biases out.
        clip_grad: largest norm of the whole gradient; no clipping when not given.
        epochs: length of the run.
        warmup_epochs: linear warm-up; when not given 5, but no more than a tenth of the run.
        warmup_lr: learning rate at which the warm-up starts.
        min_lr: learning rate at the end of the half cosine.
        mixup: alpha of mixup's Beta distribution; 0 switches mixup off.
        cutmix: alpha of CutMix's; with both above 0 each batch has one or the other, at even odds.
        smoothing: label smoothing.
        amp: mixed precision.
        amp_dtype: the half of mixed precision.
        channels_last: channels-last memory format.
        torchcompile: compile the network with torch.compile.
        model_ema: average the weights exponentially; the average is what is evaluated and saved.
        model_ema_decay: decay of that average per step.
        sync_bn: statistics of normalisation over all processes.
        device: auto takes a CUDA device where there is one.
        workers: processes that read data; 0 reads in the training process.
        recovery_interval: batches between savings of the resume state within an epoch; 0 saves at the end of epochs.
        log_tensorboard: write TensorBoard logs too.
        log_wandb: log to Weights & Biases too.
        progress: progress bar; auto shows one on a terminal and prints one line per epoch elsewhere.
    """

    num_classes: int | None = None
    in_chans: int | None = None
    init: Literal["timm", "released"] = "timm"
    drop: float = 0.0
    drop_path: float = 0.0

    batch_size: int = 128
    grad_accum_steps: int = 1
    opt: str = "sgd"
    lr: float | None = None
    lr_base: float | None = None
    lr_base_size: int = 256
    lr_base_scale: Literal["linear", "sqrt"] = "linear"
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    decay_norm: Literal["all", "no_norm"] = "all"
    clip_grad: float | None = None

    epochs: int = 120
    warmup_epochs: float | None = None
    warmup_lr: float = 0.0
    min_lr: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    smoothing: float = 0.0

    amp: bool = False
    amp_dtype: Literal["bfloat16", "float16"] = "bfloat16"
    channels_last: bool = False
    torchcompile: bool = field(default=False, metadata=FREE)
    model_ema: bool = False
    model_ema_decay: float = 0.9998
    sync_bn: bool = False

    device: Literal["auto", "cpu", "cuda"] = field(default="auto", metadata=FREE)
    workers: int = field(default=0, metadata=FREE)
    recovery_interval: int = field(default=0, metadata=FREE)
    log_tensorboard: bool = field(default=False, metadata=FREE)
    log_wandb: bool = field(default=False, metadata=FREE)
    progress: Literal["auto", "bar", "plain", "none"] = field(default="auto", metadata=FREE)

    @property
    def precision(self) -> Literal["32", "bf16", "fp16"]:
        """Short name of the arithmetic: "32", "bf16" or "fp16"."""
        if not self.amp:
            return "32"
        return "bf16" if self.amp_dtype == "bfloat16" else "fp16"

    @property
    def warmup(self) -> float:
        """Length of the warm-up in epochs, with the default worked out."""
        return min(5.0, self.epochs / 10) if self.warmup_epochs is None else self.warmup_epochs

    def peak_lr(self, processes: int = 1) -> float:
        """Learning rate at the end of the warm-up, with `lr_base` scaled to the images per optimizer step."""
        if self.lr_base is None:
            return 0.1 if self.lr is None else self.lr
        ratio = self.batch_size * self.grad_accum_steps * processes / self.lr_base_size
        return self.lr_base * (ratio if self.lr_base_scale == "linear" else math.sqrt(ratio))


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Recipe):
    """One training run: a recipe, the network, the seed and the folder for the results.

    Args:
        model: name of the network, see `attnorm models`.
        output: folder for checkpoints, logs and the record.
        resume: "auto" goes on from the output folder where it can; a path goes on from that .ckpt file.
        seed: decides the initial weights, the order of the images and every random draw.
    """

    model: str
    output: str = field(metadata=FREE)
    resume: str | None = field(default=None, metadata=FREE)
    seed: int = 0


def resolve(config: TrainConfig) -> TrainConfig:
    """Puts in the defaults that depend on other fields, so that what is recorded says what was done."""
    lr = 0.1 if config.lr is None and config.lr_base is None else config.lr
    return replace(config, lr=lr, warmup_epochs=config.warmup)


def check_recipe(config: Recipe) -> None:
    """Refuses values that contradict each other or make no sense, before data or devices are touched.

    Raises:
        ConfigError: names the field, what it must be and what came.
    """
    positive = ("batch_size", "grad_accum_steps", "epochs", "lr_base_size")
    not_negative = (
        "workers",
        "recovery_interval",
        "weight_decay",
        "warmup_lr",
        "min_lr",
        "mixup",
        "cutmix",
        "max_bad_images",
    )
    fractions = ("smoothing", "drop", "drop_path", "momentum", "model_ema_decay")
    for item in fields(config):
        value = getattr(config, item.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{item.name} must be a finite number, got {value}")
    for name in positive:
        if getattr(config, name) < 1:
            raise ConfigError(f"{name} must be at least 1, got {getattr(config, name)}")
    for name in not_negative:
        if getattr(config, name) < 0:
            raise ConfigError(f"{name} must not be negative, got {getattr(config, name)}")
    for name in fractions:
        if not 0 <= getattr(config, name) < 1:
            raise ConfigError(f"{name} must be at least 0 and less than 1, got {getattr(config, name)}")
    for name in ("num_classes", "in_chans", "image_size"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}")
    _check_rates(config)
    _check_loggers(config)


def _check_rates(config: Recipe) -> None:
    if config.lr is not None and config.lr_base is not None:
        raise ConfigError(
            "lr and lr_base exclude each other: give lr for the rate itself, or lr_base for lr_base_size images"
        )
    for name in ("lr", "lr_base", "clip_grad"):
        value = getattr(config, name)
        if value is not None and value <= 0:
            raise ConfigError(f"{name} must be above 0, got {value}")
    for name in ("warmup_lr", "min_lr"):
        value = getattr(config, name)
        if value > config.peak_lr():
            raise ConfigError(f"{name} must not be above the peak learning rate {config.peak_lr():g}, got {value}")
    if not 0 <= config.warmup < config.epochs:
        raise ConfigError(
            f"warmup_epochs must be at least 0 and less than epochs ({config.epochs}), got {config.warmup_epochs}"
        )
    if config.nesterov and config.opt != "sgd":
        raise ConfigError(f'nesterov belongs to opt "sgd", got opt "{config.opt}"')
    if config.nesterov and config.momentum == 0:
        raise ConfigError("nesterov needs a momentum above 0")


def _check_loggers(config: Recipe) -> None:
    packages = {"log_tensorboard": ("tensorboard", "train"), "log_wandb": ("wandb", "wandb")}
    for name, (package, extra) in packages.items():
        if getattr(config, name) and find_spec(package) is None:
            raise ConfigError(
                f"{name} needs the package {package}, which is not installed; run: pip install 'attnorm[{extra}]'"
            )


def resume_differences(recorded: dict[str, Any], config: TrainConfig) -> list[str]:
    """Fields in which a recorded run differs from `config` so that going on would make neither of the two runs.

    Args:
        recorded: the resolved configuration as the run wrote it (`dataclasses.asdict`). A field that it lacks is
            younger than the run, which had what is now the field's default.
        config: what is asked for now.

    Returns:
        "name: recorded -> asked" for each such field.
    """
    config = resolve(config)
    differences: list[str] = []
    for item in fields(config):
        if item.metadata.get("free") or item.name in FREE_DATA_FIELDS:
            continue
        default = None if item.default is MISSING else item.default
        before, now = recorded.get(item.name, default), getattr(config, item.name)
        if before != now:
            differences.append(f"{item.name}: {before} -> {now}")
    return differences
