"""Settings of the commands that use a finished network, or look for one. Imports nothing heavy."""

from dataclasses import dataclass
from typing import Literal

from attnorm.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ModelsConfig:
    """The networks that `--model` takes.

    Args:
        filter: shell pattern of the names, for example 'resnet*_an'.
        json: write the list to this file instead of printing it.
    """

    filter: str = "*"
    json: str | None = None


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """A checkpoint measured on the evaluation part of a data set.

    Args:
        checkpoint: .safetensors file that `attnorm train` wrote.
        dataset: data set, named as for `attnorm train`; the one it was trained on when not given.
        data_dir: folder that holds the data.
        val_split: part to evaluate on; the data set's own evaluation part when not given.
        image_size: side of the images in pixels; the checkpoint's when not given.
        crop_pct: part of the image that the centre crop keeps; the checkpoint's when not given.
        interpolation: how images are resized; the checkpoint's when not given.
        max_bad_images: unreadable images that are named and skipped before the job stops.
        batch_size: images per step and process.
        workers: processes that read data.
        device: auto takes a CUDA device where there is one.
        amp: mixed precision.
        amp_dtype: the half of mixed precision.
        channels_last: channels-last memory format.
        json: also write the result to this file.
    """

    checkpoint: str
    dataset: str | None = None
    data_dir: str | None = None
    val_split: str | None = None
    image_size: int | None = None
    crop_pct: float | None = None
    interpolation: str | None = None
    max_bad_images: int = 10
    batch_size: int = 256
    workers: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    amp: bool = False
    amp_dtype: Literal["bfloat16", "float16"] = "bfloat16"
    channels_last: bool = False
    json: str | None = None

    def __post_init__(self) -> None:
        """Refuses what cannot be meant."""
        if self.batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.workers < 0:
            raise ConfigError(f"workers must not be negative, got {self.workers}")


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """The most likely classes of images.

    Args:
        checkpoint: .safetensors file that `attnorm train` wrote.
        input: an image, or a folder whose images are taken, with those of its subfolders.
        output: folder for predictions.json and one picture per image.
        device: auto takes a CUDA device where there is one.
    """

    checkpoint: str
    input: str
    output: str
    device: Literal["auto", "cpu", "cuda"] = "auto"
