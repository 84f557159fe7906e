"""The whole detection path on real photographs and microscopy: train, evaluate, predict, and look at it.

    python -m benchmarks.detection nuclei    --data-dir DIR --backbones DIR [--output runs/detection] [--seeds 0]
    python -m benchmarks.detection nuclei_small --data-dir DIR
    python -m benchmarks.detection facade512 --data-dir DIR --backbones DIR
    python -m benchmarks.detection coco_free --data-dir DIR --backbones DIR
    python -m benchmarks.detection --renew

nuclei, facade512: Mask R-CNN with BatchNorm and with AN in the backbone, by configs/quickstart/CASE.yaml; nuclei_small:
the same of a small detector from random weights. coco_free: AN alone, over-fitted to the images that it is evaluated
on. DIR holds COCO-format data; BACKBONES holds resnet18.safetensors and resnet18_an.safetensors, from which the others
start. Everything goes through the command line, as a user would do it; a run that is done is not repeated. Writes into
benchmarks/results/ the comparison, CASE_resnet18.json or nuclei_small.json, and detection_path.json: the numbers of
`attnorm eval`, and the difference between the networks with its interval over images. detection_CASE.png, in
docs/images where the images are in the public domain, else in the output folder, shows the first of them
(benchmarks/detection_picture.py). docs/results.md shows all that; --renew writes its tables anew. Further flags go to
the training.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attnorm.data import CocoConfig
from attnorm.detection.average_precision import IouType, average_precision
from attnorm.detection.config import split_name
from attnorm.files import write_json_atomic
from attnorm.training.checkpoint import read_meta
from attnorm.training.record import environment, git_state, versions
from benchmarks import pages, results_table
from benchmarks.detection_picture import by_image, draw
from benchmarks.record import RESULTS, ROOT

FORMAT = "attnorm-detection-path"
RESAMPLES = 200


@dataclass(frozen=True)
class Case:
    """A data set and what is trained on it; the first network is the baseline.

    Attributes:
        models: By the recipe configs/quickstart/NAME.yaml.
        annotations: To evaluate on, with `images`; within the data's folder.
        shown: Whether docs may show its images: those of the others are under licences that ask for attribution.
        from_backbones: Whether the networks start from backbones that were trained before, or from random weights.
    """

    models: tuple[str, ...]
    annotations: str
    images: str
    shown: bool = False
    from_backbones: bool = True


CASES = {
    "nuclei": Case(
        ("mask_rcnn_resnet18_fpn", "mask_rcnn_resnet18_an_fpn"), "annotations/instances_val.json", "images/val", True
    ),
    "nuclei_small": Case(
        ("mask_rcnn_resnet10_small_fpn", "mask_rcnn_resnet10_small_an_fpn"),
        "annotations/instances_val.json",
        "images/val",
        shown=True,
        from_backbones=False,
    ),
    "facade512": Case(
        ("mask_rcnn_resnet18_fpn", "mask_rcnn_resnet18_an_fpn"), "annotations/instances_val.json", "images/val"
    ),
    "coco_free": Case(("mask_rcnn_resnet18_an_fpn",), "annotations/instances_train.json", "images/train"),
}


def attnorm(*arguments: object) -> None:
    """One command, as typed in a shell.

    Raises:
        CalledProcessError: It failed; its own line says why.
    """
    subprocess.run([sys.executable, "-m", "attnorm.cli", *map(str, arguments)], check=True)


def trained(name: str, options: argparse.Namespace, flags: Sequence[str]) -> dict[str, Path]:
    """Train the networks of a case, unless that is done, and give the folder of each one's first seed."""
    case, output = CASES[name], options.output / name
    shared = ["--config", ROOT / "configs" / "quickstart" / f"{name}.yaml", "--data-dir", options.data_dir, *flags]
    if case.from_backbones:  # before hours of training, not after them
        for model in case.models:
            backbone_of(model, options.backbones)
    start = ["--initial-checkpoint", f"{options.backbones}/{{backbone}}.safetensors"] if case.from_backbones else []
    several = len(case.models) > 1
    if several:
        attnorm("compare", *shared, "--models", ",".join(case.models), "--seeds", options.seeds, *start,
                "--output", output)  # fmt: skip
        result = json.loads((output / "compare.json").read_text(encoding="utf-8"))
        file = f"{name}_resnet18.json" if case.from_backbones else f"{name}.json"
        write_json_atomic(options.results / file, results_table.without_paths(result))
        seed = options.seeds.split(",")[0]
        return {model: output / "runs" / model / f"seed{seed}" for model in case.models}
    model = case.models[0]
    weights = f"{options.backbones}/resnet18_an.safetensors"
    attnorm("train", *shared, "--model", model, "--initial-checkpoint", weights, "--resume", "auto",
            "--output", output)  # fmt: skip
    return {model: output}


