"""The networks of a profile, from what stands in --models: names, checkpoints, functions of somebody's own."""

import importlib
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from attnorm.data.shapes import MIN_SIZE, draw
from attnorm.detection import create_detector
from attnorm.detection.config import is_detector
from attnorm.detection.detector import Detector
from attnorm.errors import ConfigError, JobError
from attnorm.evidence.profile_config import ProfileConfig
from attnorm.evidence.timing import Batch, ClassifiedImages, ImagesWithObjects
from attnorm.models import create_model, hub, shipped
from attnorm.models.torchvision_networks import is_torchvision
from attnorm.training.checkpoint import check_classifies, load_checkpoint, read_meta
from attnorm.training.header import CheckpointMeta

_FUNCTION = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)")  # an option of a network, norm=an, has a "=" in it
DETECTOR_CLASSES = 2  # with the background: then nothing that a detector sees depends on what it has learnt
OWN_SIZE = 224  # of networks that do not say what images they are for
UNKNOWN = sys.maxsize  # classes, until an image went through the network
SHAPES = 240  # pictures that are different


@dataclass(frozen=True, kw_only=True)
class Network:
    """One network of a profile.

    Attributes:
        name: as given in --models.
        kind: "name", "checkpoint" or "function".
        model: on the CPU.
        image_size: side of the images that it is for, in pixels.
        num_classes: its outputs; a detector's count the background.
        accuracy: in percent, of a checkpoint that says it, on `dataset`.
        dataset: what a checkpoint was trained on.
    """

    name: str
    kind: str
    model: nn.Module
    image_size: int
    num_classes: int
    accuracy: float | None = None
    dataset: str | None = None

    @property
    def detects(self) -> bool:
        """Whether it finds objects rather than classes."""
        return isinstance(self.model, Detector)


@dataclass(frozen=True, kw_only=True)
class Images:
    """The images that all networks of a profile are measured on."""

    channels: int
    size: int
    num_classes: int  # the fewest of the networks: every label must be known to all
    detection: bool

    def batch(self, count: int) -> Batch:
        """So many images: of random numbers with labels, or with generated objects for detectors."""
        if not self.detection:
            shape = (self.channels, self.size, self.size)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                return ClassifiedImages.random(count, shape, self.num_classes)
        return ImagesWithObjects(*map(list, zip(*map(self._picture, range(count)), strict=True)))

    def one(self) -> Any:
        """One image, as the networks take it."""
        batch = self.batch(1)
        return cast(Any, batch).images

    def _picture(self, number: int) -> tuple[Tensor, dict[str, Tensor]]:
        from torchvision.ops import masks_to_boxes

        picture, masks, labels = draw("train", number % SHAPES, self.size)
        image = torch.from_numpy(picture).permute(2, 0, 1)[torch.arange(self.channels) % 3]
        shown = torch.from_numpy(masks)
        boxes = masks_to_boxes(shown) + torch.tensor([0.0, 0.0, 1.0, 1.0])  # corners of pixels, not their centres
        known = (torch.from_numpy(labels).long() - 1) % (self.num_classes - 1) + 1
        return image, {"boxes": boxes, "labels": known, "masks": shown.to(torch.uint8)}


def build(config: ProfileConfig) -> tuple[list[Network], Images]:
    """Builds all networks of a profile, on the CPU, and tries each on one image.

    Raises:
        ConfigError: a name is unknown, or the networks are not for the same images.
        CheckpointError: a checkpoint cannot be used.
        JobError: a network cannot be built, or cannot take the images.
    """
    metas = {name: _meta(name) for name in config.names if _is_checkpoint(name)}
    channels = config.in_chans or next((meta.in_chans for meta in metas.values()), 3)
    networks = [_build(name, config, channels, metas.get(name)) for name in config.names]
    if len({network.detects for network in networks}) > 1:
        detector = next(network.name for network in networks if network.detects)
        raise ConfigError(f"models must all be detectors or all be classification networks; {detector} is a detector")
    images = Images(
        channels=channels,
        size=config.image_size or _common_size(networks),
        num_classes=min(network.num_classes for network in networks),
        detection=networks[0].detects,
    )
    if images.detection and images.size < MIN_SIZE:
        raise ConfigError(f"image_size must be at least {MIN_SIZE} for detectors; got {images.size}")
    networks = [_tried(network, images) for network in networks]
    return networks, replace(images, num_classes=min(network.num_classes for network in networks))


def _is_checkpoint(name: str) -> bool:
    return name.endswith(".safetensors") or name in shipped.cards() or hub.is_place(name)


def _meta(path: str) -> CheckpointMeta:
    meta = read_meta(path)
    if meta is None:
        # Says whether the file is missing, damaged or of another program.
        _, meta = load_checkpoint(path)
    if meta.detector is None:
        check_classifies(meta, path)
    return meta


