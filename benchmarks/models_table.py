"""The table of docs/models.md: size, cost, published accuracy, recipe and what was verified, for every published model.

    python -m benchmarks.models_table [--reference DIR]   # count, verify, write benchmarks/results/models.json, renew
    python -m benchmarks.models_table --renew             # write the page from models.json alone
    python -m benchmarks.models_table --check             # exit 1 where the page is out of date

DIR holds facts about the original networks: `state_dicts/<release>/<name>.json`, the keys and shapes of their state
dicts, and `fixtures/eval_logits.json`, logits that the original code computed in float64 for weights and images filled
by a fixed rule (tests/parity/filling.py). Where it is given, every network is loaded from a file with such weights and
the authors' keys, and its logits are compared.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from attnorm.evidence.cost import count_parameters
from attnorm.evidence.operations import count_operations
from attnorm.files import write_json_atomic
from attnorm.models import create_model
from attnorm.models.published import Published, results, rows
from attnorm.models.released import read_released
from attnorm.training.record import git_state, versions
from benchmarks import pages
from benchmarks.record import RESULTS, ROOT
from benchmarks.results_table import markdown_table
from tests.parity.filling import entry, network_input

COMMAND = "python -m benchmarks.models_table"
INPUT = (3, 224, 224)
# Beside the published ones: the BN baseline of a published row, and networks of the same families.
FURTHER = (
    *("resnet18_an", "resnet152_an", "resnext50_32x4d_an", "resnet34_an_bn2", "resnet50_an_bn123", "resnet34_se_bn2"),
    *("densenet121", "densenet161_an", "densenet169_an", "densenet201_an"),
)
Row = Mapping[str, Any]


def names() -> list[str]:
    """The published networks in the order of the releases, then the others."""
    return list(dict.fromkeys([row.model for row in rows()] + list(FURTHER)))


def describe(name: str, reference: Path | None) -> dict[str, Any]:
    """One network: counts, published rows, recipes, and how far its logits are from the original's."""
    with torch.device("meta"):
        model = create_model(name)
    counted = count_operations(model, INPUT)
    recipes = sorted(
        str(path.relative_to(ROOT))
        for path in (ROOT / "configs" / "imagenet").glob("*.yaml")
        if f"\nmodel: {name}\n" in path.read_text(encoding="utf-8")
    )
    return {
        "model": name,
        "parameters": count_parameters(model),
        "macs": counted.macs,
        "elements": counted.elements,
        "published": [_published(row) for row in results(name)],
        "recipes": recipes,
        "verified": [] if reference is None else verified(name, reference),
    }


def _published(row: Published) -> dict[str, Any]:
    return {"recipe": row.recipe, "release": row.release, "params_m": row.params_m, "top1": row.accuracy["imagenet"][0]}


def verified(name: str, reference: Path) -> list[dict[str, Any]]:
    """The originals of a network whose keys and logits are known, with the largest relative error of the logits.

    Raises:
        RuntimeError: A file with an original's keys was taken for another network.
    """
    fixtures = json.loads((reference / "fixtures" / "eval_logits.json").read_text(encoding="utf-8"))["models"]
    found: list[dict[str, Any]] = []
    for release in ("aognet-v2", "ivmcl-release"):
        for original, shapes in _originals(reference / "state_dicts", release).items():
            if _our_name(release, original) != name:
                continue
            error = None
            logits = fixtures[release].get(original)
            if logits is not None:
                error = _logit_error(name, shapes, logits)
            found.append({"release": release, "original": original, "entries": len(shapes), "logit_error": error})
    return found


def _originals(folder: Path, release: str) -> dict[str, dict[str, list[int]]]:
    """Keys and shapes of a release's classification networks."""
    lists = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted((folder / release).glob("*"))}
    return {name: shapes for name, shapes in lists.items() if "rcnn" not in name}


