"""torchvision's classification networks under names that this package takes: "torchvision:resnet50".

Their module names and some of their numbers differ from timm's, so that weights trained with torchvision fit these.
"""

import difflib
from dataclasses import dataclass
from typing import Any, cast

import torchvision
from torch import nn
from torchvision.models import get_model, get_model_weights, list_models

from attnorm.errors import ConfigError

PREFIX = "torchvision:"
# They give several outputs in training, and drop the heads of them when they load weights.
_SEVERAL_HEADS = ("googlenet", "inception_v3")


@dataclass(frozen=True)
class Published:
    """What torchvision says of the weights that it takes by default.

    Attributes:
        name: Of the set of weights, such as "IMAGENET1K_V2".
        url: Where they come from.
        classes: Names of the classes.
        image_size: Side of the images in pixels, after the centre crop.
        crop_pct: Part of the resized image that the crop keeps.
        mean, std: For pixels from 0 to 1.
        interpolation: "bilinear" or "bicubic".
        licence: Where it names one.
    """

    name: str
    url: str
    classes: tuple[str, ...]
    image_size: int
    crop_pct: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    licence: str | None


def is_torchvision(name: str) -> bool:
    """Whether a name, without options, is of a network of torchvision."""
    return name.startswith(PREFIX)


def create_torchvision(
    name: str, *, pretrained: bool = False, num_classes: int = 1000, in_chans: int = 3, **kwargs: Any
) -> nn.Module:
    """Build a network of torchvision.

    Args:
        name: With the prefix.
        pretrained: Load the weights that torchvision takes by default; for another number of classes all but the last
            layer's.
        num_classes: From 1.
        in_chans: 3.
        **kwargs: Further arguments of the network, such as `dropout`.

    Raises:
        ConfigError: For a name that torchvision does not know, or what its networks do not do.
    """
    known = check_name(name)
    if "features_only" in kwargs:
        raise ConfigError(f"a detector's backbone must be timm's; {name} is torchvision's: take timm's {known}")
    if in_chans != 3:
        raise ConfigError(
            f"in_chans must be 3 for {name}, as torchvision's networks have it; got {in_chans}: take timm's {known}"
        )
    if num_classes < 1:
        raise ConfigError(f"num_classes must be at least 1 for {name}, whose classifier stays; got {num_classes}")
    if not pretrained:
        return get_model(known, num_classes=num_classes, **kwargs)
    trained = get_model(known, weights="DEFAULT", progress=False, **kwargs)
    if num_classes == len(published_weights(name).classes):
        return trained
    model = get_model(known, num_classes=num_classes, **kwargs)
    own, state = model.state_dict(), trained.state_dict()
    model.load_state_dict({key: value for key, value in state.items() if own[key].shape == value.shape}, strict=False)
    return model


def check_name(name: str) -> str:
    """The name of a network within torchvision.

    Raises:
        ConfigError: There is none, or it has several outputs.
    """
    known, names = name.removeprefix(PREFIX), list_models(torchvision.models)
    if known in _SEVERAL_HEADS:
        raise ConfigError(f"{name} has several outputs in training, which nothing here takes: take another network")
    if known not in names:
        near = difflib.get_close_matches(known, names, 3)
        hint = f": did you mean {', '.join(PREFIX + n for n in near)}?" if near else ""
        raise ConfigError(f"model must be a classification network of torchvision; got {name!r}{hint}")
    return known


def published_weights(name: str) -> Published:
    """What torchvision says of a network's weights."""
    weights = cast(Any, get_model_weights(check_name(name))).DEFAULT
    prepared = weights.transforms()
    return Published(
        name=weights.name,
        url=weights.url,
        classes=tuple(weights.meta["categories"]),
        image_size=prepared.crop_size[0],
        crop_pct=prepared.crop_size[0] / prepared.resize_size[0],
        mean=tuple(prepared.mean),
        std=tuple(prepared.std),
        interpolation=prepared.interpolation.value,
        licence=weights.meta.get("license"),
    )
