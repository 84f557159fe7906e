"""Settings of the commands that use a finished network, or look for one. Imports nothing heavy."""

from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Literal

from attnorm.detection.config import is_detector, split_name
from attnorm.errors import ConfigError

# The fields of EvalConfig that have a meaning for a results file, a detector and a classification network.
RESULTS_FIELDS = ("annotations", "predictions", "iou_type", "backend", "per_category", "json")
COMMON_FIELDS = (
    *("checkpoint", "dataset", "data_dir", "val_split", "max_bad_images", "workers", "device"),
    *("amp", "amp_dtype", "json"),
)
DETECTOR_FIELDS = (
    *COMMON_FIELDS,
    *("image_size", "annotations", "images", "backend", "per_category", "save_predictions"),
)
CLASSIFIER_FIELDS = (
    *COMMON_FIELDS,
    *("id_dir", "outlier_score", "restrict_classes", "image_size", "crop_pct", "interpolation", "batch_size"),
    "channels_last",
)


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
        if self.describe is not None and is_detector(self.describe):
            _, backbone = split_name(self.describe)
            raise ConfigError(
                f"describe shows networks, of which a detector is built, and {self.describe} is one: give {backbone}, "
                "and print(create_detector(...)) for all of it"
            )
        if self.plot is not None and self.describe is None:
            raise ConfigError("plot draws the network that describe names, and it names none: add --describe NAME")
        if self.plot is not None and not self.plot.lower().endswith((".png", ".svg")):
            raise ConfigError(f"plot must end in .png or .svg; got {self.plot}")


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """A checkpoint measured on the evaluation part of a data set, beside what was published where something was.

    Or detections in a results file, measured against the ground truth: annotations and predictions, no checkpoint.

    Args:
        checkpoint: .safetensors file that `attnorm train`, `convert` or `swap` wrote, the name of a trained network
            that comes with the package (see `attnorm models`), or in timm's layout local-dir:FOLDER or
            hf-hub:USER/NAME.
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
        image_size: side of the images in pixels; the checkpoint's when not given. Of a detector's checkpoint only for
            dataset shapes, the side of the pictures that are drawn.
        crop_pct: part of the image that the centre crop keeps; the checkpoint's when not given.
        interpolation: how images are resized; the checkpoint's when not given.
        max_bad_images: unreadable images that are named and skipped before the job stops.
        annotations: the ground truth in COCO's JSON; of a detector's checkpoint the file seen from data_dir, found by
            name when not given.
        images: of a detector's checkpoint, the folder of the images seen from data_dir; found when not given.
        predictions: COCO's JSON of results that are measured in place of a checkpoint.
        iou_type: of predictions, whether boxes (bbox) or masks (segm) are compared; bbox when not given.
        backend: library that computes COCO's numbers; both give the same.
        per_category: print the AP of each category, even of more than 20; JSON always has it.
        save_predictions: write what a detector's checkpoint finds to this file, as COCO's JSON of results.
        batch_size: images per step and process, 256 when not given; a detector sees them one by one.
        workers: processes that read data.
        device: auto takes a CUDA device where there is one.
        amp: mixed precision.
        amp_dtype: the half of mixed precision.
        channels_last: channels-last memory format.
        json: also write the result to this file.
    """

    checkpoint: str | None = None
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
    annotations: str | None = None
    images: str | None = None
    predictions: str | None = None
    iou_type: Literal["bbox", "segm"] | None = None
    backend: Literal["faster-coco-eval", "pycocotools"] = "faster-coco-eval"
    per_category: bool = False
    save_predictions: str | None = None
    batch_size: int | None = None
    workers: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    amp: bool = False
    amp_dtype: Literal["bfloat16", "float16"] = "bfloat16"
    channels_last: bool = False
    json: str | None = None

    def __post_init__(self) -> None:
        """Refuses what cannot be meant."""
        self._check_what_is_measured()
        if self.batch_size is not None and self.batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.workers < 0:
            raise ConfigError(f"workers must not be negative, got {self.workers}")
        if len(set(self.datasets)) < len(self.datasets):
            raise ConfigError(f"dataset must name each data set once, got {self.dataset}")
        if self.id_dir is not None and "imagenet_o" not in self.datasets:
            raise ConfigError(f"id_dir belongs to dataset imagenet_o, got dataset {self.dataset}")

    def _check_what_is_measured(self) -> None:
        given = [name for name in ("annotations", "predictions") if getattr(self, name) is not None]
        if self.checkpoint is None and len(given) < 2:
            raise ConfigError(
                f"a checkpoint, or annotations and predictions, must be given; got {given[0] if given else 'neither'}"
            )
        if self.checkpoint is not None and self.predictions is not None:
            raise ConfigError("checkpoint and predictions exclude each other: each is measured by itself; got both")
        if self.checkpoint is not None and self.iou_type is not None:
            raise ConfigError(
                "iou_type belongs to predictions; of a detector's checkpoint all that it finds is measured"
            )
        if self.checkpoint is None:
            self.refuse_all_but(RESULTS_FIELDS, "predictions")

    def refuse_all_but(self, names: Collection[str], what: str) -> None:
        """Refuses fields that were set and would do nothing.

        Args:
            names: the fields that `what` knows.
            what: what is measured.
        """
        for item in fields(self):
            if item.name not in names and getattr(self, item.name) != item.default:
                raise ConfigError(f"{item.name} does nothing for {what}; got {getattr(self, item.name)}: leave it out")

    @property
    def datasets(self) -> tuple[str, ...]:
        """The names in `dataset`; none when it is not given."""
        return tuple(self.dataset.split(",")) if self.dataset is not None else ()


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """The most likely classes of images, or the objects in them if the checkpoint is a detector's.

    Args:
        checkpoint: .safetensors file that `attnorm train`, `convert` or `swap` wrote, the name of a trained network
            that comes with the package (see `attnorm models`), or in timm's layout local-dir:FOLDER or
            hf-hub:USER/NAME.
        input: an image, or a folder whose images are taken, with those of its subfolders.
        output: folder for predictions.json, one picture per image and, of a detector, results.json for COCO's tools.
        score_threshold: of a detector, objects of at most this score are left out; 0.5 when not given.
        device: auto takes a CUDA device where there is one.
    """

    checkpoint: str
    input: str
    output: str
    score_threshold: float | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        """Refuses what cannot be meant."""
        if self.score_threshold is not None and not 0 <= self.score_threshold <= 1:
            raise ConfigError(f"score_threshold must be from 0 to 1; got {self.score_threshold}")


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """An authors' checkpoint as this package's, or under the keys of one of their releases.

    The network or detector is recognised from the keys. The file's pickle is read as data: nothing in it is run. The
    weights stay under their authors' terms, which allow research only.

    Args:
        input: checkpoint of AOGNet-v2, AttentiveNorm_Detection or iVMCL-Release, or with --to a checkpoint of `attnorm
            train`.
        output: file to write: .safetensors for attnorm, .pth for the authors' keys (without a prefix).
        to: whose names the entries get; attentivenorm-detection is for detectors, the others are for networks.
        dataset: data set that the classes are of; a detector's are COCO's.
        backbone_only: leave out the classifier, or of a detector everything but the backbone.
        json: also write what was found and what became of it to this file.
    """

    input: str
    output: str
    to: Literal["attnorm", "aognet-v2", "ivmcl-release", "attentivenorm-detection"] = "attnorm"
    dataset: str = "imagenet"
    backbone_only: bool = False
    json: str | None = None

    def __post_init__(self) -> None:
        """Refuses an output that later commands could not tell."""
        endings = (".safetensors",) if self.to == "attnorm" else (".pth", ".pt", ".tar")
        if not self.output.endswith(endings):
            raise ConfigError(f"output must end in {' or '.join(endings)} for --to {self.to}; got {self.output}")
