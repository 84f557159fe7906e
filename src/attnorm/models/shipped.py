"""Trained networks that come with the package: small, on data whose licence allows it, each with a card.

`weights/NAME.TAG.safetensors` is a checkpoint of `attnorm train`, `weights/NAME.TAG.json` its card: what it was trained
on and how, what it reaches, its licence. Both are written by benchmarks/shipped.py. Networks are pretrained weights to
timm, `timm.create_model("resnet20_cifar_an.fashion_mnist", pretrained=True)`; every command takes the name in place of
a checkpoint's path, of detectors too.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "weights"
LIMIT = 20_000_000  # bytes of all files together


@cache
def cards() -> dict[str, dict[str, Any]]:
    """The cards of all shipped networks and detectors, by name."""
    read = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))]
    return {card["name"]: card for card in read}


def resolve(path: str | Path) -> Path:
    """The file that a shipped name stands for, and any other path as it is; a file of that name goes before."""
    path = Path(path)
    return FOLDER / cards()[str(path)]["file"] if str(path) in cards() and not path.exists() else path


def with_shipped(cfgs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What `timm.models.generate_default_cfgs` takes, with an entry for each shipped set of weights.

    Args:
        cfgs: Networks without tags and what timm wants to know of them.
    """
    made: dict[str, Any] = {name: dict(cfg) for name, cfg in cfgs.items()}
    for name, card in cards().items():
        if card["model"] in cfgs:
            made[name] = {**cfgs[card["model"]], **_settings(card)}
    return made


def _settings(card: Mapping[str, Any]) -> dict[str, Any]:
    images = card["input"]
    size = (images["in_chans"], images["image_size"], images["image_size"])
    return {
        "file": str(FOLDER / card["file"]),
        "input_size": size,
        "mean": tuple(images["mean"]),
        "std": tuple(images["std"]),
        "crop_pct": images["crop_pct"],
        "interpolation": images["interpolation"],
        "num_classes": len(images["classes"]),
        "label_names": tuple(images["classes"]),
        "license": card["licence"].lower(),
        "description": f"trained on {card['data']['name']} by `{card['command']}`",
    }
