"""What is exported: a network from a checkpoint or by name, and what its file has to say of it."""

import json
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from attnorm.deploy.config import ExportConfig
from attnorm.errors import ConfigError
from attnorm.models import create_model, shipped
from attnorm.models.transfer import take_weights
from attnorm.training.checkpoint import CheckpointMeta, load_checkpoint
from attnorm.training.swap_config import SwapConfig
from attnorm.training.swap_source import describe_network, read_source


@dataclass(frozen=True)
class Subject:
    """A network in evaluation mode, the source of an export.

    Attributes:
        model: Maps images (N, C, H, W), prepared as `meta` says, to a tensor, or to a list of feature maps.
        meta: The header of its checkpoint.
        outputs: The outputs' names.
        strides: Of feature maps, pixels of the image for one of the map; empty for classes.
        detects: Whether `model` takes one image, with values from 0 to 1, and finds objects in it.
    """

    model: nn.Module
    meta: CheckpointMeta
    outputs: tuple[str, ...] = ("logits",)
    strides: tuple[int, ...] = ()
    detects: bool = False

    def run(self, images: Tensor) -> tuple[Tensor, ...]:
        """The network's own outputs."""
        with torch.no_grad():
            found = self.model(images)
        return (found,) if isinstance(found, Tensor) else tuple(found)

    def card(self) -> str:
        """What a program needs to use the file, as JSON: see docs/export.md."""
        content = {key: value for key, value in asdict(self.meta).items() if key != "detector"}
        return json.dumps({**content, "outputs": self.outputs, "strides": self.strides})


def read_subject(config: ExportConfig) -> Subject:
    """The network to export.

    Raises:
        ConfigError: It is unknown, or has no features.
        CheckpointError: The checkpoint cannot be used.
        JobError: Published weights cannot be fetched.
    """
    model, meta = _read(config)
    if config.image_size is not None:
        meta = replace(meta, image_size=config.image_size)
    if meta.detector is not None:
        from attnorm.deploy.detectors import detector_subject

        _check_detector(config, meta, meta.detector)
        return detector_subject(model, meta, features=config.features)
    if config.features:
        return _features(model, meta)
    if meta.num_classes == 0:
        raise ConfigError(f"{config.checkpoint or config.model} has no classifier, only features: add --features")
    return Subject(model, meta)


def _check_detector(config: ExportConfig, meta: CheckpointMeta, settings: dict[str, Any]) -> None:
    if settings.get("conventions") == "v1" and not config.features:
        raise ConfigError(
            f"conventions must be modern for a whole detector, and those of {meta.model} are v1, whose arithmetic on "
            "boxes loses their number when it is traced: --features exports its pyramid"
        )
    if config.int8 or (config.is_pt2 and not config.features):
        what = "int8" if config.int8 else "a .pt2 file"
        raise ConfigError(
            f"{what} is for classification networks, and {meta.model} is a detector: leave it out, or take .onnx"
        )


def _read(config: ExportConfig) -> tuple[nn.Module, CheckpointMeta]:
    if config.checkpoint is not None:
        return load_checkpoint(config.checkpoint)
    assert config.model is not None
    if config.model in shipped.cards():
        return load_checkpoint(config.model)
    if config.pretrained:
        # The output of a swap is what that would be written to; nothing is.
        source = read_source(SwapConfig(model=config.model, num_classes=config.num_classes, output=".safetensors"))
        return source.model, source.meta
    options = {} if config.num_classes is None else {"num_classes": config.num_classes}
    model = create_model(config.model, **options).eval()
    return model, describe_network(config.model, model)


def _features(model: nn.Module, meta: CheckpointMeta) -> Subject:
    try:
        network = create_model(meta.model, features_only=True, in_chans=meta.in_chans)
    except RuntimeError as error:  # timm's, for networks that cannot give features
        raise ConfigError(f"features must be what the network can give; timm says of {meta.model}: {error}") from None
    take_weights(network, model.state_dict(), name=meta.model)
    strides = tuple(cast(Any, network).feature_info.reduction())
    names = tuple(f"features_{index}" for index in range(len(strides)))
    return Subject(network.eval(), meta, names, strides)
