"""All that the authors released, detectors whole, read and brought back to their keys."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from attnorm.detection import published
from attnorm.detection.backbone import Backbone
from attnorm.detection.config import DetectorConfig, split_name
from attnorm.detection.create import create_detector
from attnorm.detection.detector import Detector
from attnorm.detection.released_names import PARTS, DetectorScheme, head_names, recognise_heads, to_ours
from attnorm.errors import CheckpointError, ConfigError, shown
from attnorm.inert_pickle import UnreadableError
from attnorm.models import create_model
from attnorm.models.released import LoadReport, Released, Scheme, release
from attnorm.models.released.archives import Archive, open_archive
from attnorm.models.released.described import TensorEntry
from attnorm.models.released.recognise import detector_parts
from attnorm.models.released.structure import Found, find_weights
from attnorm.models.transfer import take_weights

_HEADS = "roi_head."  # in front of the box and the mask head in the second release
_PART_NAMES = dict(zip(PARTS, ("FPN", "proposal network", "box heads", "mask heads"), strict=True))
_GEOMETRY = (
    "it was trained with aligned RoIAlign and adaptive sampling, other rounding of anchors and image sizes and another "
    "way to paste masks; these detectors have torchvision's: expect detections near the authors', not the same"
)


@dataclass(frozen=True)
class ReleasedDetector:
    """A released detector in this package's terms.

    Attributes:
        name: Our name of it.
        scheme: Whose keys the file has: "attentivenorm-detection" or "ivmcl-release".
        config: Its settings, among them the conventions that it was trained with.
        backbone: The network under its pyramid.
        state: Everything else, under our names.
        report: What was found and what became of it.
    """

    name: str
    scheme: str
    config: DetectorConfig
    backbone: Released
    state: dict[str, Tensor]
    report: LoadReport

    def build(self) -> Detector:
        """The detector with these weights, on the CPU, in evaluation mode."""
        detector = create_detector(
            self.name, self.report.num_classes, config=self.config, in_chans=self.report.in_chans
        ).to(next(iter(self.state.values())).dtype)
        backbone = cast(Backbone, detector.backbone)
        backbone.transfer = take_weights(backbone.body, self.backbone.state, name=self.report.file)
        detector.load_state_dict(self.state, strict=False)
        return detector.eval()


def load_released(path: str | Path, *, backbone_only: bool = False) -> nn.Module:
    """Load a checkpoint that the authors of AN released: a classification network or a detector.

    As :func:`attnorm.models.released.load_released`, and detectors are built whole. Those of the first release compute
    by the conventions that they were trained with ("v1").

    Args:
        path: The file.
        backbone_only: Leave out the classifier, or of a detector everything but the backbone.

    Returns:
        The network or the :class:`attnorm.detection.detector.Detector`, on the CPU, in evaluation mode.

    Raises:
        CheckpointError: If the file cannot be read, or is none that the authors released.
    """
    return read_released(path, backbone_only=backbone_only).build()


def read_released(
    path: str | Path, *, backbone_only: bool = False, dtype: torch.dtype = torch.float32
) -> Released | ReleasedDetector:
    """Read a released checkpoint and say what is in it; arguments and errors as of :func:`load_released`.

    Args:
        path: The file.
        backbone_only: As there.
        dtype: Of the weights.
    """
    path = Path(path)
    with open_archive(path) as archive:
        found = find_weights(archive)
        whole = bool(detector_parts(found.entries)) and not backbone_only
        network = release.read_released(path, backbone_only=backbone_only or whole, dtype=dtype)
        if not whole:
            return network
        try:
            return _read(archive, found, network, dtype)
        except (CheckpointError, ConfigError) as error:  # of settings that entries at random can mean
            raise CheckpointError(f"{path}: {error}") from None


def to_released(model: nn.Module, scheme: Scheme | Literal["attentivenorm-detection"]) -> dict[str, Tensor]:
    """The state dict of a network or detector under the authors' keys, in their order and shapes.

    Args:
        model: One of the released networks or detectors, with any number of classes.
        scheme: Of networks "aognet-v2" or "ivmcl-release", of detectors "attentivenorm-detection".

    Raises:
        CheckpointError: If the release has no such network or detector, or computes otherwise.
    """
    if isinstance(model, Detector):
        if scheme != "attentivenorm-detection":
            raise CheckpointError(f"a detector is converted to attentivenorm-detection alone; got {scheme}")
        return _detector_to_released(model)
    if scheme == "attentivenorm-detection":
        raise CheckpointError(f"attentivenorm-detection is for detectors; got {type(model).__name__}")
    return release.to_released(model, scheme)


def _detector_to_released(detector: Detector) -> dict[str, Tensor]:
    if detector.config.conventions != "v1":
        raise CheckpointError(
            f"a detector for attentivenorm-detection must have conventions v1, which its code computes by; got "
            f"{detector.config.conventions}"
        )
    state = detector.state_dict()
    network = create_model(split_name(detector.name)[1], num_classes=0, in_chans=len(detector.transform.image_mean))
    take_weights(network.to(next(detector.parameters()).dtype), cast(Backbone, detector.backbone).body.state_dict())
    backbone = {f"backbone.{key}": value for key, value in release.to_released(network, "aognet-v2").items()}
    names = head_names(_shapes(state), "attentivenorm-detection")
    return backbone | {theirs: state[ours].reshape(shape) for theirs, (ours, shape) in names.items()}


def _read(archive: Archive, found: Found, network: Released, dtype: torch.dtype) -> ReleasedDetector:
    entries = {key: entry for key, entry in found.entries.items() if not key.startswith("backbone.")}
    second = any(key.startswith(_HEADS) for key in entries)
    scheme: DetectorScheme = "ivmcl-release" if second else "attentivenorm-detection"
    kind, classes, settings = recognise_heads(_shapes({key.removeprefix(_HEADS): e for key, e in entries.items()}))
    name = f"{kind}_{network.name}_fpn"
    config = _config(settings, scheme)
    with torch.device("meta"):
        detector = create_detector(name, classes, config=config, in_chans=network.report.in_chans)
    own = detector.state_dict()
    names = head_names(_shapes(own), scheme)
    release.refuse_misfits(scheme, name, entries, names)
    values = archive.read(entries)
    state: dict[str, Tensor] = {}
    for theirs, (ours, _) in names.items():
        if not values[theirs].is_floating_point():
            raise UnreadableError(f"{shown(theirs)} is of type {values[theirs].dtype}")
        state[ours] = to_ours(ours, values[theirs], own[ours].shape, scheme).to(dtype, copy=True)
    half = sum(value.dtype in (torch.float16, torch.bfloat16) for value in values.values())
    rows = published.results(name, detector.config)
    report = replace(
        network.report,
        model=name,
        names=tuple(row.name for row in rows if row.release == scheme),
        num_classes=classes,
        mapped={**network.report.mapped, **_counts(entries)},
        from_half=network.report.from_half + half,
        left_out=found.left_out,
        not_finite=(*network.report.not_finite, *(key for key, v in state.items() if not v.isfinite().all())),
        notes=("the classes include the background, which is class 0", *((_GEOMETRY,) if second else ())),
    )
    return ReleasedDetector(name, scheme, detector.config, network, state, report)


def _config(settings: Mapping[str, Any], scheme: DetectorScheme) -> DetectorConfig:
    # As the authors trained them; only fine-tuning asks for the loss, the stages and the policy.
    second = scheme == "ivmcl-release"
    return DetectorConfig(
        conventions="modern" if second else "v1",
        box_beta=0.0 if second else None,  # the absolute error
        frozen_stages=1,
        norm_policy="eval",
        **settings,
    )


def _counts(keys: Mapping[str, object]) -> dict[str, int]:
    counts = {
        name: sum(k.removeprefix(_HEADS).startswith(f"{part}.") for k in keys) for part, name in _PART_NAMES.items()
    }
    return {name: count for name, count in counts.items() if count}


def _shapes(entries: Mapping[str, TensorEntry | Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(entry.shape) for key, entry in entries.items()}
