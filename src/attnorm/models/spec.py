"""A network's name with options: which norm it has, where AN is in it, and what AN is made of.

    NAME[:OPTION=VALUE ...]        resnet50:norm=an        resnet20_cifar_an:num_components=4:gate=softmax

| option | values | for |
|---|---|---|
| norm | bn, gn, an, an_gn | networks without AN: as it is, GroupNorm everywhere, AN, AN on GroupNorm |
| placement | auto, or a name of `attnorm.layers.placement.PLACEMENTS` | where AN is |
| num_components | 10, or one for each stage of the placement: 10-10-20-20 | K |
| gate, logit_norm, head, statistic | see `attnorm.layers.attention` | the attention |
| init_gain | a number | the scale that the mixture starts with |

A name with options is a name wherever names are taken: by the commands, in recipes, in the header of a checkpoint.
What `pretrained` gives is converted such that the network computes what it did.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from attnorm.errors import ConfigError
from attnorm.layers.attentive import AttentiveNorm
from attnorm.layers.convert import replace_norm
from attnorm.layers.restore import restore_norm
from attnorm.layers.walk import named_modules
from attnorm.models.group_norm import use_group_norm

NORMS = ("bn", "gn", "an", "an_gn")
_AN = ("an", "an_gn")


def _components(text: str) -> int | tuple[int, ...]:
    counts = tuple(int(part) for part in text.split("-"))
    return counts[0] if len(counts) == 1 else counts


def _or_none(text: str) -> str | None:
    return None if text == "none" else text


# Of the AN layers themselves.
_LAYER_OPTIONS: dict[str, Callable[[str], Any]] = {
    "gate": str,
    "logit_norm": _or_none,
    "head": str,
    "statistic": str,
    "init_gain": float,
}
_OPTIONS: dict[str, Callable[[str], Any]] = {
    "norm": str,
    "placement": str,
    "num_components": _components,
    **_LAYER_OPTIONS,
}


@dataclass(frozen=True)
class Spec:
    """A name taken apart.

    Attributes:
        name: As in `timm.create_model`.
        options: By the names in the table above, read.
    """

    name: str
    options: Mapping[str, Any]

    @property
    def layer_options(self) -> dict[str, Any]:
        """Those that are arguments of the AN layers."""
        return {name: value for name, value in self.options.items() if name in _LAYER_OPTIONS}


def parse_spec(text: str) -> Spec:
    """Take a name with options, `text`, apart.

    Raises:
        ConfigError: For an option that does not exist, is given twice, or has a value that cannot be read.
    """
    parts = text.split(":")
    first = next((index for index, part in enumerate(parts) if "=" in part), len(parts))
    options: dict[str, Any] = {}
    for part in parts[first:]:
        name, _, value = part.partition("=")
        if name not in _OPTIONS or not value:
            raise ConfigError(f"{text}: an option must be one of {', '.join(_OPTIONS)}, with =VALUE; got {part!r}")
        if name in options:
            raise ConfigError(f"{text}: each option must be given once; got {name} twice")
        try:
            options[name] = _OPTIONS[name](value)
        except ValueError:
            raise ConfigError(f"{text}: {name} must be a number such as 10; got {value!r}") from None
    if options.get("norm", "an") not in NORMS:
        raise ConfigError(f"{text}: norm must be one of {', '.join(NORMS)}; got {options['norm']!r}")
    return Spec(":".join(parts[:first]), options)


def apply_spec(model: nn.Module, spec: Spec, *, pretrained: bool) -> nn.Module:
    """Give a network the norms that its options name, in place.

    Args:
        model: The network of `spec.name`.
        spec: What it is to become.
        pretrained: Whether its weights are trained, so that it must go on to compute what it does.

    Raises:
        ConfigError: If the options do not fit the network or each other.
    """
    if not spec.options:
        return model
    sites = {re.escape(n): m.num_components for n, m in named_modules(model) if isinstance(m, AttentiveNorm)}
    norm = _check(spec, has_an=bool(sites), pretrained=pretrained)
    if sites:
        model = restore_norm(model)
    if norm in ("gn", "an_gn"):
        model = use_group_norm(model)
    if norm not in _AN:
        return model
    try:
        return replace_norm(
            model,
            spec.options.get("placement", sites or "auto"),
            spec.options.get("num_components"),
            preserve_function=pretrained,
            layer_options=spec.layer_options,
        )
    except ValueError as error:
        raise ConfigError(f"{spec.name}: {error}") from None


def _check(spec: Spec, *, has_an: bool, pretrained: bool) -> str:
    """The norm that is asked for, after refusing what cannot be meant."""
    others = [name for name in spec.options if name != "norm"]
    norm = spec.options.get("norm", "an" if has_an else "bn")
    if has_an and "norm" in spec.options:
        raise ConfigError(f"{spec.name} has AN already, so that norm={norm} must be left out, or taken without _an")
    if has_an and pretrained:
        raise ConfigError(f"the pretrained weights of {spec.name} are those of its own AN; leave out {others[0]}")
    if norm not in _AN and others:
        raise ConfigError(f"{others[0]} is an option of AN, and {spec.name} has none: add norm=an, or norm=an_gn")
    if norm in ("gn", "an_gn") and pretrained:
        raise ConfigError(f"norm={norm} cannot take over the pretrained weights of {spec.name}'s own norms")
    return norm
