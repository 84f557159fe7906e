"""Settings of `attnorm inspect`. Imports nothing heavy: the command line reads its flags from here."""

from dataclasses import dataclass
from typing import Literal

from attnorm.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """What the mixture weights of a trained network with AN do on the evaluation part of a data set.

    Writes report.html, inspect.json and the pictures as PNG.

    Args:
        checkpoint: .safetensors file that `attnorm train` or `attnorm convert` wrote, of a network with AN.
        dataset: data set, named as for `attnorm train`, with any classes; the one it was trained on when not given.
        data_dir: folder that holds the data.
        output: folder for the report.
        images: examples that are shown with their own weights, each of another class.
        max_images: so many images are looked at, evenly spread over the evaluation part; all when not given.
        layers: shell pattern of the names of the AN layers to look at, for example 'layer4.*'.
        val_split: part to look at; the data set's own evaluation part when not given.
        image_size: side of the images in pixels; the checkpoint's when not given. Of a detector only for shapes.
        annotations: for a detector, the file with COCO's JSON within data_dir; found by name when not given.
        image_folder: for a detector, the folder of the images within data_dir; found when not given.
        max_bad_images: unreadable images that are named and skipped before the job stops.
        batch_size: images per step, 256 when not given; not for a detector, which sees them one by one.
        workers: processes that read data.
        device: auto takes a CUDA device where there is one.
    """

    checkpoint: str
    dataset: str | None = None
    data_dir: str | None = None
    output: str
    images: int = 8
    max_images: int | None = None
    layers: str = "*"
    val_split: str | None = None
    image_size: int | None = None
    annotations: str | None = None
    image_folder: str | None = None
    max_bad_images: int = 10
    batch_size: int | None = None
    workers: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        """Refuses what cannot be meant."""
        if not self.output.strip():
            raise ConfigError("output must name a folder for the report; got an empty name")
        if self.images < 0:
            raise ConfigError(f"images must not be negative, got {self.images}")
        if self.max_images is not None and self.max_images < 2:
            raise ConfigError(f"max_images must be at least 2, since one image has no spread; got {self.max_images}")
        if self.batch_size is not None and self.batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.workers < 0:
            raise ConfigError(f"workers must not be negative, got {self.workers}")