def measured(name: str, runs: Mapping[str, Path], options: argparse.Namespace) -> dict[str, Any]:
    """What `attnorm eval` says of each network, and the difference between the second and the first.

    Raises:
        RuntimeError: A results file does not give the numbers that its network gave.
    """
    case = CASES[name]
    truth = options.data_dir / case.annotations
    found: dict[str, Path] = {}
    networks: dict[str, Any] = {}
    for model, run in runs.items():
        found[model] = run / "results.json"
        attnorm("eval", "--checkpoint", run / "last.safetensors", "--dataset", "coco", "--data-dir", options.data_dir,
                "--annotations", case.annotations, "--images", case.images, "--save-predictions", found[model],
                "--json", run / "eval.json")  # fmt: skip
        result = json.loads((run / "eval.json").read_text(encoding="utf-8"))
        again = average_precision(truth, found[model], "segm")["AP"]
        if abs(again - result["mask_AP"]) > 1e-9:
            raise RuntimeError(f"{model}: its results file gives mask AP {again}, the network {result['mask_AP']}")
        record = json.loads((run / "record.json").read_text(encoding="utf-8"))
        keys = [f"{kind}_{metric}" for kind in ("box", "mask") for metric in ("AP", "AP50", "AP75")]
        networks[model] = {
            **{key: result[key] for key in keys},
            "images": result["count"],
            "detections": result["detections"],
            "categories": sum(entry["mask_AP"] is not None for entry in result["per_category"]),
            "epochs": record["config"]["epochs"],
            "seconds_per_epoch": record["seconds_per_epoch"],
            "params": record["params"],
            "backbone": backbone_of(model, options.backbones) if case.from_backbones else None,
        }
    step = {
        "case": name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "git": git_state(),
        "versions": versions(),
        "machine": environment(torch.device("cpu")),
        "networks": networks,
    }
    if len(found) > 1:
        baseline, other = found.values()
        step["differences"] = {
            "box": difference(json.loads(truth.read_text(encoding="utf-8")), baseline, other, "bbox"),
            "mask": difference(json.loads(truth.read_text(encoding="utf-8")), baseline, other, "segm"),
        }
    return step


def backbone_of(model: str, folder: Path) -> dict[str, Any]:
    """What the weights that a detector started from say of themselves: data set, epochs and top-1.

    Raises:
        RuntimeError: They are not there, or of another program.
    """
    meta = read_meta(folder / f"{split_name(model)[1]}.safetensors")
    if meta is None:
        raise RuntimeError(f"{folder} must hold weights of {split_name(model)[1]} that `attnorm train` wrote")
    return {"dataset": meta.dataset, "epochs": meta.epoch, "top1": (meta.metrics or {}).get("top1")}


def difference(truth: dict[str, Any], baseline: Path, other: Path, iou_type: IouType) -> dict[str, Any]:
    """AP of `other` minus that of `baseline`, in points, with a 95% interval over images: the bootstrap's percentiles.

    Images are drawn with replacement, the same for both; an image drawn twice counts as two.
    """
    results = [json.loads(path.read_text(encoding="utf-8")) for path in (baseline, other)]
    ids = [image["id"] for image in truth["images"]]
    draw = np.random.default_rng(0)
    values: list[float] = []
    for drawn in [ids, *(draw.choice(ids, len(ids)).tolist() for _ in range(RESAMPLES))]:
        before, after = (_resampled_ap(truth, each, drawn, iou_type) for each in results)
        values.append(after - before)
    low, high = np.percentile(values[1:], [2.5, 97.5])
    return {
        "points": 100 * values[0],
        "interval": [100 * float(low), 100 * float(high)],
        "resamples": RESAMPLES,
        "images": len(ids),
    }


