"""timm's door to networks whose name has options: what config.json names that it could not name otherwise.

A network such as "resnet50:norm=an:gate=softmax" is none that timm knows. In timm's layout its architecture is
`attnorm_network`, and `model_args` has the name: {"spec": "resnet50:norm=an:gate=softmax"}.
"""

from pathlib import Path
from typing import Any, cast

import timm
from timm.models import load_pretrained, register_model
from torch import nn

from attnorm.errors import ConfigError
from attnorm.models.spec import apply_spec, parse_spec

NETWORK = "attnorm_network"


@register_model
def attnorm_network(
    pretrained: bool = False,
    *,
    spec: str = "resnet50_an",
    pretrained_cfg: dict[str, Any] | None = None,
    cache_dir: str | Path | None = None,
    pretrained_strict: bool = True,
    features_only: bool = False,
    out_indices: tuple[int, ...] | None = None,
    pretrained_model_args: dict[str, Any] | None = None,
    **kwargs: Any,
) -> nn.Module:
    """A network of timm's or of this package by its name with options; see `attnorm.models.spec`.

    Raises:
        ConfigError: The name is none of a network that timm knows, or its options do not fit.
    """
    name = parse_spec(spec).name
    # A config.json comes from anywhere: a name in it leads to no other place.
    if name == NETWORK or ":" in name or not timm.is_model(name):
        raise ConfigError(f"spec must start with the name of a network of timm or attnorm; got {name!r}")
    model = _build(spec, pretrained_cfg, **kwargs)
    if pretrained:
        settings = cast(Any, model).pretrained_cfg
        classes, channels = cast(Any, model).num_classes, kwargs.get("in_chans", settings["input_size"][0])
        load_pretrained(model, settings, classes, channels, strict=pretrained_strict, cache_dir=cache_dir)
    if not features_only:
        return model
    from attnorm.models.transfer import take_weights  # needs all networks registered, of which this is one

    indices = {} if out_indices is None else {"out_indices": out_indices}
    features = _build(spec, pretrained_cfg, features_only=True, **indices, **kwargs)
    take_weights(features, model.state_dict())
    return features


def _build(spec: str, pretrained_cfg: dict[str, Any] | None, **kwargs: Any) -> nn.Module:
    parsed = parse_spec(spec)
    made = timm.create_model(parsed.name, pretrained_cfg=pretrained_cfg, **kwargs)
    model = apply_spec(made, parsed, pretrained=False)
    # What timm's own `save_for_hf` writes must name this door again, not the network behind it.
    cast(Any, model).pretrained_cfg["architecture"] = NETWORK
    cast(Any, model).attnorm_spec = spec
    return model


def known_name(model: nn.Module) -> str:
    """The name by which `attnorm.models.create_model` builds a network of timm's, wherever this one came from."""
    return getattr(model, "attnorm_spec", None) or cast(Any, model).pretrained_cfg["architecture"]
