"""Does Attentive Normalization transfer better? Train on one data set, fine-tune on the same and on another.

    python -m benchmarks.transfer --cifar10-dir DIR --fashion-mnist-dir DIR [--output runs/transfer] [--seeds 0,1,2]
        [--source cifar10] [--lanes 1] [--steps data,sources,scratch,fine_tune,result]
    python -m benchmarks.transfer --renew        # only the tables and pictures, from benchmarks/results/transfer_*.json

Per seed, all through the command line as a user would: a network with BN and its twin with AN are trained on the
source; `attnorm swap` makes AN of the trained BN network; all three are fine-tuned on each target, equally long and by
the same recipe; BN and AN are also trained from scratch on it for as many steps. What comes out per target:

| arm | starts from | ends as |
|---|---|---|
| bn | BN trained on the source | BN |
| swapped | the same network after `attnorm swap` | AN |
| an | AN trained on the source | AN |
| bn_scratch, an_scratch | nothing | BN, AN |

Both data sets are cut to the same number of images, all classes alike, and made 32x32 with three channels, so that one
network fits both: Fashion-MNIST gets a black margin of two pixels and its grey three times. A run that is done is not
repeated, and steps can be made one after the other; `result` takes the seeds that are complete.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from attnorm.data import DataConfig, load_data
from attnorm.data.arrays import ArrayDataset
from attnorm.data.builtin import stratified_split
from attnorm.files import write_json_atomic
from attnorm.training.record import git_state
from benchmarks.record import RESULTS
from benchmarks.transfer_pages import FORMAT, SCRATCH, renew

SETS = ("cifar10", "fashion_mnist")
SIZE = 32
CUT_SEED = 0  # which images of a data set take part
STEPS = ("data", "sources", "scratch", "fine_tune", "result")


@dataclass(frozen=True, kw_only=True)
class Study:
    """What all seeds have in common; a folder holds runs of one study.

    Attributes:
        source: data set that the networks are trained on first.
        network: with BN; its twin with AN has the suffix _an.
        train_images, test_images: of each data set.
        source_epochs, target_epochs: on the source, and on each target.
        lr, fine_tune_lr: peak learning rates, from scratch and from trained weights.
    """

    source: str = "cifar10"
    network: str = "resnet8_cifar"
    train_images: int = 10_000
    test_images: int = 10_000
    source_epochs: int = 6
    target_epochs: int = 2
    lr: float = 0.1
    fine_tune_lr: float = 0.02
    batch_size: int = 64
    weight_decay: float = 5e-4


@dataclass(frozen=True, kw_only=True)
class Run:
    """One `attnorm train`.

    Attributes:
        model: its name, with options.
        data: folder of the data.
        epochs, lr: of the recipe.
        output: folder of the run.
        initial: checkpoint to start from.
    """

    model: str
    data: Path
    epochs: int
    lr: float
    output: Path
    initial: Path | None = None


def attnorm(*arguments: object) -> None:
    """One command, as typed in a shell.

    Raises:
        CalledProcessError: It failed; its own line says why.
    """
    subprocess.run([sys.executable, "-m", "attnorm.cli", *map(str, arguments)], check=True)


def cut(name: str, folder: Path, study: Study, output: Path) -> None:
    """A data set as PNG files, one folder per class, in `output`; nothing where it is already."""
    if (output / "done").exists():
        return
    data = load_data(DataConfig(dataset=name, data_dir=str(folder)))
    for part, read, count in (("train", data.train, study.train_images), ("test", data.val, study.test_images)):
        assert isinstance(read, ArrayDataset)
        images, labels = as_pictures(read.images), read.labels
        chosen = range(len(labels)) if count >= len(labels) else stratified_split(labels.numpy(), count, CUT_SEED)[0]
        for label, own in enumerate(data.classes):
            (output / part / f"{label} {own.replace('/', ' or ')}").mkdir(parents=True, exist_ok=True)
        folders = sorted((output / part).iterdir())
        for index in map(int, chosen):
            Image.fromarray(images[index].permute(1, 2, 0).numpy()).save(
                folders[int(labels[index])] / f"{index:05}.png"
            )
    (output / "done").touch()


def as_pictures(images: Tensor) -> Tensor:
    """uint8 (N, 1 or 3, H, W) up to 32 pixels -> (N, 3, 32, 32): a black margin, grey three times."""
    margin = (SIZE - images.shape[-1]) // 2
    return torch.nn.functional.pad(images, (margin,) * 4).expand(-1, 3, -1, -1)


def trained(run: Run, study: Study, seed: int) -> Path:
    """Train, unless that has been done; the folder of the run."""
    if not (run.output / "record.json").exists():
        initial = () if run.initial is None else ("--initial-checkpoint", run.initial)
        attnorm("train", "--model", run.model, "--dataset", "folder", "--data-dir", run.data, "--val-split", "test",
                "--image-size", SIZE, "--crop-pct", 1, "--augment", "flip", "--epochs", run.epochs,
                "--batch-size", study.batch_size, "--lr", run.lr, "--weight-decay", study.weight_decay,
                "--channels-last", "--seed", seed, "--resume", "auto", "--progress", "plain",
                "--output", run.output, *initial)  # fmt: skip
    return run.output


def sources(study: Study, output: Path, seed: int) -> dict[str, Path]:
    """Both networks trained on the source: "bn" and "an" -> the folder of the run."""
    names = {"bn": study.network, "an": f"{study.network}_an"}
    runs = {
        norm: Run(model=name, data=output / "data" / study.source, epochs=study.source_epochs, lr=study.lr,
                  output=output / f"seed{seed}" / "source" / norm)
        for norm, name in names.items()
    }  # fmt: skip
    return {norm: trained(run, study, seed) for norm, run in runs.items()}


def scratch(study: Study, output: Path, seed: int) -> None:
    """Both networks trained on each target from random weights."""
    for target in SETS:
        for arm, name in zip(SCRATCH, (study.network, f"{study.network}_an"), strict=True):
            run = Run(model=name, data=output / "data" / target, epochs=study.target_epochs, lr=study.lr,
                      output=output / f"seed{seed}" / target / arm)  # fmt: skip
            trained(run, study, seed)


def fine_tune(study: Study, output: Path, seed: int) -> None:
    """The three networks that know the source, trained on each target."""
    known = {norm: folder / "last.safetensors" for norm, folder in sources(study, output, seed).items()}
    known["swapped"] = swapped(known["bn"], output / f"seed{seed}" / "source" / "swapped.safetensors")
    models = {"bn": study.network, "swapped": f"{study.network}:norm=an", "an": f"{study.network}_an"}
    for target in SETS:
        for arm, model in models.items():
            run = Run(model=model, data=output / "data" / target, epochs=study.target_epochs, lr=study.fine_tune_lr,
                      output=output / f"seed{seed}" / target / arm, initial=known[arm])  # fmt: skip
            trained(run, study, seed)


def swapped(checkpoint: Path, output: Path) -> Path:
    """The network with AN in place of BN, unless it is there."""
    if not output.exists():
        attnorm("swap", "--weights", checkpoint, "--output", output, "--json", output.with_suffix(".json"))
    return output


def _records(output: Path, seed: int) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every finished run of a seed: data set, arm, record. Data set "source" holds what was fine-tuned."""
    for path in sorted((output / f"seed{seed}").glob("*/*/record.json")):
        yield path.parts[-3], path.parts[-2], json.loads(path.read_text(encoding="utf-8"))