def _resampled_ap(truth: dict[str, Any], results: list[dict[str, Any]], drawn: list[int], iou_type: IouType) -> float:
    images = {image["id"]: image for image in truth["images"]}
    objects, found = by_image(truth["annotations"]), by_image(results)
    places = list(enumerate(drawn, 1))
    resampled = {
        "images": [{**images[old], "id": new} for new, old in places],
        "categories": truth["categories"],
        "annotations": [
            {**entry, "image_id": new, "id": number}
            for number, (new, entry) in enumerate(((n, e) for n, old in places for e in objects.get(old, ())), 1)
        ],
    }
    entries = [{**entry, "image_id": new} for new, old in places for entry in found.get(old, ())]
    return average_precision(resampled, entries, iou_type)["AP"]


def table(record: Mapping[str, Any], name: str) -> str:
    """A case as Markdown."""
    step = next((step for step in record["steps"] if step["case"] == name), None)
    if step is None:
        return "Not measured yet.\n"
    keys = [f"{kind}_{metric}" for kind in ("box", "mask") for metric in ("AP", "AP50", "AP75")]
    lines: list[list[str]] = []
    for model, numbers in step["networks"].items():
        aps = [f"{100 * numbers[key]:.1f}" for key in keys]
        trainable, backbone = f"{numbers['params'] / 1e6:.2f}", _percent((numbers["backbone"] or {}).get("top1"))
        lines.append([model, *aps, str(numbers["epochs"]), trainable, backbone])
    headings = ["detector", *(key.replace("_", " ") for key in keys), "epochs", "trainable, M", "backbone's top-1, %"]
    text = results_table.markdown_table(headings, lines)
    for kind, found in step.get("differences", {}).items():
        low, high = found["interval"]
        text += (
            f"\nAN against BatchNorm, {kind} AP: {found['points']:+.1f} points, 95% interval over the "
            f"{found['images']} images [{low:+.1f}, {high:+.1f}] (bootstrap, {found['resamples']} resamples).\n"
        )
    return text


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def renew(record: Mapping[str, Any], root: Path = ROOT) -> None:
    """Write the record's tables into the pages."""
    before = pages.read(root)
    after = {
        path: pages.fill(page, ("detection",), lambda _, name: table(record, name)) for path, page in before.items()
    }
    pages.write_changed(root, before, after)


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(
        description="Train, evaluate and look at detectors on real images.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("case", nargs="?", choices=list(CASES))
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--backbones", type=Path, help="folder of the backbones' weights")
    parser.add_argument("--renew", action="store_true", help="only write the tables from the committed figures")
    parser.add_argument("--output", type=Path, default=Path("runs/detection"))
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the figures go")
    parser.add_argument("--images", type=Path, default=ROOT / "docs" / "images", help="where the pictures go")
    options, flags = parser.parse_known_args(arguments)
    path = options.results / "detection_path.json"
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"format": FORMAT, "steps": []}
    if not options.renew:
        if options.case is None or options.data_dir is None:
            parser.error("name a case and --data-dir, or give --renew")
        if CASES[options.case].from_backbones and options.backbones is None:
            parser.error(f"{options.case} needs --backbones")
        runs = trained(options.case, options, flags)
        step = measured(options.case, runs, options)
        case = CASES[options.case]
        folder = options.images if case.shown else options.output
        files = CocoConfig(val_annotations=case.annotations, val_images=case.images)
        results = [run / "results.json" for run in runs.values()]
        draw(options.data_dir, files, results, folder / f"detection_{options.case}.png")
        print(json.dumps(step, indent=2), flush=True)
        others = [other for other in record["steps"] if other["case"] != step["case"]]
        record["steps"] = sorted([*others, step], key=lambda other: other["case"])
        write_json_atomic(path, record)
    renew(record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
