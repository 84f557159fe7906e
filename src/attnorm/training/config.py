"""What a training run is made of: one frozen dataclass, whose fields are the flags and the recipe's keys.

What belongs to detection alone is in two sections of it: `coco`, the data, and `detector`, the network's parts.

Imports nothing heavy: the command line reads its flags from here before torch is loaded.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from attnorm.data.config import DataConfig
from attnorm.detection.config import DetectorConfig, is_detector

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
        pretrained: start from timm's pretrained weights of the network, or of a detector's backbone.
        initial_checkpoint: start from the weights of this file as far as they fit: a checkpoint of this package or of
            the authors, a plain state dict, or in timm's layout local-dir:FOLDER or hf-hub:USER/NAME. What was taken is
            printed and stands in the record.
        drop: dropout rate before the classifier.
        drop_path: stochastic depth rate, for networks that have it.
        batch_size: images per process and step; when not given 128, or 2 for a detector.
        grad_accum_steps: batches whose gradients are averaged before one optimizer step.
        opt: optimizer; "sgd" is plain SGD with momentum, any other name is timm's (adamw, lamb, ...).
        lr: peak learning rate; when neither lr nor lr_base is given 0.1, or for a detector lr_base 0.02 for 16 images.
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
        sched: how the learning rate falls after the warm-up: as half a cosine, or in steps.
        decay_milestones: for sched multistep, the epochs after which it falls, for example [16,22].
        decay_rate: for sched multistep, what it is multiplied by there.
        warmup_epochs: linear warm-up; when not given 5, but no more than a tenth of the run.
        warmup_iters: linear warm-up in optimizer steps instead of epochs.
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
        strategy: ddp keeps the whole network and its optimizer's state in every process; fsdp keeps a part of them in
            each, between the steps, and needs sync_bn. What comes out is the same to rounding.
        device: auto takes a CUDA device where there is one.
        workers: processes that read data; 0 reads in the training process.
        recovery_interval: batches between savings of the resume state within an epoch; 0 saves at the end of epochs.
        checkpoint_hist: resume states to keep, of which the newest that is whole is gone on from.
        log_interval: batches between lines of log.jsonl, which has one for each epoch too; 0 leaves only those.
        log_tensorboard: write TensorBoard logs too.
        log_wandb: log to Weights & Biases too.
        progress: progress bar; auto shows one on a terminal and prints one line per epoch elsewhere.
        detector: for detection: how the detector is built round its backbone.
    """

    num_classes: int | None = None
    in_chans: int | None = None
    init: Literal["timm", "released"] = "timm"
    pretrained: bool = False
    initial_checkpoint: str | None = None
    drop: float = 0.0
    drop_path: float = 0.0

    batch_size: int | None = None
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
    sched: Literal["cosine", "multistep"] = "cosine"
    decay_milestones: tuple[int, ...] = ()
    decay_rate: float = 0.1
    warmup_epochs: float | None = None
    warmup_iters: int | None = None
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
    strategy: Literal["ddp", "fsdp"] = "ddp"

    device: Literal["auto", "cpu", "cuda"] = field(default="auto", metadata=FREE)
    workers: int = field(default=0, metadata=FREE)
    recovery_interval: int = field(default=0, metadata=FREE)
    checkpoint_hist: int = field(default=2, metadata=FREE)
    log_interval: int = field(default=50, metadata=FREE)
    log_tensorboard: bool = field(default=False, metadata=FREE)
    log_wandb: bool = field(default=False, metadata=FREE)
    progress: Literal["auto", "bar", "plain", "none"] = field(default="auto", metadata=FREE)

    detector: DetectorConfig = field(default_factory=DetectorConfig)

    @property
    def networks(self) -> tuple[str, ...]:
        """Names of the networks that are trained so; none for a recipe by itself."""
        return ()

    @property
    def detects(self) -> bool:
        """Whether what is trained is a detector, as its name says."""
        return any(is_detector(name) for name in self.networks)

    @property
    def batch(self) -> int:
        """Images per process and step, with the default worked out."""
        return (2 if self.detects else 128) if self.batch_size is None else self.batch_size

    @property
    def precision(self) -> Literal["32", "bf16", "fp16"]:
        """Short name of the arithmetic: "32", "bf16" or "fp16"."""
        if not self.amp:
            return "32"
        return "bf16" if self.amp_dtype == "bfloat16" else "fp16"

    @property
    def warmup(self) -> float:
        """Length of the warm-up in epochs, where it is not given in steps, with the default worked out."""
        return min(5.0, self.epochs / 10) if self.warmup_epochs is None else self.warmup_epochs

    @property
    def rates(self) -> tuple[float | None, float | None, int]:
        """`lr`, `lr_base` and `lr_base_size` with the defaults worked out."""
        if self.lr is None and self.lr_base is None:
            return (None, 0.02, 16) if self.detects else (0.1, None, self.lr_base_size)
        return self.lr, self.lr_base, self.lr_base_size

    def peak_lr(self, processes: int = 1) -> float:
        """Learning rate at the end of the warm-up, with `lr_base` scaled to the images per optimizer step."""
        lr, lr_base, lr_base_size = self.rates
        if lr_base is None:
            assert lr is not None  # one of the two is there
            return lr
        ratio = self.batch * self.grad_accum_steps * processes / lr_base_size
        return lr_base * (ratio if self.lr_base_scale == "linear" else math.sqrt(ratio))


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Recipe):
    """One training run: a recipe, the network, the seed and the folder for the results.

    Args:
        model: name of the network, see `attnorm models`.
        output: folder for checkpoints, logs and the record.
        resume: "auto" goes on from the output folder where it can; a path goes on from that .ckpt file.
        seed: decides the initial weights, the order of the images and every random draw.
        dry_run: check settings, data, memory, time and room on the disk, say what would be done, and write nothing.
    """

    model: str
    output: str = field(metadata=FREE)
    resume: str | None = field(default=None, metadata=FREE)
    seed: int = 0
    dry_run: bool = field(default=False, metadata=FREE)

    @property
    def networks(self) -> tuple[str, ...]:
        """The one network."""
        return (self.model,)


