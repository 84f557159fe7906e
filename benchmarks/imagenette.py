"""The whole ImageNet path on real photographs: train, evaluate, predict, convert to the authors' keys and back, reload.

    python -m benchmarks.imagenette --data-dir DIR [--output runs/imagenette] [--seeds 0] [--families resnet18,...]

For each family a network with BatchNorm and its twin with AN, from scratch, by configs/quickstart/imagenette.yaml; DIR
holds train/<wnid>/ and val/<wnid>/. Everything goes through the command line, as a user would do it. A run that is done
is not repeated. Writes benchmarks/results/imagenette_FAMILY.json (the comparison) and, in imagenette_path.json beside
it, on which images the two networks of the first seed differ and what became of the trained AN network after each step;
docs/results.md shows both (`python -m benchmarks.imagenette --renew` writes the table of the latter). Further flags go
to `attnorm compare`.
"""

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attnorm.data import DataConfig, load_data, make_loader
from attnorm.evidence.statistics import image_interval
from attnorm.files import write_json_atomic
from attnorm.training.checkpoint import load_checkpoint
from attnorm.training.evaluation import evaluate
from attnorm.training.record import environment, git_state, versions
from benchmarks import pages, results_table
from benchmarks.record import RESULTS, ROOT

RECIPE = ROOT / "configs" / "quickstart" / "imagenette.yaml"
# What two CPU cores can train, with epochs; on a GPU, for example,
# --families resnet50,mobilenetv2_100,densenet121,aognet_12m --epochs 100 --seeds 0,1,2 --amp
FAMILIES = {"resnet18": 5, "mobilenetv2_100": 5, "densenet121": 5, "aognet_12m": 3}
PICTURES = 6
FORMAT = "attnorm-imagenette-path"


def attnorm(*arguments: object) -> None:
    """One command, as typed in a shell.

    Raises:
        CalledProcessError: It failed; its own line says why.
    """
    subprocess.run([sys.executable, "-m", "attnorm.cli", *map(str, arguments)], check=True)


def evaluated(checkpoint: Path, data: Path, image_size: int, result: Path) -> dict[str, Any]:
    """What `attnorm eval` says of a checkpoint on the evaluation part."""
    attnorm("eval", "--checkpoint", checkpoint, "--dataset", "folder", "--data-dir", data, "--image-size", image_size,
            "--channels-last", "--json", result)  # fmt: skip
    return json.loads(result.read_text(encoding="utf-8"))


def follow(run: Path, baseline: Path, data: Path, output: Path) -> dict[str, Any]:
    """A trained network through evaluation, prediction and both directions of `attnorm convert`.

    Args:
        run: Folder of a finished run.
        baseline: That of its BN twin.
        data: The data set.
        output: Where the files of the steps go.

    Raises:
        RuntimeError: A step gave another network than the one before.
    """
    record = json.loads((run / "record.json").read_text(encoding="utf-8"))
    trained = run / "last.safetensors"
    authors, back = output / "authors_keys.pth", output / "back.safetensors"
    # The authors' files say nothing of the images' size.
    image_size = record["data"]["image_size"]
    before = evaluated(trained, data, image_size, output / "eval.json")
    pictures = predicted(trained, data, output / "predictions")
    attnorm("convert", "--input", trained, "--to", "ivmcl-release", "--output", authors)
    attnorm("convert", "--input", authors, "--output", back)
    after = evaluated(back, data, image_size, output / "eval_back.json")
    steps = {
        "model": record["model"],
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "git": git_state(),
        "versions": versions(),
        "machine": environment(torch.device("cpu")),
        "train_images": record["data"]["train_images"],
        "epochs": record["config"]["epochs"],
        "baseline_top1": json.loads((baseline / "record.json").read_text(encoding="utf-8"))["top1"],
        "difference": differ(run, baseline, data),
        "trained_top1": record["top1"],
        "evaluated_top1": before["top1"],
        "converted_and_reloaded_top1": after["top1"],
        "converted_and_reloaded_loss_differs_by": abs(after["loss"] - before["loss"]),
        "predicted_pictures": pictures,
    }
    same = record["top1"] == before["top1"] == after["top1"]
    if not (same and math.isclose(before["loss"], after["loss"], rel_tol=1e-6)):
        raise RuntimeError(f"one network must have one accuracy and loss at every step; got {steps}")
    return steps


class Answers:
    """Which images a network gets right, for `attnorm.training.evaluation.evaluate`."""

    def __init__(self) -> None:
        self.right: list[Tensor] = []

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """One batch: logits (N, classes), labels (N,)."""
        self.right.append(logits.argmax(dim=1) == labels)

    def result(self) -> dict[str, float | int]:
        """How many."""
        return {"right": int(torch.cat(self.right).sum())}


