"""The images that `attnorm inspect` shows to a network, each with one class where that has a meaning."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Subset

from attnorm.data import DataConfig, DetectionData, ImageData, load_data, load_detection, make_loader
from attnorm.data.coco_config import CocoConfig
from attnorm.errors import ConfigError, DataError
from attnorm.evidence.inspect_config import InspectConfig
from attnorm.training.checkpoint import CheckpointMeta
from attnorm.training.objective import prepare_images

NOTHING = "(no objects)"


@dataclass(frozen=True)
class Batch:
    """Images and their classes.

    Attributes:
        images: uint8 (C, H, W) each.
        classes: of the images, (N,); None where they have no one class.
    """

    images: Sequence[Tensor]
    classes: NDArray[np.int64] | None


class Source(Protocol):
    """Where the images come from.

    Attributes:
        name: of the data set.
        classes: names; None where an image has no one class.
        rule: what the class of an image is, or why it has none.
        notes: sentences about the data.
    """

    name: str
    classes: tuple[str, ...] | None
    rule: str
    notes: tuple[str, ...]

    def batches(self) -> Iterator[Batch]:
        """The images in their order."""
        ...

    def show(self, model: nn.Module, images: Sequence[Tensor]) -> None:
        """Runs the network on the images of a batch."""
        ...


def open_source(config: InspectConfig, meta: CheckpointMeta) -> Source:
    """The evaluation part of the data set that is asked for, or of the checkpoint's.

    Its classes need not be the network's: they are only what the images are sorted by.

    Raises:
        ConfigError: the data set is not one that such a network sees, or a setting does nothing for it.
        DataError: the data are missing, damaged, or have other channels than the network's.
    """
    dataset = config.dataset or meta.dataset
    _refuse_idle_settings(config, meta, dataset)
    settings = DataConfig(
        dataset=dataset,
        data_dir=config.data_dir,
        val_split=config.val_split,
        image_size=config.image_size if meta.detector else config.image_size or meta.image_size,
        crop_pct=meta.crop_pct,
        interpolation=meta.interpolation,
        max_bad_images=config.max_bad_images,
        coco=CocoConfig(val_annotations=config.annotations, val_images=config.image_folder),
    )
    if meta.detector is not None:
        return ImagesWithObjects(load_detection(settings, ("val",), masks=False), config, meta)
    return ClassifiedImages(load_data(settings, ("val",)), config, meta)


def _refuse_idle_settings(config: InspectConfig, meta: CheckpointMeta, dataset: str) -> None:
    idle = ("batch_size",) if meta.detector else ("annotations", "image_folder")
    if meta.detector and dataset != "shapes":
        idle = (*idle, "image_size")
    for name in idle:
        if getattr(config, name) is not None:
            raise ConfigError(
                f"{name} does nothing for {meta.model} on {dataset}; got {getattr(config, name)}: leave it out"
            )


class ClassifiedImages:
    """See `Source`: images of one class each."""

    notes: tuple[str, ...] = ()

    def __init__(self, data: ImageData, config: InspectConfig, meta: CheckpointMeta) -> None:
        _check_channels(data.in_chans, data.name, meta, config.checkpoint)
        self.name, self.mean, self.std = data.name, torch.tensor(meta.mean), torch.tensor(meta.std)
        self.loader = _loader(data.val, config, config.batch_size or 256)
        self.classes: tuple[str, ...] | None = data.classes
        self.rule = "the class of an image is its label"
        if data.measure == "outliers":
            self.classes, self.rule = None, f"images of {data.name} are labelled by whether they have a class at all"
        elif data.name == "imagenet_real":
            self.classes, self.rule = None, f"images of {data.name} have several labels each"

    def batches(self) -> Iterator[Batch]:
        """The images in their order."""
        for images, labels in self.loader:
            yield Batch(images, None if self.classes is None else labels.numpy())

    def show(self, model: nn.Module, images: Sequence[Tensor]) -> None:
        """Runs the network as its evaluation does."""
        device = next(model.parameters()).device
        model(prepare_images(cast(Tensor, images).to(device), self.mean.to(device), self.std.to(device)))


class ImagesWithObjects:
    """See `Source`: images of a detection set, sorted by the category that has the largest area in them."""

    def __init__(self, data: DetectionData, config: InspectConfig, meta: CheckpointMeta) -> None:
        _check_channels(3, data.name, meta, config.checkpoint)
        self.name, self.notes = data.name, data.notes
        self.loader = _loader(data.val, config, 1)  # of their own size, as evaluation sees them
        self.classes: tuple[str, ...] | None = (*(category.name for category in data.categories), NOTHING)
        self.rule = (
            "the class of an image is the category whose objects together have the largest area in it (of equal ones "
            f"the first), or {NOTHING}; what else is in the image blurs the shares"
        )

    def batches(self) -> Iterator[Batch]:
        """The images one by one; unreadable ones are left out."""
        for images, targets in self.loader:
            if images:
                yield Batch(images, np.array([self._class(target) for target in targets]))

    def _class(self, target: dict[str, Tensor]) -> int:
        assert self.classes is not None
        nothing = len(self.classes) - 1
        if not len(target["labels"]):
            return nothing
        areas = np.bincount(target["labels"].numpy() - 1, weights=target["area"].numpy(), minlength=nothing)
        return int(areas.argmax())

    def show(self, model: nn.Module, images: Sequence[Tensor]) -> None:
        """Runs the detector as its evaluation does."""
        device = next(model.parameters()).device
        cast(Any, model).detect([image.to(device) for image in images])


def _loader(part: Any, config: InspectConfig, batch_size: int) -> Any:
    """Batches of the first images, or of some that are evenly spread: folders lie class by class."""
    if config.max_images is not None and config.max_images < len(part):
        part = Subset(part, [i * len(part) // config.max_images for i in range(config.max_images)])
    return make_loader(cast(Any, part), batch_size=batch_size, train=False, workers=config.workers)


def _check_channels(channels: int, name: str, meta: CheckpointMeta, checkpoint: str) -> None:
    if channels != meta.in_chans:
        raise DataError(
            f"{name} must have the {meta.in_chans} channels of {checkpoint}, it has {channels}; look at data that the "
            "network is made for"
        )
