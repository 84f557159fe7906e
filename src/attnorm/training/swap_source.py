"""What `attnorm swap` starts from: a trained network, and what its checkpoint will have to say of it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from attnorm.data.config import INTERPOLATION
from attnorm.errors import ConfigError
from attnorm.models import create_model, hub, shipped
from attnorm.models.described_network import known_name
from attnorm.models.released.archives import open_archive
from attnorm.models.released.structure import find_weights
from attnorm.models.spec import parse_spec
from attnorm.models.torchvision_networks import check_name, is_torchvision, published_weights
from attnorm.models.transfer import pretrained_network
from attnorm.training.checkpoint import CheckpointMeta, load_checkpoint, load_weights, read_meta
from attnorm.training.header import class_names
from attnorm.training.swap_config import SwapConfig, refuse_detector

_COUNTER = ".num_batches_tracked"  # files of old versions of torch have none


@dataclass(frozen=True)
class Source:
    """A trained network.

    Attributes:
        model: In evaluation mode.
        meta: The header that a checkpoint of it would have; provenance says where the weights come from.
    """

    model: nn.Module
    meta: CheckpointMeta


def read_source(config: SwapConfig) -> Source:
    """The network that is to be swapped.

    Raises:
        ConfigError: It is unknown, has no published weights, or what was given does not go together.
        CheckpointError: The file cannot be read or is of another network.
        JobError: The weights cannot be fetched.
    """
    if config.weights is None:
        assert config.model is not None
        if config.model in shipped.cards():
            return read_source(replace(config, model=None, weights=config.model))
        return _published(config, config.model)
    meta = read_meta(config.weights)
    return _file(config, config.weights) if meta is None else _checkpoint(config, config.weights, meta)


def _checkpoint(config: SwapConfig, path: str, meta: CheckpointMeta) -> Source:
    if meta.detector is not None:
        refuse_detector(meta.model)
    for name in ("model", "num_classes", "in_chans"):
        given, own = getattr(config, name), getattr(meta, name)
        if given is not None and given != own:
            raise ConfigError(f"{name} stands in the checkpoint {path}, {own}; got {given}: leave it out")
    model, meta = load_checkpoint(path)
    before = {"before": meta.provenance} if meta.provenance else {}
    source = {"source": path} if path.startswith(hub.REMOTE) else {}
    return Source(model, _with_provenance(meta, {**source, **_file_facts(hub.resolve(path)), **before}))


def _published(config: SwapConfig, name: str) -> Source:
    """With the weights that timm or torchvision publishes."""
    asked = {key: v for key in ("num_classes", "in_chans") if (v := getattr(config, key)) is not None}
    model = pretrained_network(name, **asked).eval()
    if is_torchvision(parse_spec(name).name):
        known = published_weights(parse_spec(name).name)
        facts = {"source": f"torchvision {check_name(parse_spec(name).name)} {known.name}", "url": known.url}
        meta = describe_network(name, model, config.num_classes)
        return Source(model, _with_provenance(meta, {**facts, "licence": known.licence}))
    settings = cast(Any, model).pretrained_cfg
    source = ".".join(part for part in (settings["architecture"], settings.get("tag")) if part)
    facts = {"source": f"timm {source}", "licence": settings.get("license")}
    facts |= {key: settings[key] for key in ("hf_hub_id", "url") if settings.get(key)}
    return Source(model, _with_provenance(describe_network(name, model, config.num_classes), facts))


def _file(config: SwapConfig, path: str) -> Source:
    """With the weights in a file that does not say which network they are of."""
    if config.model is None:
        raise ConfigError(f"model must name the network of {path}, which has no header of this package that would")
    with open_archive(Path(path)) as archive:
        entries = archive.read(find_weights(archive).entries)
    model = create_model(config.model)
    asked = {
        "num_classes": config.num_classes or _differing(model, entries, last=True),
        "in_chans": config.in_chans or _differing(model, entries, last=False),
    }
    asked = {key: value for key, value in asked.items() if value is not None}
    if asked:
        model = create_model(config.model, **asked)
    for name, value in model.state_dict().items():
        if name.endswith(_COUNTER):
            entries.setdefault(name, torch.zeros_like(value))
    load_weights(model, entries, f"{path} ({config.model})")
    meta = describe_network(config.model, model, config.num_classes)
    return Source(model.eval(), _with_provenance(meta, _file_facts(Path(path))))


def _differing(model: nn.Module, entries: Mapping[str, Tensor], *, last: bool) -> int | None:
    """Outputs of the last layer, or inputs of the first convolution, where the file has another number of them."""
    matrices = [(name, value) for name, value in model.state_dict().items() if value.ndim in (2, 4)]
    name, own = matrices[-1] if last else matrices[0]
    other = entries.get(name)
    axis = 0 if last else 1
    if other is None or other.ndim != own.ndim or other.shape[axis] == own.shape[axis]:
        return None
    return other.shape[axis]


def describe_network(name: str, model: nn.Module, num_classes: int | None = None) -> CheckpointMeta:
    """What a checkpoint of a network would say of it, from what timm or torchvision knows: preparation and classes.

    Args:
        name: The network's, with options.
        model: The network.
        num_classes: Of a network of torchvision, where it is known; else it is counted.
    """
    registered = parse_spec(name).name
    if is_torchvision(registered):
        known = published_weights(registered)
        shape = {"num_classes": num_classes or _outputs(model), "in_chans": 3}
        prepared: dict[str, Any] = {
            key: getattr(known, key) for key in ("image_size", "crop_pct", "mean", "std", "interpolation")
        }
        labels = None
    else:
        settings = cast(Any, model).pretrained_cfg
        shape = {"num_classes": cast(Any, model).num_classes, "in_chans": _inputs(model)}
        prepared = {"image_size": settings["input_size"][-1], "crop_pct": settings["crop_pct"]}
        # Of images with other channels than the weights' own, nothing is known.
        fits = len(settings["mean"]) == shape["in_chans"]
        middle = (0.5,) * shape["in_chans"]
        prepared |= {key: tuple(settings[key]) if fits else middle for key in ("mean", "std")}
        interpolation = settings["interpolation"]
        prepared["interpolation"] = interpolation if interpolation in INTERPOLATION else "bicubic"
        labels = settings.get("label_names")
        # Without a tag, and of a network on the hub the name that timm knows without it.
        name = known_name(model) + name.removeprefix(registered)
    dataset = "imagenet" if shape["num_classes"] == 1000 else "folder"
    if labels is None or len(labels) != shape["num_classes"]:
        labels = class_names(shape["num_classes"], dataset)
    return CheckpointMeta(model=name, classes=tuple(labels), dataset=dataset, **shape, **prepared)


def _outputs(model: nn.Module) -> int:
    return [value for value in model.state_dict().values() if value.ndim in (2, 4)][-1].shape[0]


def _inputs(model: nn.Module) -> int:
    return next(value for value in model.state_dict().values() if value.ndim == 4).shape[1]


def _with_provenance(meta: CheckpointMeta, facts: dict[str, Any]) -> CheckpointMeta:
    return replace(meta, provenance={key: value for key, value in facts.items() if value is not None})


def _file_facts(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"file": path.name, "sha256": digest, "size": path.stat().st_size}