def resolve(config: TrainConfig) -> TrainConfig:
    """Puts in the defaults that depend on other fields, so that what is recorded says what was done."""
    lr, lr_base, lr_base_size = config.rates
    warmup_epochs = config.warmup if config.warmup_iters is None else None
    detector = config.detector
    if config.detects:
        from attnorm.detection.create import resolve as resolve_detector

        pretrained = config.pretrained or config.initial_checkpoint is not None
        detector = resolve_detector(config.model, detector, pretrained=pretrained)
    return replace(
        config,
        lr=lr,
        lr_base=lr_base,
        lr_base_size=lr_base_size,
        warmup_epochs=warmup_epochs,
        batch_size=config.batch,
        detector=detector,
    )


def recorded(config: Recipe) -> dict[str, Any]:
    """The configuration as files hold it: dictionaries and lists, without the sections that are for detection alone.

    Nor with `dry_run`: a run that has files is none.
    """
    content = plain(asdict(config))
    content.pop("dry_run", None)
    if not config.detects:
        del content["coco"], content["detector"]
    return content


def plain(value: Any) -> Any:
    """Nested dictionaries and sequences as JSON gives them back."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _flat(content: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of sections beside the others, as "section.name"."""
    flat: dict[str, Any] = {}
    for key, value in plain(content).items():
        flat |= {f"{key}.{name}": item for name, item in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def resume_differences(before: dict[str, Any], config: TrainConfig) -> list[str]:
    """Fields in which a recorded run differs from `config` so that going on would make neither of the two runs.

    Args:
        before: the resolved configuration as the run wrote it (`recorded`). A field that it lacks is younger than the
            run, which had what is now the field's default.
        config: what is asked for now.

    Returns:
        "name: recorded -> asked" for each such field, "section.name" for one of a section.
    """
    free = FREE_DATA_FIELDS | {item.name for item in fields(config) if item.metadata.get("free")}
    default = TrainConfig(model=config.model, output=config.output)
    then = _flat(asdict(default)) | _flat(before)
    now = _flat(asdict(resolve(config)))
    changed = [name for name in now if name not in free and then[name] != now[name]]
    return [f"{name}: {then[name]} -> {now[name]}" for name in changed]
