"""Settings of the commands that use a finished network, or look for one. Imports nothing heavy."""

from dataclasses import dataclass
from typing import Literal

from attnorm.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ModelsConfig:
    """The networks that `--model` takes, or one of them in detail.

    Args:
        filter: shell pattern of the names, for example 'resnet*_an'.
        json: write the list to this file instead of printing it.
        describe: name of one network: its parts, norms and, for an AOGNet, its graphs are printed instead.
        plot: draw the graphs of the AOGNet that `describe` names to this file, .png or .svg.
    """

    filter: str = "*"
    json: str | None = None
    describe: str | None = None
    plot: str | None = None

    def __post_init__(self) -> None:
        """Refuses what cannot be meant."""
        if self.describe is not None and (self.filter != "*" or self.json is not None):
            raise ConfigError(f"describe shows one network, {self.describe}: leave filter and json to the list")
        if self.plot is not None and self.describe is None:
            raise ConfigError("plot draws the network that describe names, and it names none: add --describe NAME")
        if self.plot is not None and not self.plot.lower().endswith((".png", ".svg")):
            raise ConfigError(f"plot must end in .png or .svg; got {self.plot}")


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """A checkpoint measured on the evaluation part of a data set, beside what was published where something was.

    Args:
        checkpoint: .safetensors file that `attnorm train` or `attnorm convert` wrote.
        dataset: data set, named as for `attnorm train`, or several separated by commas; the one it was trained on when
            not given. Besides: imagenet_real, imagenet_v2_matched_frequency, imagenet_v2_threshold0.7,
            imagenet_v2_topimages, imagenet_sketch, imagenet_a, imagenet_r and imagenet_o (outliers told from
            ImageNet's images by the network's sureness; accuracy on it, as once published, has no meaning).
        data_dir: folder that holds the data; for ImageNet's variants their own folder, or one that holds them all
            under their published names.
        val_split: part to evaluate on; the data set's own evaluation part when not given.
        id_dir: for imagenet_o, the folder of ImageNet or of its validation images; data_dir when not given.
        outlier_score: for imagenet_o, what an image counts as an outlier by: a low largest probability, or logit.
        restrict_classes: for data with some of the network's classes, let only their outputs compete; always so for
            imagenet_a and imagenet_r, whose protocol it is.
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
    id_dir: str | None = None
    outlier_score: Literal["max_softmax", "max_logit"] = "max_softmax"
    restrict_classes: bool = False
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
        if len(set(self.datasets)) < len(self.datasets):
            raise ConfigError(f"dataset must name each data set once, got {self.dataset}")
        if self.id_dir is not None and "imagenet_o" not in self.datasets:
            raise ConfigError(f"id_dir belongs to dataset imagenet_o, got dataset {self.dataset}")

    @property
    def datasets(self) -> tuple[str, ...]:
        """The names in `dataset`; none when it is not given."""
        return tuple(self.dataset.split(",")) if self.dataset is not None else ()


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """The most likely classes of images.

    Args:
        checkpoint: .safetensors file that `attnorm train` or `attnorm convert` wrote.
        input: an image, or a folder whose images are taken, with those of its subfolders.
        output: folder for predictions.json and one picture per image.
        device: auto takes a CUDA device where there is one.
    """

    checkpoint: str
    input: str
    output: str
    device: Literal["auto", "cpu", "cuda"] = "auto"


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """An authors' checkpoint as this package's, or under the keys of either of their releases.

    The network is recognised from the keys. The file's pickle is read as data: nothing in it is run. The weights stay
    under their authors' terms, which allow research only.

    Args:
        input: checkpoint of AOGNet-v2, AttentiveNorm_Detection (backbone only) or iVMCL-Release, or with --to a
            checkpoint of `attnorm train`.
        output: file to write: .safetensors for attnorm, .pth for the authors' keys (without a prefix).
        to: whose names the entries get.
        dataset: data set that the classes are of.
        backbone_only: leave out the classifier, or of a detector everything but the backbone.
        json: also write what was found and what became of it to this file.
    """

    input: str
    output: str
    to: Literal["attnorm", "aognet-v2", "ivmcl-release"] = "attnorm"
    dataset: str = "imagenet"
    backbone_only: bool = False
    json: str | None = None

    def __post_init__(self) -> None:
        """Refuses an output that later commands could not tell."""
        endings = (".safetensors",) if self.to == "attnorm" else (".pth", ".pt", ".tar")
        if not self.output.endswith(endings):
            raise ConfigError(f"output must end in {' or '.join(endings)} for --to {self.to}; got {self.output}")