def _our_name(release: str, original: str) -> str | None:
    """Our name of an original: that of the published row, or by the naming of the second release."""
    known = {(row.release, row.name): row.model for row in rows()}
    if (release, original) in known:
        return known[release, original]
    plain = original.removesuffix("_200e_ls_mixup").removesuffix("_imagenet").removesuffix("_bn")
    return {
        "resnetv1d_50_an": "resnetv1d50_an",
        "resnetv1d_50": "resnetv1d50",
        "densenet_121": "densenet121",
        "resnet_34_an_bn2": "resnet34_an_bn2",
        "resnet_34_se_bn2": "resnet34_se_bn2",
        "resnet_50_an_bn123": "resnet50_an_bn123",
    }.get(plain)


def _logit_error(name: str, shapes: Mapping[str, Sequence[int]], expected: Mapping[str, Any]) -> float:
    """Load a file with an original's keys and filled weights; the error is relative to the largest known logit."""
    state = {key: entry(i, key, tuple(shape)) for i, (key, shape) in enumerate(shapes.items())}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "weights.safetensors"
        save_file(state, file)
        released = read_released(file, dtype=torch.float64)
    if released.name != name:
        raise RuntimeError(f"the keys of {name}'s original were taken for those of {released.name}")
    with torch.no_grad():
        logits = released.build()(network_input((2, 3, 96, 96)))
    known = torch.tensor([expected["first8_sample0"], expected["first8_sample1"]], dtype=torch.float64)
    errors = [(logits[:, :8] - known).abs().max() / known.abs().max()]
    errors.append((logits.abs().sum() / expected["abs_sum"] - 1).abs())
    return float(max(errors))


def table(record: Row) -> str:
    """The record as Markdown."""
    lines: list[list[str]] = []
    for row in record["rows"]:
        recipes = ", ".join(f"[{Path(recipe).stem}](../{recipe})" for recipe in row["recipes"])
        elements = sum(row["elements"].values())
        lines.append(
            [
                row["model"],
                f"{row['parameters']:,}" + _as_published(row),
                f"{row['macs'] / 1e9:.3f}",
                f"{elements / 1e9:.3f}",
                _top1(row, "normal"),
                _top1(row, "advanced"),
                recipes,
                _what_was_verified(row),
            ]
        )
    headings = ["model", "parameters (published, M)", "MACs, G", "other operations, G"]
    headings += ["published top-1, %", "advanced recipe", "recipes", "verified"]
    return markdown_table(headings, lines)


def _as_published(row: Row) -> str:
    printed = sorted({published["params_m"] for published in row["published"]})
    return f" ({' / '.join(f'{value:g}' for value in printed)})" if printed else ""


def _top1(row: Row, recipe: str) -> str:
    return " / ".join(f"{published['top1']:g}" for published in row["published"] if published["recipe"] == recipe)


def _what_was_verified(row: Row) -> str:
    if not row["verified"]:
        return "timm's contract"
    errors = [found["logit_error"] for found in row["verified"] if found["logit_error"] is not None]
    keys = f"{row['verified'][0]['entries']} keys"
    return f"{keys}, logits to {max(errors):.0e}" if errors else keys


def provenance(record: Row) -> str:
    """What made the table."""
    made = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return f"`{COMMAND}`, {record['date']}, commit {str(record['git']['commit'])[:12]}; {made}.\n"


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Write the table of models.")
    parser.add_argument("--reference", type=Path, help="folder with facts about the original networks")
    parser.add_argument("--json", type=Path, default=RESULTS / "models.json", help="where the figures go")
    parser.add_argument("--renew", action="store_true", help="count nothing, write the page from the JSON file")
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 where the page is out of date")
    options = parser.parse_args(arguments)
    if not (options.renew or options.check):
        made: list[dict[str, Any]] = []
        for name in names():
            made.append(describe(name, options.reference))
            print(f"{name}: {made[-1]['parameters']:,} parameters, verified: {made[-1]['verified']}", flush=True)
        record = {
            "format": "attnorm-models",
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "git": git_state(),
            "versions": versions(),
            "rows": made,
        }
        write_json_atomic(options.json, record)
    record = json.loads(options.json.read_text(encoding="utf-8"))
    content = {"table": table, "provenance": provenance}
    before = pages.read(root)
    renewed = {path: pages.fill(p, ("models",), lambda _, name: content[name](record)) for path, p in before.items()}
    return pages.write_changed(root, before, renewed, check=f"{COMMAND} --renew" if options.check else None)


if __name__ == "__main__":
    sys.exit(main())
