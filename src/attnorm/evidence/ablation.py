"""`--ablate`: the networks of a comparison with every value of an option, as names with options.

    OPTION=VALUE,VALUE[:OPTION=VALUE,VALUE]     num_components=2,5,10     num_components=2,5:gate=sigmoid,softmax

Several options are crossed: each value of one with each value of the others. The options are those of
:mod:`attnorm.models.spec`. A network for which an option cannot be meant stays as it is: one without AN where the
option is AN's, one that has AN under its own name where the option is the norm, one whose name has the option already.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch

from attnorm.detection.config import is_detector, split_name
from attnorm.errors import ConfigError
from attnorm.layers.attentive import AttentiveNorm
from attnorm.layers.walk import named_modules
from attnorm.models import create_model
from attnorm.models.spec import parse_spec

_EXAMPLE = "num_components=2,5,10"


@dataclass(frozen=True)
class Network:
    """A network of the comparison.

    Attributes:
        name: With its options.
        unchanged: Why an option was not applied to it, in a sentence for each.
    """

    name: str
    unchanged: tuple[str, ...] = ()


def parse_ablation(text: str) -> dict[str, tuple[str, ...]]:
    """The values by option, the norm first: what others can be meant for depends on it.

    Raises:
        ConfigError: The text is not of the form above.
    """
    found: dict[str, tuple[str, ...]] = {}
    for part in text.split(":"):
        option, equals, listed = part.strip().partition("=")
        values = tuple(value.strip() for value in listed.split(","))
        if not option or not equals or not all(values):
            raise ConfigError(f"ablate must be OPTION=VALUE,VALUE such as {_EXAMPLE}; got {part!r} in {text!r}")
        if option in found:
            raise ConfigError(f"ablate must name each option once, with all its values; got {option} twice in {text!r}")
        if len(set(values)) < len(values):
            raise ConfigError(f"ablate must name each value once; got {part!r}")
        found[option] = values
    return dict(sorted(found.items(), key=lambda item: item[0] != "norm"))


def expand(models: Sequence[str], ablation: Mapping[str, Sequence[str]]) -> list[Network]:
    """Every network with every combination of values; the first network's come first.

    Raises:
        ConfigError: An option or value does not exist, a combination cannot be built, or no network is changed.
    """
    networks: list[Network] = []
    for model in models:
        for option, values in ablation.items():
            for value in values:
                parse_spec(f"{parse_spec(_backbone(model)).name}:{option}={value}")  # an unknown one stops here
        made = [Network(model)]
        for option, values in ablation.items():
            made = [changed for network in made for changed in _with_values(network, option, values)]
        networks += made
    if [network.name for network in networks] == list(models):
        reasons = "; ".join(f"{network.name}: {network.unchanged[0]}" for network in networks)
        raise ConfigError(f"ablate must change a network, and changes none ({reasons})")
    for network in networks:
        with torch.device("meta"):
            create_model(_backbone(network.name))
    return networks


def _with_values(network: Network, option: str, values: Sequence[str]) -> list[Network]:
    if why := _why_not(network.name, option):
        return [Network(network.name, (*network.unchanged, why))]
    return [Network(f"{network.name}:{option}={value}", network.unchanged) for value in values]


def _why_not(name: str, option: str) -> str | None:
    """Why an option cannot be meant for a network; None where it can."""
    spec = parse_spec(_backbone(name))
    if option in spec.options:
        return f"it names its {option} itself"
    has_an = _has_an(spec.name)
    if option == "norm":
        return "it has AN under its own name" if has_an else None
    if has_an or spec.options.get("norm", "bn") in ("an", "an_gn"):
        return None
    return f"it has no AN that {option} could be of"


def _backbone(name: str) -> str:
    """The network that the options of a name are for."""
    return split_name(name)[1] if is_detector(name) else name


@cache
def _has_an(name: str) -> bool:
    with torch.device("meta"):
        model = create_model(name)
    return any(isinstance(module, AttentiveNorm) for _, module in named_modules(model))


def describe_networks(networks: Sequence[Network], seeds: int) -> list[str]:
    """What is going to be compared, a line for each network."""
    lines = [f"{len(networks)} networks, {seeds} seeds: {len(networks) * seeds} runs"]
    for index, network in enumerate(networks):
        remarks = [*(["the baseline"] if index == 0 else []), *(f"as it is: {why}" for why in network.unchanged)]
        lines.append(f"  {network.name}" + (f"  ({'; '.join(remarks)})" if remarks else ""))
    return lines
