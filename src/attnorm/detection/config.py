"""What a detector is made of, apart from its backbone and classes. Imports nothing heavy: these are flags too."""

from dataclasses import dataclass
from typing import Any, Literal

from attnorm.errors import ConfigError

HeadNorm = Literal["none", "gn", "an_gn"]
NormPolicy = Literal["frozen", "eval", "train", "sync"]
HEAD_NORMS = ("none", "gn", "an_gn")
KINDS = ("faster_rcnn", "mask_rcnn", "cascade_mask_rcnn")
GROUPS = 32  # of GroupNorm, and of AN on it, in the FPN and heads
CONVS = 4  # convolutions of a 4conv1fc box head and of a mask head; levels of the FPN that have their own convolutions


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """How a detector is built round its backbone.

    Attributes:
        conventions: "modern" is torchvision's geometry; "v1" is that of the detectors that the authors released
            (boxes whose last pixel lies inside, the old RoIAlign, rounded anchors, ...).
        fpn_channels: channels of every level of the FPN, which are those of the heads' convolutions too; torchvision's
            256 when not given. With norms, a multiple of their 32 groups.
        fpn_norm: norm after the convolutions of the FPN: none, gn (GroupNorm, 32 groups) or an_gn (AN on it).
        box_head: 2fc (two fully connected layers) or 4conv1fc (four 3x3 convolutions and one).
        box_hidden: outputs of the fully connected layers of the box head; torchvision's 1024 when not given.
        box_norm: norm after the convolutions of a 4conv1fc box head, as fpn_norm.
        mask_norm: norm after the convolutions of the mask head, as fpn_norm.
        num_components: K of AN in the FPN and heads: one for all, or one for each of the four convolutions of a head
            (in the FPN, for each of the four levels, the finest first).
        box_beta: where the box loss turns from quadratic to linear, 0 for the absolute error; the conventions' own when
            not given (modern 1/9, v1 1).
        class_agnostic: one box per proposal for all classes, rather than one per class; when not given only cascades.
        frozen_stages: stages of the backbone, the stem counted with the first, that do not train, statistics included;
            when not given 1 with pretrained weights, else 0.
        norm_policy: the backbone's batch-dependent norms, AN and its attention norm included: frozen (running
            statistics, nothing of them trains), eval (running statistics, their parameters train: the authors'
            norm_eval), train (batch statistics) or sync (batch statistics over all processes); when not given eval with
            pretrained weights, else train.
        min_size: shorter side in pixels that images are resized to; several: training draws one for each image.
        max_size: the longer side at most.
        anchor_scale: side of the square anchors in strides; the strides are 4 to 64 pixels.
        train_proposals: proposals of an image in training; before suppression as many of each level.
        test_proposals: the same in evaluation.
        rpn_samples: anchors of an image in the loss of the proposal network.
        box_samples: proposals of an image in the losses of the heads.
        score_threshold: detections of at most this score are left out.
        nms_threshold: of two detections of a class with more overlap (intersection over union) the lower is left out.
        max_detections: so many detections of an image at most.
    """

    conventions: Literal["modern", "v1"] = "modern"
    fpn_channels: int = 256
    fpn_norm: HeadNorm = "none"
    box_head: Literal["2fc", "4conv1fc"] = "2fc"
    box_hidden: int = 1024
    box_norm: HeadNorm = "none"
    mask_norm: HeadNorm = "none"
    num_components: int | tuple[int, ...] = (10, 10, 20, 20)
    box_beta: float | None = None
    class_agnostic: bool | None = None
    frozen_stages: int | None = None
    norm_policy: NormPolicy | None = None
    min_size: int | tuple[int, ...] = 800
    max_size: int = 1333
    anchor_scale: float = 8.0
    train_proposals: int = 2000
    test_proposals: int = 1000
    rpn_samples: int = 256
    box_samples: int = 512
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    max_detections: int = 100

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            ConfigError: for an unknown name, a number out of range, or settings that contradict each other.
        """
        for name in _NORMS:
            if getattr(self, name) not in HEAD_NORMS:
                raise ConfigError(f"{name} must be one of {', '.join(HEAD_NORMS)}; got {getattr(self, name)!r}")
        for name, known in _NAMES.items():
            value = getattr(self, name)
            if value not in known:
                raise ConfigError(f"{name} must be one of {', '.join(k for k in known if k)}; got {value!r}")
        if self.box_norm != "none" and self.box_head == "2fc":
            raise ConfigError(f"box_norm {self.box_norm} needs convolutions: take box_head 4conv1fc; got box_head 2fc")
        normed = [name for name in _NORMS if getattr(self, name) != "none"]
        if normed and self.fpn_channels % GROUPS:
            raise ConfigError(
                f"fpn_channels must be a multiple of {GROUPS} for {normed[0]} {getattr(self, normed[0])}; "
                f"got {self.fpn_channels}"
            )
        counts = self.components
        if len(counts) != CONVS or min(counts) < 1:
            raise ConfigError(f"num_components must be one number or {CONVS}, from 1; got {self.num_components}")
        if not self.min_sizes or min(self.min_sizes) < 1 or self.max_size < max(self.min_sizes):
            raise ConfigError(
                f"min_size must be at least 1 and at most max_size; got {self.min_size} and {self.max_size}"
            )
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1; got {getattr(self, name)}")
        for name in ("score_threshold", "nms_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be from 0 to 1; got {getattr(self, name)}")
        if self.box_beta is not None and not 0 <= self.box_beta < float("inf"):
            raise ConfigError(f"box_beta must be at least 0 (the absolute error); got {self.box_beta}")
        if not 0.5 <= self.anchor_scale < float("inf"):  # anchors have whole corners: smaller ones would have no area
            raise ConfigError(f"anchor_scale must be at least 0.5; got {self.anchor_scale}")
        if self.frozen_stages is not None and not 0 <= self.frozen_stages <= 4:
            raise ConfigError(f"frozen_stages must be from 0 to 4; got {self.frozen_stages}")

    @property
    def components(self) -> tuple[int, ...]:
        """K of each of the four convolutions."""
        k = self.num_components
        return (k,) * CONVS if isinstance(k, int) else tuple(k)

    @property
    def min_sizes(self) -> tuple[int, ...]:
        """The shorter sides to draw from."""
        return (self.min_size,) if isinstance(self.min_size, int) else tuple(self.min_size)


_NORMS = ("fpn_norm", "box_norm", "mask_norm")
_COUNTS = (
    *("fpn_channels", "box_hidden", "train_proposals", "test_proposals", "rpn_samples", "box_samples"),
    "max_detections",
)
_NAMES: dict[str, tuple[Any, ...]] = {
    "conventions": ("modern", "v1"),
    "box_head": ("2fc", "4conv1fc"),
    "norm_policy": ("frozen", "eval", "train", "sync", None),
}


def split_name(name: str) -> tuple[str, str]:
    """The kind of detector and the backbone in a name like "mask_rcnn_resnet50_an_fpn".

    Options behind the name are the backbone's: "mask_rcnn_resnet50_fpn:norm=an" has the backbone "resnet50:norm=an".

    Raises:
        ConfigError: the name is not of that form.
    """
    own, colon, options = name.partition(":")
    for kind in KINDS:
        if own.startswith(f"{kind}_") and own.endswith("_fpn") and len(own) > len(kind) + len("__fpn"):
            return kind, own[len(kind) + 1 : -len("_fpn")] + colon + options
    raise ConfigError(
        f"a detector must be named {', '.join(f'{kind}_BACKBONE_fpn' for kind in KINDS)}, with a backbone of "
        f"`attnorm models` or timm; got {name!r}"
    )


def is_detector(name: str) -> bool:
    """Whether a name is a detector's rather than a classification network's."""
    return name.startswith(tuple(f"{kind}_" for kind in KINDS))


def finds_masks(name: str) -> bool:
    """Whether a detector of that name finds masks as well as boxes."""
    return split_name(name)[0] != "faster_rcnn"
