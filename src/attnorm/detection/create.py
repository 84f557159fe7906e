"""Detectors by name: of every kind in :data:`attnorm.detection.config.KINDS`, on any backbone with features."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, cast

from attnorm.detection.backbone import Backbone
from attnorm.detection.config import DetectorConfig, split_name
from attnorm.detection.conventions import conventions
from attnorm.detection.detector import Detector
from attnorm.detection.heads import BoxPredictor, box_head, mask_head, mask_predictor
from attnorm.detection.roi_heads import BoxStage, MaskBranch, RoIHeads
from attnorm.detection.rpn import make_rpn
from attnorm.detection.transform import Transform
from attnorm.errors import ConfigError
from attnorm.models.transfer import pretrained_weights, take_weights

# What each stage asks for as overlap, divides the box deltas by, and weighs its losses with.
_STAGES = (
    {"iou": 0.5, "std": (0.1, 0.1, 0.2, 0.2), "loss_weight": 1.0},
    {"iou": 0.6, "std": (0.05, 0.05, 0.1, 0.1), "loss_weight": 0.5},
    {"iou": 0.7, "std": (0.033, 0.033, 0.067, 0.067), "loss_weight": 0.25},
)


def create_detector(
    name: str,
    num_classes: int,
    *,
    config: DetectorConfig | None = None,
    image_mean: Sequence[float] | None = None,
    image_std: Sequence[float] | None = None,
    in_chans: int = 3,
    pretrained: bool = False,
    backbone_weights: str | Path | None = None,
    backbone_options: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Detector:
    """Build a detector.

    Args:
        name: "faster_rcnn_BACKBONE_fpn", "mask_rcnn_BACKBONE_fpn" or "cascade_mask_rcnn_BACKBONE_fpn", where BACKBONE
            is any network of `attnorm models` or timm with features at strides 4 to 32.
        num_classes: The background, class 0, counts: 81 for COCO.
        config: Everything else; see :class:`attnorm.detection.config.DetectorConfig`.
        image_mean: Channel means for pixels from 0 to 1; the backbone's own when not given.
        image_std: Their standard deviations likewise.
        in_chans: Image channels.
        pretrained: Start the backbone from the weights that timm publishes.
        backbone_weights: Start it from this file: any that :func:`attnorm.models.transfer.take_weights` takes, of a
            classification network or a detector. `detector.backbone.transfer` then says what was taken.
        backbone_options: Further arguments of the network, such as {"drop_path_rate": 0.1}.
        **settings: Fields of the configuration, in place of those in `config`.

    Returns:
        The detector in training mode; its `config` has every setting worked out.

    Raises:
        ConfigError: If something of this cannot be meant.
        CheckpointError: If the backbone's weights do not fit.
        JobError: If timm's weights cannot be fetched.
    """
    kind, network = split_name(name)
    if num_classes < 2:
        raise ConfigError(f"num_classes must be at least 2, as it counts the background; got {num_classes}")
    if pretrained and backbone_weights is not None:
        raise ConfigError(
            f"pretrained and backbone_weights exclude each other; got both, the latter {backbone_weights}"
        )
    config = _with(config or DetectorConfig(), settings)
    config = resolve(name, config, pretrained=pretrained or backbone_weights is not None)
    options = dict(backbone_options or {})
    backbone = Backbone(network, config, in_chans, **options)
    if pretrained:
        weights = pretrained_weights(network, in_chans, **options)
        backbone.transfer = take_weights(backbone.body, weights, name=f"timm's {network}")
    elif backbone_weights is not None:
        backbone.transfer = take_weights(backbone.body, backbone_weights)
    mean, std = _normalisation(backbone, in_chans, image_mean, image_std)
    scheme = conventions(config.conventions)
    return Detector(
        Transform(config, scheme, mean, std),
        backbone,
        make_rpn(config, scheme, backbone.out_channels),
        _roi_heads(kind, config, num_classes, backbone.out_channels),
        name=name,
        num_classes=num_classes,
        config=config,
    )


def resolve(name: str, config: DetectorConfig, *, pretrained: bool) -> DetectorConfig:
    """A configuration whose None are worked out.

    Args:
        name: Of the detector.
        config: Of which a detector is to be made.
        pretrained: Whether its backbone starts from trained weights.
    """
    kind, _ = split_name(name)
    worked_out = {
        "box_beta": conventions(config.conventions).box_beta,
        "class_agnostic": kind == "cascade_mask_rcnn",
        "frozen_stages": 1 if pretrained else 0,
        "norm_policy": "eval" if pretrained else "train",
    }
    return replace(config, **{key: value for key, value in worked_out.items() if getattr(config, key) is None})


def _with(config: DetectorConfig, settings: Mapping[str, Any]) -> DetectorConfig:
    known = [field.name for field in fields(DetectorConfig)]
    for name in settings:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise ConfigError(f"a detector has no setting {name!r}: {hint}")
    return replace(config, **settings)


def _normalisation(
    backbone: Backbone, in_chans: int, mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[Sequence[float], Sequence[float]]:
    # Of other images than photographs of three channels, timm knows nothing.
    own: dict[str, Sequence[float]] = dict.fromkeys(("mean", "std"), (0.5,) * in_chans)
    if in_chans == 3:
        own = cast(Any, backbone.body).pretrained_cfg
    mean = own["mean"] if mean is None else mean
    std = own["std"] if std is None else std
    for name, values in (("image_mean", mean), ("image_std", std)):
        if len(values) != in_chans:
            raise ConfigError(f"{name} must have a value for each of {in_chans} image channels; got {tuple(values)}")
    return mean, std


def _roi_heads(kind: str, config: DetectorConfig, num_classes: int, channels: int) -> RoIHeads:
    assert config.class_agnostic is not None
    assert config.box_beta is not None
    agnostic = config.class_agnostic
    stages = [
        BoxStage(box_head(config, channels), BoxPredictor(config.box_hidden, num_classes, agnostic), **stage)
        for stage in (_STAGES if kind == "cascade_mask_rcnn" else _STAGES[:1])
    ]
    masks = [
        MaskBranch(mask_head(config, channels), mask_predictor(channels, num_classes))
        for _ in (stages if kind != "faster_rcnn" else ())
    ]
    return RoIHeads(
        stages,
        masks,
        conventions=conventions(config.conventions),
        config=config,
        num_classes=num_classes,
        class_agnostic=agnostic,
        box_beta=config.box_beta,
    )
