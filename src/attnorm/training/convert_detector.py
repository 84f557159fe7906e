"""What `attnorm convert` writes into the header of a released detector's checkpoint."""

from dataclasses import asdict
from typing import Any

from attnorm import __version__
from attnorm.data.folder import MEAN, STD
from attnorm.detection import published
from attnorm.detection.released import ReleasedDetector
from attnorm.training.checkpoint import CheckpointMeta


def describe_detector(released: ReleasedDetector, provenance: dict[str, Any]) -> CheckpointMeta:
    """The header: COCO's categories, or numbers where a fine-tuned detector has others.

    Args:
        released: what was read.
        provenance: where it comes from, without published numbers.
    """
    report = released.report
    categories = coco_categories(report.num_classes - 1)
    mean, std = (MEAN, STD) if report.in_chans == 3 else ((0.5,) * report.in_chans,) * 2
    return CheckpointMeta(
        model=released.name,
        num_classes=report.num_classes,
        in_chans=report.in_chans,
        classes=tuple(categories.values()),
        dataset="coco",
        image_size=released.config.min_sizes[-1],
        mean=mean,
        std=std,
        crop_pct=1.0,
        interpolation="bilinear",
        detector=asdict(released.config),
        category_ids=tuple(categories),
        epoch=report.epoch or 0,
        attnorm_version=__version__,
        provenance={**provenance, "published": published_of(released)},
    )


def published_of(released: ReleasedDetector) -> list[dict[str, Any]]:
    """The authors' numbers for a detector of COCO's classes, in percent."""
    if released.report.num_classes != 81:
        return []
    rows = published.results(released.name, released.config)
    return [
        {"name": row.name, "source": row.source, "box_AP": row.box_AP, "mask_AP": row.mask_AP}
        for row in rows
        if row.release == released.scheme
    ]


def coco_categories(count: int) -> dict[int, str]:
    """COCO's 80 ids, which have gaps, and names; of another number of categories "class 1" and so on."""
    if count != 80:
        return {index: f"class {index}" for index in range(1, count + 1)}
    from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

    names = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    return {index: name for index, name in enumerate(names) if index > 0 and name != "N/A"}
