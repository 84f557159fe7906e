"""Networks with Attentive Normalization. Importing this registers them with timm.

`timm.create_model("resnet50_an")` works from then on; :func:`create_model` is the same with a helpful error.
"""

import difflib
from typing import Any

from torch import nn

from attnorm.errors import ConfigError
from attnorm.extras import naming_extras
from attnorm.layers.norm import AttentiveBatchNorm2d, AttentiveGroupNorm
from attnorm.layers.norm_act import AttentiveBatchNormAct2d, AttentiveGroupNormAct

with naming_extras("attnorm.models"):
    import timm
    from timm.models import register_notrace_module

from attnorm.models import (
    aognet,
    densenet,
    described_network,  # noqa: F401  registers what config.json names networks with options by
    mobilenetv2,
    resnet,
    resnet_cifar,
    resnet_small,
)
from attnorm.models.spec import apply_spec, parse_spec
from attnorm.models.torchvision_networks import create_torchvision, is_torchvision
from attnorm.models.weights_only import weights_only

__all__ = ["create_model", "model_names"]

_MODULES = (resnet, densenet, mobilenetv2, aognet, resnet_cifar, resnet_small)

# torch.fx cannot follow a choice that depends on the tensor: AN layers stay whole in timm's traced feature extractors.
for _layer in (AttentiveBatchNorm2d, AttentiveBatchNormAct2d, AttentiveGroupNorm, AttentiveGroupNormAct):
    register_notrace_module(_layer)


def model_names() -> list[str]:
    """The names of all networks that this package adds to timm, families together."""
    return [name for module in _MODULES for name in module.default_cfgs]


def create_model(name: str, **kwargs: Any) -> nn.Module:
    """Build a network by name: this package's, any of timm's, or torchvision's.

    Args:
        name: As in `timm.create_model`, or as "torchvision:resnet50"; options may follow, see
            :mod:`attnorm.models.spec`.
        **kwargs: `num_classes`, `in_chans`, `drop_path_rate`, ... of `timm.create_model`.

    Raises:
        ConfigError: For an unknown name; near ones are named. For options that do not fit the network.
    """
    spec = parse_spec(name)
    if is_torchvision(spec.name):
        with weights_only():
            model = create_torchvision(spec.name, **kwargs)
        return apply_spec(model, spec, pretrained=kwargs.get("pretrained", False))
    # timm's own prefixes, such as "hf-hub:", name places rather than registered networks.
    if ":" not in spec.name and not timm.is_model(spec.name):
        near = difflib.get_close_matches(spec.name, timm.list_models(), 3)
        hint = f"did you mean {', '.join(near)}?" if near else "`attnorm models` lists those with AN"
        raise ConfigError(f"model must be one that timm or attnorm knows; got {spec.name!r}: {hint}")
    _check_tag(spec.name)
    with weights_only():
        model = timm.create_model(spec.name, **kwargs)
    return apply_spec(model, spec, pretrained=kwargs.get("pretrained", False))


def _check_tag(name: str) -> None:
    """Refuse a tag that timm does not know, such as that of "resnet50.a9_in1k"."""
    base, _, tag = name.partition(".")
    if ":" in name or not tag:
        return
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError:
        tags = [found.partition(".")[2] for found in timm.list_pretrained(f"{base}.*")]
        known = f"one of {', '.join(tags)}" if tags else "left out, as there are no trained weights"
        raise ConfigError(f"the tag of {base} must be {known}; got {tag!r}") from None
