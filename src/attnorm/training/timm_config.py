"""config.json of timm's layout: what it says of a network, read with distrust, and written such that timm reads it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar, cast

from torch import nn

from attnorm.data.config import INTERPOLATION
from attnorm.errors import CheckpointError, shown
from attnorm.models.described_network import NETWORK
from attnorm.models.hub import CONFIG, LIMITS
from attnorm.models.spec import parse_spec
from attnorm.models.torchvision_networks import is_torchvision
from attnorm.training.header import (
    KEY,
    CheckpointMeta,
    check_numbers,
    check_types,
    class_names,
    parse_header,
    with_tuples,
)

# Arguments that the network is built with by their value, as it is said elsewhere or can be told from the weights; and
# those that make no difference to what it computes in evaluation mode.
_SAID = ("in_chans", "num_classes", "spec", "global_pool")
_POOLS = ("avg", "token", "map")  # what networks do of their own accord, or with weights of its own
_WITHOUT_EFFECT = ("drop_rate", "drop_path_rate", "drop_block_rate", "proj_drop_rate", "attn_drop_rate")
MAX_CLASSES = 1_000_000

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class _Config:
    """The outer part of the file, as far as it is read."""

    architecture: str
    num_classes: int | None = None
    label_names: tuple[str, ...] | None = None
    model_args: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class _Images:
    """`pretrained_cfg`, as far as it is read: how images are prepared, with timm's defaults."""

    input_size: tuple[int, ...] = (3, 224, 224)
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    crop_pct: float = 0.875
    interpolation: str = "bicubic"
    num_classes: int | None = None


def read_config(file: Path, name: str) -> CheckpointMeta:
    """What a folder in timm's layout says of its network, where its weights have no header.

    Args:
        file: config.json.
        name: What the folder is called in messages.

    Raises:
        CheckpointError: It is too large or damaged, or asks for what cannot be built from a name.
    """
    with file.open("rb") as opened:
        content = opened.read(LIMITS[CONFIG] + 1)
    if len(content) > LIMITS[CONFIG]:
        raise CheckpointError(f"{CONFIG} of {name} must have at most {LIMITS[CONFIG]:,} bytes")
    try:
        config: Any = json.loads(content)
        if type(config) is not dict:
            raise TypeError("it must be an object")
        if KEY in config:
            return parse_header(Path(name), {KEY: json.dumps(config[KEY])})
        return _from_timm(cast(dict[str, Any], config))
    except (ValueError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{CONFIG} of {name} must describe a network as timm does: {reason[:300]}") from None


def _from_timm(config: dict[str, Any]) -> CheckpointMeta:
    outer = _read(_Config, {**config, "label_names": _in_order(config.get("label_names"))}, "")
    # Older files have all in one.
    images = _read(_Images, config.get("pretrained_cfg", config), "pretrained_cfg.")
    args = outer.model_args or {}
    _refuse_arguments(args)
    counts = (args.get("num_classes"), outer.num_classes, images.num_classes, 1000)
    num_classes = next(count for count in counts if count is not None)
    dataset = "imagenet" if num_classes == 1000 else "folder"
    content: dict[str, Any] = {
        "model": args.get("spec", "resnet50_an") if outer.architecture == NETWORK else outer.architecture,
        "num_classes": num_classes,
        "in_chans": args.get("in_chans", images.input_size[0]),
        "dataset": dataset,
        "image_size": images.input_size[2],
        "mean": images.mean,
        "std": images.std,
        "crop_pct": images.crop_pct,
        "interpolation": images.interpolation if images.interpolation in INTERPOLATION else "bicubic",
    }
    check_types(CheckpointMeta, content, "")
    if not 0 <= num_classes <= MAX_CLASSES:  # before as many names are made up
        raise ValueError(f"num_classes must be from 0 to {MAX_CLASSES:,}")
    labels = outer.label_names
    if labels is None or len(labels) != num_classes:
        labels = class_names(num_classes, dataset)
    meta = CheckpointMeta(**content, classes=labels)
    check_numbers(meta)
    return meta


def _read(settings: type[T], values: Any, prefix: str) -> T:
    """The fields of `settings` among values of a file, with their types checked; null is as good as missing."""
    if type(values) is not dict:
        raise TypeError(f"{prefix or 'it '} must be an object")
    names = {item.name for item in fields(settings)}  # pyright: ignore[reportArgumentType]
    found = with_tuples({key: value for key, value in values.items() if key in names and value is not None})
    check_types(settings, found, prefix)
    made = settings(**found)
    if isinstance(made, _Images) and len(made.input_size) != 3:
        raise ValueError("input_size must be of channels, height and width")
    return made


def _in_order(labels: Any) -> Any:
    """Labels by their numbers as the list that they make; anything else as it is."""
    if not isinstance(labels, dict):
        return labels
    by_number = cast(dict[str, Any], labels)
    numbers = [str(number) for number in range(len(by_number))]
    return [by_number[number] for number in numbers] if by_number.keys() == set(numbers) else None


def _refuse_arguments(args: Mapping[str, Any]) -> None:
    """A network is built from its name, classes and channels: what would make it another must not be passed over."""
    for name, value in args.items():
        if name in _WITHOUT_EFFECT or (name in _SAID and (name != "global_pool" or value in _POOLS)):
            continue
        raise ValueError(f"model_args must be of {', '.join(_SAID)}; {shown(name)} is {shown(repr(value))}: use timm")


def is_timms(meta: CheckpointMeta) -> bool:
    """Whether timm can build the network, which it cannot build detectors and torchvision's."""
    return meta.detector is None and not is_torchvision(parse_spec(meta.model).name)


def timm_config(model: nn.Module, meta: CheckpointMeta, licence: str) -> dict[str, Any]:
    """The content of config.json, of which timm builds the network; of a detector, which timm has none of, our own.

    Args:
        model: The network.
        meta: What the header of its weights says.
        licence: Of the weights.
    """
    own = {KEY: asdict(meta)}
    spec = parse_spec(meta.model)
    if not is_timms(meta):
        return {"library_name": "attnorm", **own}
    size = [meta.in_chans, meta.image_size, meta.image_size]
    known: dict[str, Any] = cast(Any, model).pretrained_cfg
    named = {"model_args": {"spec": meta.model}} if spec.options else {}
    labels = {"label_names": list(meta.classes)} if len(meta.classes) == meta.num_classes > 0 else {}
    return {
        "architecture": NETWORK if spec.options else spec.name.partition(".")[0],
        "num_classes": meta.num_classes,
        "num_features": cast(Any, model).num_features,
        **labels,
        **named,
        "pretrained_cfg": {
            "custom_load": False,
            "input_size": size,
            "fixed_input_size": known.get("fixed_input_size", False),
            "interpolation": meta.interpolation,
            "crop_pct": meta.crop_pct,
            "crop_mode": "center",
            "mean": list(meta.mean),
            "std": list(meta.std),
            "num_classes": meta.num_classes,
            "pool_size": known.get("pool_size") if list(known["input_size"]) == size else None,
            "first_conv": known.get("first_conv"),
            "classifier": known.get("classifier"),
            "license": licence,
        },
        **own,
    }
