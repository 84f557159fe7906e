"""Detection as a task: boxes, labels and masks of the objects in an image."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, cast

import torch
from torch import Tensor, nn

from attnorm.data import DetectionData
from attnorm.detection.average_precision import METRICS
from attnorm.detection.config import finds_masks
from attnorm.detection.conventions import conventions
from attnorm.detection.create import create_detector
from attnorm.detection.detector import Detector
from attnorm.errors import ConfigError
from attnorm.models.transfer import TransferReport, take_weights
from attnorm.training.checkpoint import CheckpointMeta, read_meta
from attnorm.training.config import TrainConfig
from attnorm.training.evaluation_detection import evaluate_detector
from attnorm.training.metric import BOX_AP, MASK_AP
from attnorm.training.record import versions
from attnorm.training.task import Place, Row


class Detection:
    """See `attnorm.training.task.Task`. A batch is a list of uint8 images (3, H, W) and one of targets.

    Args:
        config: the run, resolved.
        data: both parts, with masks if the detector finds them.

    Raises:
        ConfigError: the detector finds masks and the data have none.
    """

    def __init__(self, config: TrainConfig, data: DetectionData) -> None:
        self.config, self.data = config, data
        assert data.train is not None  # both parts are asked for
        assert data.val is not None
        self.train, self.val = data.train, data.val
        masks = finds_masks(config.model)
        if masks and not data.has_masks:
            raise ConfigError(f"{config.model} needs masks, and {data.name} has none: take a faster_rcnn_..._fpn")
        kinds = ("box", "mask") if masks else ("box",)
        self.metric = MASK_AP if masks else BOX_AP
        self.metrics: tuple[str, ...] = tuple(f"{kind}_{name}" for kind in kinds for name in METRICS)
        self.notes = (*data.notes, *self._not_learnt())
        self.initial: TransferReport | None = None

    def _not_learnt(self) -> list[str]:
        """A sentence on the objects that the detector's conventions leave out."""
        objects = self.train.annotations.objects()
        total = len(objects["boxes"])
        left_out = total - len(conventions(self.config.detector.conventions).learnable(objects)["boxes"])
        if left_out == 0:
            return []
        return [
            f"{self.data.name} train: {left_out} of {total} objects are less than a pixel wide or high, or without "
            f"area, and not learnt from (detector.conventions {self.config.detector.conventions})"
        ]

    def network(self) -> nn.Module:
        """The detector with the initial weights that the seed gives."""
        config = self.config
        torch.manual_seed(config.seed)
        mean, std = self._normalisation()
        detector = create_detector(
            config.model,
            1 + len(self.data.categories),
            config=config.detector,
            image_mean=mean,
            image_std=std,
            pretrained=config.pretrained,
            backbone_options={"drop_path_rate": config.drop_path} if config.drop_path else None,
        )
        self.initial = cast(Any, detector.backbone).transfer
        if config.initial_checkpoint is not None:
            self.initial = take_weights(detector, config.initial_checkpoint)
        return detector

    def _normalisation(self) -> tuple[Sequence[float] | None, Sequence[float] | None]:
        """Means and deviations of the channels; None: the backbone's own.

        Weights from elsewhere go with what they were trained with, which this package's files say.
        """
        if self.config.pretrained:
            return None, None
        if self.config.initial_checkpoint is None:
            return self.data.mean, self.data.std
        meta = read_meta(self.config.initial_checkpoint)
        if meta is None or meta.in_chans != 3:  # that weights of other channels do not fit is said where they are taken
            return None, None
        return meta.mean, meta.std

    def losses(
        self, model: nn.Module, batch: tuple[list[Tensor], list[dict[str, Tensor]]], place: Place
    ) -> dict[str, Tensor]:
        """The sum of the detector's losses, and each of them."""
        parts = model(*batch)
        return {"train_loss": torch.stack(list(parts.values())).sum(), **parts}

    def evaluate(self, model: nn.Module, loader: Iterable[Any], device: torch.device) -> Row:
        """COCO's numbers, from 0 to 1."""
        result = evaluate_detector(
            cast(Detector, model),
            loader,
            self.val.ground_truth(),
            device=device,
            precision=self.config.precision,
            categories=self.data.categories,
            masks=self.metric is MASK_AP,
        )
        return {name: result[name] for name in self.metrics} | {"val_count": result["count"]}

    def header(self, model: nn.Module) -> CheckpointMeta:
        """The detector's settings, the categories and the normalisation of the images."""
        detector = cast(Detector, model)
        transform = cast(Any, detector.transform)
        return CheckpointMeta(
            model=detector.name,
            num_classes=detector.num_classes,
            in_chans=3,
            classes=tuple(category.name for category in self.data.categories),
            dataset=self.data.name,
            image_size=detector.config.min_sizes[-1],
            mean=tuple(transform.image_mean.flatten().tolist()),
            std=tuple(transform.image_std.flatten().tolist()),
            crop_pct=1.0,
            interpolation="bilinear",
            detector=asdict(detector.config),
            category_ids=tuple(category.id for category in self.data.categories),
            attnorm_version=versions()["attnorm"],
        )

    def facts(self) -> dict[str, Any]:
        """Name, categories and what was left out of the data."""
        data = self.data
        return {
            "name": data.name,
            "classes": [category.name for category in data.categories],
            "category_ids": [category.id for category in data.categories],
            "notes": list(self.notes),
        }

    def line(self, row: Row) -> str:
        """COCO's AP, and AP at an overlap of a half."""
        metrics = (BOX_AP, MASK_AP) if self.metric is MASK_AP else (BOX_AP,)
        numbers = [(metric, metric.percent(row), row[f"{metric.name}50"]) for metric in metrics]
        return "  ".join(
            f"{metric.label} not defined" if ap is None else f"{metric.label} {ap:.1f} (AP50 {100 * ap50:.1f})"
            for metric, ap, ap50 in numbers
        )