def result(study: Study, output: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """Top-1 in percent of the last epoch, of every run of the seeds that are complete.

    Returns:
        Beside `study` and what made it, `seeds` and `top1`: data set -> arm -> one number per seed. Data set "source"
        has the networks that were fine-tuned, measured on the source.

    Raises:
        SystemExit: No seed is complete.
    """
    wanted = {("source", arm) for arm in ("bn", "an")}
    wanted |= {(target, arm) for target in SETS for arm in ("bn", "swapped", "an", *SCRATCH)}
    found = {seed: {(part, arm): record for part, arm, record in _records(output, seed)} for seed in seeds}
    complete = [seed for seed in seeds if wanted <= found[seed].keys()]
    if not complete:
        missing = sorted(wanted - found[seeds[0]].keys())
        raise SystemExit(f"no seed is complete; seed {seeds[0]} lacks {missing[0]}, {len(missing)} runs in all")
    top1: dict[str, dict[str, list[float]]] = {}
    for part, arm in sorted(wanted):
        top1.setdefault(part, {})[arm] = [found[seed][part, arm]["top1"] for seed in complete]
    example = found[complete[0]]["source", "bn"]
    swaps = [json.loads((output / f"seed{s}" / "source" / "swapped.json").read_text("utf-8")) for s in complete]
    return {
        "format": FORMAT,
        "format_version": 1,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": "python -m benchmarks.transfer --cifar10-dir DIR --fashion-mnist-dir DIR "
        f"--source {study.source} --seeds {','.join(map(str, complete))}",
        "git": git_state(),
        "versions": example["versions"],
        "machine": example["environment"],
        "study": asdict(study),
        "seeds": complete,
        "parameters": {norm: found[complete[0]]["source", norm]["params"] for norm in ("bn", "an")},
        "swap_differs_by": max(swap["largest_difference"] for swap in swaps),
        "top1": top1,
    }


def check_study(study: Study, output: Path) -> None:
    """Runs of two studies must not be mixed in one folder."""
    path = output / "study.json"
    if path.exists() and json.loads(path.read_text(encoding="utf-8")) != asdict(study):
        raise SystemExit(f"{path} is of another study: name another --output, or give the same settings again")
    write_json_atomic(path, asdict(study))


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(
        description="Fine-tune BN and AN networks from BN, swapped and AN weights, on the same and on other data.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--renew", action="store_true", help="only write tables and pictures from committed figures")
    parser.add_argument("--cifar10-dir", type=Path, help="CIFAR-10 as `attnorm train --dataset cifar10` takes it")
    parser.add_argument("--fashion-mnist-dir", type=Path, help="likewise Fashion-MNIST")
    parser.add_argument("--output", type=Path, default=Path("runs/transfer"))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", default=",".join(STEPS), help="which, separated by commas")
    parser.add_argument("--lanes", type=int, default=1, help="seeds that are worked on at the same time")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the figures go")
    for name, default in asdict(Study()).items():
        choices = SETS if name == "source" else None
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default, choices=choices)
    options = parser.parse_args(arguments)
    if options.renew:
        renew(options.results)
        return 0
    study = Study(**{name: getattr(options, name) for name in asdict(Study())})
    steps, seeds = options.steps.split(","), [int(seed) for seed in options.seeds.split(",")]
    output = options.output / study.source
    if unknown := set(steps) - set(STEPS):
        parser.error(f"--steps must be of {', '.join(STEPS)}; got {unknown.pop()}")
    check_study(study, output)
    if "data" in steps:
        for name in SETS:
            folder: Path | None = getattr(options, f"{name}_dir")
            if folder is None:
                parser.error(f"--{name.replace('_', '-')}-dir must name the folder that holds the data")
            cut(name, folder, study, output / "data" / name)
    work = {"sources": sources, "scratch": scratch, "fine_tune": fine_tune}

    def all_steps(seed: int) -> None:
        for step in work:
            if step in steps:
                work[step](study, output, seed)

    with ThreadPoolExecutor(options.lanes) as pool:
        list(pool.map(all_steps, seeds))
    if "result" in steps:
        write_json_atomic(options.results / f"transfer_{study.source}.json", result(study, output, seeds))
        renew(options.results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
