"""The whole ImageNet path on real photographs: train, evaluate, predict, convert to the authors' keys and back, reload.

    python -m benchmarks.imagenette --data-dir DIR [--output runs/imagenette] [--seeds 0] [--families resnet18,...]

For each family a network with BatchNorm and its twin with AN, from scratch, by configs/quickstart/imagenette.yaml; DIR
holds train/<wnid>/ and val/<wnid>/. Everything goes through the command line, as a user would do it. A run that is done
is not repeated. Writes benchmarks/results/imagenette_FAMILY.json for docs/results.md (the comparison) and
benchmarks/results/imagenette_path.json (what became of the trained AN network after each step).
"""

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from attnorm.files import write_json_atomic
from attnorm.training.record import environment, git_state, versions
from benchmarks import results_table
from benchmarks.record import RESULTS, ROOT

RECIPE = ROOT / "configs" / "quickstart" / "imagenette.yaml"
# What two CPU cores can train; on a GPU give --families resnet50,mobilenetv2_100,densenet121,aognet_12m.
FAMILIES = ("resnet18", "mobilenetv2_100", "densenet121", "aognet_12m")
PICTURES = 6


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


def follow(run: Path, data: Path, output: Path) -> dict[str, Any]:
    """A trained network through evaluation, prediction and both directions of `attnorm convert`.

    Args:
        run: Folder of a finished run.
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


def predicted(checkpoint: Path, data: Path, output: Path) -> dict[str, str]:
    """The best class that `attnorm predict` gives to the first pictures of as many classes, by true class."""
    best: dict[str, str] = {}
    for folder in sorted((data / "val").iterdir())[:PICTURES]:
        picture = min(folder.iterdir())
        attnorm("predict", "--checkpoint", checkpoint, "--input", picture, "--output", output / folder.name)
        found = json.loads((output / folder.name / "predictions.json").read_text(encoding="utf-8"))
        best[folder.name] = found["predictions"][0]["top"][0]["label"]
    return best


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(
        description="Train, evaluate, predict and convert BN and AN networks on photographs.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("runs/imagenette"))
    parser.add_argument("--families", default=",".join(FAMILIES), help="networks with BatchNorm; AN's are these + _an")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the figures go")
    options, flags = parser.parse_known_args(arguments)
    steps: list[dict[str, Any]] = []
    for family in options.families.split(","):
        output: Path = options.output / family
        attnorm("compare", "--config", RECIPE, "--data-dir", options.data_dir, "--models", f"{family},{family}_an",
                "--seeds", options.seeds, "--output", output, *flags)  # fmt: skip
        result = json.loads((output / "compare.json").read_text(encoding="utf-8"))
        write_json_atomic(options.results / f"imagenette_{family}.json", results_table.without_paths(result))
        first_seed = options.seeds.split(",")[0]
        steps.append(follow(output / "runs" / f"{family}_an" / f"seed{first_seed}", options.data_dir, output / "path"))
        print(json.dumps(steps[-1], indent=2), flush=True)
        described = {
            "format": "attnorm-imagenette-path",
            "command": f"python -m benchmarks.imagenette --families {options.families} --seeds {options.seeds}",
            "git": git_state(),
            "versions": versions(),
            "machine": environment(torch.device("cpu")),
            "steps": steps,
        }
        write_json_atomic(options.results / "imagenette_path.json", described)
    return 0


if __name__ == "__main__":
    sys.exit(main())
