"""The command line with variants of AN networks added to its models: why is AN where it is?

    python benchmarks/an_variants.py compare --models resnet8_cifar,resnet8_cifar_an,resnet8_cifar_an_unit ...

| model | differs from the network without the last part of its name in |
|---|---|
| resnet8_cifar_an_unit, mobilenetv2_100_an_unit | `init_gain=1`: scales and shifts start at 2/K of the paper's |
| resnet8_cifar_an_k4 | 4 components in every layer instead of 10, 10, 20 |
"""

import sys
from typing import Any

import timm
from timm.models import generate_default_cfgs, register_model
from torch import nn

import attnorm.models  # noqa: F401  # registers resnet8_cifar_an
from attnorm.cli import main

default_cfgs = generate_default_cfgs(
    {"resnet8_cifar_an_unit": {}, "resnet8_cifar_an_k4": {}, "mobilenetv2_100_an_unit": {}}
)


@register_model
def resnet8_cifar_an_unit(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Gains near 1 at the start."""
    return timm.create_model("resnet8_cifar_an", layer_options={"init_gain": 1.0}, **_known(kwargs))


@register_model
def mobilenetv2_100_an_unit(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Gains near 1 at the start, in front of every ReLU6."""
    return timm.create_model("mobilenetv2_100_an", layer_options={"init_gain": 1.0}, **_known(kwargs))


@register_model
def resnet8_cifar_an_k4(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Four components everywhere."""
    return timm.create_model("resnet8_cifar_an", num_components=4, **_known(kwargs))


def _known(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Without what timm's factory adds for its own use."""
    return {name: value for name, value in kwargs.items() if not name.startswith("pretrained") and name != "cache_dir"}


if __name__ == "__main__":
    sys.exit(main())
