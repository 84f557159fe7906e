"""`attnorm models`: the networks that this package adds to timm, those that it is compared with, and trained ones."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch

from attnorm.detection.config import KINDS, is_detector
from attnorm.errors import ConfigError
from attnorm.files import write_json_atomic
from attnorm.models import create_model, model_names, shipped
from attnorm.models.published import SOURCES, Published, results, rows
from attnorm.training.use_config import ModelsConfig


def list_models(pattern: str = "*") -> list[dict[str, Any]]:
    """Networks whose names match a shell pattern: this package's, and timm's of which the authors published results.

    Returns:
        For each its name, the trainable parameters that it has by default, what was published of it on ImageNet, and
        the trained weights of it that come with the package.

    Raises:
        ConfigError: no name matches.
    """
    known = dict.fromkeys([*model_names(), *(row.model for row in rows())])
    names = [name for name in known if fnmatchcase(name, pattern)]
    if not names and not list_detectors(pattern):
        raise ConfigError(f"filter must match a network of attnorm, and {pattern!r} matches none; try '*_an*'")
    return [
        {
            "name": name,
            "parameters": _count(name),
            "published": [_published(row) for row in results(name)],
            "weights": [_trained(card) for card in shipped.cards().values() if card["model"] == name],
        }
        for name in names
    ]


def list_detectors(pattern: str = "*") -> list[dict[str, Any]]:
    """The trained detectors that come with the package, in the form of `list_models`."""
    found = [card for card in shipped.cards().values() if is_detector(card["model"])]
    return [
        {"name": card["model"], "parameters": card["parameters"], "published": [], "weights": [_trained(card)]}
        for card in found
        if fnmatchcase(card["model"], pattern)
    ]


def _trained(card: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": card["name"],
        "data": card["data"]["name"],
        "measured": card["measured"],
        "size": card["size"],
    }


def print_models(config: ModelsConfig) -> None:
    """Prints the list, or writes it as JSON."""
    found, detectors = list_models(config.filter), list_detectors(config.filter)
    if config.json is not None:
        write_json_atomic(config.json, [*found, *detectors])
        return
    width = max((len(item["name"]) for item in found), default=len("network"))
    print(f"{'network':<{width}}  parameters  normal recipe  advanced recipe")
    for item in found:
        published = f"{_top1(item['published'], 'normal'):<13}  {_top1(item['published'], 'advanced')}"
        print(f"{item['name']:<{width}}  {item['parameters'] / 1e6:8.2f} M  {published}".rstrip())
    sources = ", ".join(f"[{number}] {source}" for number, source in enumerate(SOURCES.values(), 1))
    print(f"recipes: top-1 on ImageNet in percent as the authors published it ({sources})")
    _print_trained([weights for item in (*found, *detectors) for weights in item["weights"]])
    print(f"{len(found)} networks; --model takes all others of timm too")
    kinds = ", ".join(f"{kind}_NETWORK_fpn" for kind in KINDS)
    print(f"detectors: {kinds}, on any of these or of timm's that has features at strides 4 to 32")


def _print_trained(rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        return
    print("trained, in the package (--checkpoint NAME; docs/shipped_models.md):")
    names, data = (max(len(row[key]) for row in rows) for key in ("name", "data"))
    for row in rows:
        measured = row["measured"]
        detects = measured["metric"] != "top1"
        reached = f"mask AP {measured['mask_AP']:.1f}" if detects else f"{measured['top1']:.2f} %"
        print(f"  {row['name']:<{names}}  {row['data']:<{data}}  {reached:<12}  {row['size'] / 1e6:.2f} MB")


def _published(row: Published) -> dict[str, Any]:
    top1, top5 = row.accuracy["imagenet"]
    return {"recipe": row.recipe, "top1": top1, "top5": top5, "source": row.source}


def _top1(published: list[dict[str, Any]], recipe: str) -> str:
    """The first release's number where it has one, else the second's, which is rounded."""
    row = next((row for row in published if row["recipe"] == recipe), None)
    return f"{row['top1']:g} [{[*SOURCES.values()].index(row['source']) + 1}]" if row else ""


def _count(name: str) -> int:
    # On the meta device no weight is drawn or stored: forty networks are counted in seconds.
    with torch.device("meta"):
        model = create_model(name)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
