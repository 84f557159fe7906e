"""How the mixtures of trained networks are used, side by side: what `attnorm inspect` found, in benchmarks/results/.

    python -m benchmarks.mixtures NAME runs/x/inspect/inspect.json     # take one in; NAME is what the table calls it

benchmarks/claims.py puts the table into docs/results.md.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attnorm.files import write_json_atomic
from benchmarks.record import RESULTS
from benchmarks.results_table import markdown_table

FORMAT = "attnorm-mixtures"
FILE = "mixtures.json"
KEPT = ("layer", "components", "lambda_mean", "lambda_std_over_images", "directions", "gamma_std_over_images_relative")


def taken(name: str, inspected: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of an inspect.json: a row for each layer, and what made it."""
    layers = [
        {"layer": layer["name"]}
        | {key: layer[key] for key in KEPT if key != "layer"}
        | {"off": len(layer["off"]), "constant": len(layer["constant"])}
        for layer in inspected["layers"]
    ]
    made = {key: inspected[key] for key in ("model", "dataset", "images", "finished", "versions", "git", "environment")}
    return {"name": name, **made, "layers": layers}


def table(record: Mapping[str, Any]) -> str:
    """A row for each network: how much of its mixture is in use."""
    rows: list[list[str]] = []
    for network in record["networks"]:
        layers = network["layers"]
        total = sum(layer["components"] for layer in layers)
        directions = [layer["directions"] for layer in layers]
        means = [layer["lambda_mean"] for layer in layers]
        rows.append(
            [
                network["name"],
                f"{network['images']:,}",
                f"{min(means):.2f} to {max(means):.2f}",
                f"{min(directions):.1f} to {max(directions):.1f}",
                f"{sum(layer['off'] for layer in layers)} + {sum(layer['constant'] for layer in layers)} of {total}",
            ]
        )
    headings = ["network, data", "images", "mean λ by layer", "directions by layer", "components off + constant"]
    return markdown_table(headings, rows)


def main(arguments: Sequence[str] | None = None, store: Path = RESULTS) -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Take what `attnorm inspect` found into the committed results.")
    parser.add_argument("name")
    parser.add_argument("inspected", type=Path, help="an inspect.json")
    options = parser.parse_args(arguments)
    path = store / FILE
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"format": FORMAT, "networks": []}
    new = taken(options.name, json.loads(options.inspected.read_text(encoding="utf-8")))
    record["networks"] = [*(other for other in record["networks"] if other["name"] != new["name"]), new]
    write_json_atomic(path, record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