def _build(name: str, config: ProfileConfig, channels: int, meta: CheckpointMeta | None) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if meta is not None:
            return _of_checkpoint(name, config, channels, meta)
        if is_detector(name):
            return _detector(name, config, channels)
        if _FUNCTION.fullmatch(name) and not is_torchvision(name):
            return _of_function(name)
        return _named(name, config, channels)


def _named(name: str, config: ProfileConfig, channels: int) -> Network:
    options: dict[str, Any] = {} if channels == 3 else {"in_chans": channels}
    if config.num_classes is not None:
        options["num_classes"] = config.num_classes
    model: Any = create_model(name, **options)
    size = (getattr(model, "pretrained_cfg", None) or {}).get("input_size", (3, OWN_SIZE, OWN_SIZE))[-1]
    classes = getattr(model, "num_classes", UNKNOWN)
    return Network(name=name, kind="name", model=model, image_size=size, num_classes=classes)


def _detector(name: str, config: ProfileConfig, channels: int) -> Network:
    # Without a threshold every image has as many detections as may be: all detectors have as much to do.
    settings: dict[str, Any] = {"score_threshold": 0.0}
    if config.image_size is not None:
        settings |= {"min_size": config.image_size, "max_size": config.image_size}
    classes = config.num_classes or DETECTOR_CLASSES
    model = create_detector(name, classes, in_chans=channels, **settings)
    size = config.image_size or min(model.config.min_sizes)
    return Network(name=name, kind="name", model=model, image_size=size, num_classes=classes)


def _of_checkpoint(name: str, config: ProfileConfig, channels: int, meta: CheckpointMeta) -> Network:
    if meta.in_chans != channels:
        raise ConfigError(f"models must take the same images; {name} takes {meta.in_chans} channels, not {channels}")
    model, _ = load_checkpoint(name)
    size = meta.image_size
    if isinstance(model, Detector):
        size = config.image_size or min(model.config.min_sizes)
        own = replace(model.config, score_threshold=0.0, min_size=size, max_size=max(size, model.config.max_size))
        made = create_detector(
            meta.model,
            meta.num_classes,
            config=own,
            image_mean=meta.mean,
            image_std=meta.std,
            in_chans=meta.in_chans,
        )
        made.load_state_dict(model.state_dict())
        model = made
    accuracy = (meta.metrics or {}).get("top1")
    return Network(
        name=name,
        kind="checkpoint",
        model=model,
        image_size=size,
        num_classes=meta.num_classes,
        accuracy=accuracy,
        dataset=meta.dataset,
    )


def _of_function(name: str) -> Network:
    module_name, function_name = name.split(":")
    with _here_importable():
        try:
            module = importlib.import_module(module_name)
        except Exception as error:  # a module of somebody's own may raise anything while it is imported
            raise ConfigError(
                f"{name} must be a function in a module that can be imported, and {module_name} cannot: "
                f"{type(error).__name__}: {error}"
            ) from error
        function = getattr(module, function_name, None)
        if not callable(function):
            raise ConfigError(f"{name} must be a function, and {module_name} has none of the name {function_name}")
        try:
            model = function()
        except Exception as error:
            raise JobError(
                f"{name} must give a network when called without arguments, and raised {type(error).__name__}: {error}"
            ) from error
    if not isinstance(model, nn.Module):
        raise JobError(f"{name} must give a torch.nn.Module; got {type(model).__name__}")
    return Network(name=name, kind="function", model=model, image_size=OWN_SIZE, num_classes=UNKNOWN)


@contextmanager
def _here_importable() -> Iterator[None]:
    """A function beside the shell's prompt is found, as `python -m` would find it."""
    sys.path.insert(0, "")
    try:
        yield
    finally:
        sys.path.remove("")


def _common_size(networks: Sequence[Network]) -> int:
    """The side of the images; a function's network has no opinion."""
    sizes = {n.image_size: n.name for n in networks if n.kind != "function"} or {OWN_SIZE: ""}
    if len(sizes) > 1:
        (one, first), (other, second) = list(sizes.items())[:2]
        raise ConfigError(
            f"models must take images of one size, and {first} is for {one} pixels, {second} for {other}: "
            "say which with --image-size"
        )
    return next(iter(sizes))


def _tried(network: Network, images: Images) -> Network:
    """The network with its number of classes, after an image went through it."""
    model = network.model.eval()
    try:
        with torch.no_grad():
            out = model(images.one())
    except Exception as error:  # whatever a network raises for images that it is not made for
        shape = f"({images.channels}, {images.size}, {images.size})"
        raise JobError(
            f"{network.name} must take images of {shape}, and raised {type(error).__name__}: {error}; another "
            "--image-size may suit it"
        ) from error
    if network.detects:
        return network
    if not isinstance(out, Tensor) or out.ndim != 2:
        got = f"a tensor {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
        raise JobError(f"{network.name} must give logits (N, classes) for images (N, C, H, W); got {got}")
    return replace(network, num_classes=out.shape[1])