def differ(run: Path, baseline: Path, data: Path) -> dict[str, Any]:
    """Two trained networks on the same images: the difference in accuracy with its interval over images."""
    answers = [_answers(folder / "last.safetensors", data) for folder in (run, baseline)]
    only = [int((answers[i] & ~answers[1 - i]).sum()) for i in (0, 1)]
    images = len(answers[0])
    return {
        "images": images,
        "only_an_right": only[0],
        "only_bn_right": only[1],
        "difference": 100 * (only[0] - only[1]) / images,
        "interval": image_interval(only[0], only[1], images),
    }


def _answers(checkpoint: Path, data: Path) -> Tensor:
    model, meta = load_checkpoint(checkpoint)
    settings = DataConfig(
        dataset="folder",
        data_dir=str(data),
        image_size=meta.image_size,
        crop_pct=meta.crop_pct,
        interpolation=meta.interpolation,
    )
    part = load_data(settings, ("val",)).val
    assert part is not None
    answers = Answers()
    loader = make_loader(part, batch_size=64, train=False)
    evaluate(model, loader, mean=meta.mean, std=meta.std, channels_last=True, measure=answers)
    return torch.cat(answers.right)


def predicted(checkpoint: Path, data: Path, output: Path) -> dict[str, str]:
    """The best class that `attnorm predict` gives to the first pictures of as many classes, by true class."""
    best: dict[str, str] = {}
    for folder in sorted((data / "val").iterdir())[:PICTURES]:
        picture = min(folder.iterdir())
        attnorm("predict", "--checkpoint", checkpoint, "--input", picture, "--output", output / folder.name)
        found = json.loads((output / folder.name / "predictions.json").read_text(encoding="utf-8"))
        best[folder.name] = found["predictions"][0]["top"][0]["label"]
    return best


def compared(family: str, options: argparse.Namespace, flags: Sequence[str]) -> None:
    """Train and compare the two networks of a family, unless that has been done with these seeds."""
    output: Path = options.output / family
    done = output / "compare.json"
    if done.exists() and json.loads(done.read_text(encoding="utf-8"))["config"]["seeds"] == options.seeds:
        return
    attnorm("compare", "--config", RECIPE, "--data-dir", options.data_dir, "--models", f"{family},{family}_an",
            "--epochs", options.epochs or FAMILIES.get(family, 5), "--seeds", options.seeds, "--output", output,
            *flags)  # fmt: skip


def table(record: Mapping[str, Any]) -> str:
    """The record of the path as Markdown."""
    lines: list[list[str]] = []
    for step in record["steps"]:
        low, high = step["difference"]["interval"]
        lines.append(
            [
                step["model"],
                str(step["epochs"]),
                f"{step['baseline_top1']:.1f}",
                f"{step['trained_top1']:.1f}",
                f"{step['difference']['difference']:+.1f} [{low:+.1f}, {high:+.1f}]",
                f"{step['difference']['only_an_right']} / {step['difference']['only_bn_right']}",
                f"{step['evaluated_top1']:.1f}",
                f"{step['converted_and_reloaded_top1']:.1f}",
                f"{step['converted_and_reloaded_loss_differs_by']:.1g}",
            ]
        )
    headings = ["network", "epochs", "BN, %", "AN, %", "difference on the same images [95%]", "right by AN / BN alone"]
    headings += ["`eval`, %", "after `convert` and back, %", "its loss differs by"]
    return results_table.markdown_table(headings, lines)


def renew(record: Mapping[str, Any], root: Path = ROOT) -> None:
    """Write the record's table into the pages."""
    before = pages.read(root)
    after = {path: pages.fill(page, ("imagenette",), lambda *_: table(record)) for path, page in before.items()}
    pages.write_changed(root, before, after)


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(
        description="Train, evaluate, predict and convert BN and AN networks on photographs.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--renew", action="store_true", help="only write the table from the committed figures")
    parser.add_argument("--output", type=Path, default=Path("runs/imagenette"))
    parser.add_argument("--families", default=",".join(FAMILIES), help="networks with BatchNorm; AN's are these + _an")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--epochs", type=int, help="of every network; by default few, 3 for AOGNet and 5 for others")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the figures go")
    options, flags = parser.parse_known_args(arguments)
    if options.renew:
        renew(json.loads((options.results / "imagenette_path.json").read_text(encoding="utf-8")))
        return 0
    if options.data_dir is None:
        parser.error("--data-dir must name the folder that holds train/ and val/")
    path = options.results / "imagenette_path.json"
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"format": FORMAT, "steps": []}
    for family in options.families.split(","):
        output: Path = options.output / family
        compared(family, options, flags)
        result = json.loads((output / "compare.json").read_text(encoding="utf-8"))
        write_json_atomic(options.results / f"imagenette_{family}.json", results_table.without_paths(result))
        first = f"seed{options.seeds.split(',')[0]}"
        run, baseline = (output / "runs" / name / first for name in (f"{family}_an", family))
        step = follow(run, baseline, options.data_dir, output / "path")
        print(json.dumps(step, indent=2), flush=True)
        others = [other for other in record["steps"] if other["model"] != step["model"]]
        record["steps"] = sorted([*others, step], key=lambda other: other["model"])
        write_json_atomic(path, record)
    renew(record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
