"""`attnorm models`: the networks that this package adds to timm, with their parameters."""

from fnmatch import fnmatchcase
from typing import Any

import torch

from attnorm.errors import ConfigError
from attnorm.files import write_json_atomic
from attnorm.models import create_model, model_names
from attnorm.training.use_config import ModelsConfig


def list_models(pattern: str = "*") -> list[dict[str, Any]]:
    """Names that match a shell pattern, with the trainable parameters that each network has by default.

    Raises:
        ConfigError: no name matches.
    """
    names = [name for name in model_names() if fnmatchcase(name, pattern)]
    if not names:
        raise ConfigError(f"filter must match a network of attnorm, and {pattern!r} matches none; try '*_an*'")
    return [{"name": name, "parameters": _count(name)} for name in names]


def print_models(config: ModelsConfig) -> None:
    """Prints the list, or writes it as JSON."""
    found = list_models(config.filter)
    if config.json is not None:
        write_json_atomic(config.json, found)
        return
    width = max(len(item["name"]) for item in found)
    for item in found:
        print(f"{item['name']:<{width}}  {item['parameters'] / 1e6:8.2f} M parameters")
    print(f"{len(found)} networks of attnorm; --model takes timm's names too, such as resnet50 with BatchNorm")


def _count(name: str) -> int:
    # On the meta device no weight is drawn or stored: forty networks are counted in seconds.
    with torch.device("meta"):
        model = create_model(name)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
