"""The trained networks that come with the package: their files, their cards and docs/shipped_models.md.

    python -m benchmarks.shipped add RUN_DIR --name NAME.TAG --data-dir DIR   # a finished `attnorm train` goes in
    python -m benchmarks.shipped render                                       # renew the page from the cards
    python -m benchmarks.shipped check                                        # exit 1 where the page is out of date

`add` copies last.safetensors as it is into src/attnorm/models/weights/, measures it once more through `attnorm eval`
(the number must be the run's own; of a classification network also on the first 1,000 images of the test part, which
the tests repeat) and writes the card beside it, with what RUN_DIR/record.json says.
"""

import argparse
import gzip
import hashlib
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attnorm.data.idx import read_idx
from attnorm.evidence.statistics import wilson_interval
from attnorm.files import replacing, write_json_atomic, write_text_atomic
from attnorm.hub.training_facts import PLACES
from attnorm.models.shipped import FOLDER, LIMIT
from attnorm.training.checkpoint import read_meta
from benchmarks.record import ROOT
from benchmarks.results_table import markdown_table

FORMAT = "attnorm-model-card"
SUBSET = 1000  # first images of the test part
PAGE = ROOT / "docs" / "shipped_models.md"
RECIPES = {"fashion_mnist": "configs/quickstart/fashion_mnist.yaml", "nuclei": "configs/quickstart/nuclei_small.yaml"}
DATA: dict[str, dict[str, str]] = {
    "fashion_mnist": {
        "name": "Fashion-MNIST",
        "licence": "MIT",
        "source": "https://github.com/zalandoresearch/fashion-mnist",
        "limits": "It knows ten kinds of clothes in grey pictures of 28×28 pixels, centred on black, and nothing else.",
    },
    "nuclei": {
        "name": "2018 Data Science Bowl (BBBC038), images of at most 360×360 pixels",
        "licence": "CC0 1.0",
        "source": "https://bbbc.broadinstitute.org/BBBC038",
        "limits": (
            "Training and evaluation images come from the same few experiments: on images of another microscope or "
            "stain expect less. No medical use."
        ),
    },
}
USE = (
    "To try commands, tests and fine-tuning without a download, and to compare AN with its BN twin. Not the best that "
    "such a network can reach."
)


def add(run: Path, name: str, data_dir: Path, folder: Path = FOLDER) -> dict[str, Any]:
    """Take a finished run into the package.

    Args:
        run: Folder of `attnorm train`.
        name: NETWORK.TAG; the tag says the data, see DATA.
        data_dir: The data that the run was evaluated on.
        folder: Where files and cards are.

    Returns:
        The card.

    Raises:
        SystemExit: The name is not the run's, the number is not that of the run, or the files become too large.
    """
    record = json.loads((run / "record.json").read_text(encoding="utf-8"))
    source, target = run / "last.safetensors", folder / f"{name}.safetensors"
    meta = read_meta(source)
    assert meta is not None
    model, tag = name.rsplit(".", 1)
    if (model, True) != (meta.model, tag in DATA):
        raise SystemExit(f"--name must be {meta.model}.TAG, with a tag of {', '.join(DATA)}; got {name}")
    others = sum(path.stat().st_size for path in folder.glob("*.safetensors") if path != target)
    if others + source.stat().st_size > LIMIT:
        raise SystemExit(f"all files together must be at most {LIMIT:,} bytes; they would be more with {source}")
    card = {
        "format": FORMAT,
        "format_version": 1,
        "name": name,
        "model": model,
        "tag": tag,
        "task": "classification" if meta.detector is None else "detection",
        "file": target.name,
        "size": source.stat().st_size,
        "sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        "parameters": record["params"],
        "licence": "Apache-2.0",
        "data": {**DATA[tag], "train_images": record["data"].get("train_images"), "dataset": meta.dataset},
        "input": {
            "in_chans": meta.in_chans,
            "image_size": meta.image_size,
            "mean": list(meta.mean),
            "std": list(meta.std),
            "crop_pct": meta.crop_pct,
            "interpolation": meta.interpolation,
            "classes": list(meta.classes),
        },
        "recipe": RECIPES[tag],
        "command": command(record["config"], RECIPES[tag]),
        "config": {key: value for key, value in record["config"].items() if key not in PLACES},
        "seed": record["seed"],
        "epochs": record["config"]["epochs"],
        "measured": measured(source, record, data_dir),
        "date": datetime.fromtimestamp((run / "record.json").stat().st_mtime, UTC).date().isoformat(),
        "git": record["git"],
        "versions": record["versions"],
        "machine": record["environment"],
        "intended_use": USE,
    }
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)
    write_json_atomic(target.with_suffix(".json"), card)
    return card


def command(config: Mapping[str, Any], recipe: str) -> str:
    """The command line that makes the same run: the recipe and what differs from it."""
    import yaml

    given = yaml.safe_load((ROOT / recipe).read_text(encoding="utf-8"))
    keys = ("epochs", "batch_size", "opt", "lr", "weight_decay", "channels_last", "warmup_epochs", "augment", "amp")
    words = ["attnorm", "train", "--config", recipe, "--data-dir", "DIR", "--model", config["model"]]
    for key in keys:
        default = {"weight_decay": 1e-4, "channels_last": False, "opt": "sgd", "augment": "default", "amp": False}
        if config[key] != given.get(key, default.get(key)) and config[key] is not None:
            flag = f"--{key.replace('_', '-')}"
            words += [flag] if config[key] is True else [flag, str(config[key])]
    return shlex.join([*words, "--seed", str(config["seed"]), "--output", "OUTPUT"])


def measured(checkpoint: Path, record: Mapping[str, Any], data_dir: Path) -> dict[str, Any]:
    """What `attnorm eval` says, in percent, compared with what the run says of itself."""
    with tempfile.TemporaryDirectory() as folder:
        whole = evaluated(checkpoint, data_dir, Path(folder))
        if "top1" not in whole:
            return _measured_detector(whole, record)
        if round(whole["top1"], 6) != round(record["top1"], 6):
            raise SystemExit(f"{checkpoint} reaches {whole['top1']} %, and its record says {record['top1']}")
        first_images(data_dir, SUBSET, Path(folder) / "part")
        part = evaluated(checkpoint, Path(folder) / "part", Path(folder))
    return {
        "metric": "top1",
        **{key: whole[key] for key in ("top1", "top5", "loss")},
        "images": whole["count"],
        "interval": list(wilson_interval(whole["top1"], whole["count"])),
        "subset": {"what": f"the first {SUBSET} test images", "images": part["count"], "top1": part["top1"]},
    }


def _measured_detector(found: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    names = ("box_AP", "box_AP50", "mask_AP", "mask_AP50")
    values = {name: 100 * found[name] for name in names}
    own = {name: 100 * record["metrics"][name] for name in names}
    # A detector's arithmetic is not the same on every machine to the last bit, and a box more or less can count.
    if any(abs(values[name] - own[name]) > 0.05 for name in names):
        raise SystemExit(f"`attnorm eval` gives {values}, and the record says {own}")
    return {"metric": "mask_AP", **values, "images": found["count"]}


def evaluated(checkpoint: Path, data_dir: Path, folder: Path) -> dict[str, Any]:
    """The JSON of `attnorm eval`."""
    path = folder / "eval.json"
    subprocess.run(
        [sys.executable, "-m", "attnorm.cli", "eval", "--checkpoint", str(checkpoint), "--data-dir", str(data_dir),
         "--json", str(path)],
        check=True,
    )  # fmt: skip
    return json.loads(path.read_text(encoding="utf-8"))


def first_images(data_dir: Path, count: int, output: Path) -> None:
    """Fashion-MNIST's test part cut to its first images, as idx files."""
    output.mkdir()
    for kind, ndim in (("images-idx3", 3), ("labels-idx1", 1)):
        name = f"t10k-{kind}-ubyte"
        path = next(path for path in (data_dir / name, data_dir / f"{name}.gz") if path.exists())
        values = read_idx(path, ndim)[:count]
        header = bytes([0, 0, 8, ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
        with gzip.open(output / f"{name}.gz", "wb") as file:
            file.write(header + values.tobytes())


def page(cards: Sequence[Mapping[str, Any]]) -> str:
    """docs/shipped_models.md."""
    rows = [
        [f"`{card['name']}`", card["data"]["name"], reached(card["measured"]), f"{card['parameters']:,}",
         f"{card['size'] / 1e6:.2f}"]
        for card in cards
    ]  # fmt: skip
    head = [
        "# Trained networks that come with the package",
        "<!-- Written by benchmarks/shipped.py from the cards in src/attnorm/models/weights/. -->",
        "Small networks, so that everything can be tried without a download, on data whose licence allows it. Their "
        "names serve wherever a checkpoint's path does:",
        "    attnorm eval    --checkpoint resnet20_cifar_an.fashion_mnist --data-dir DIR\n"
        "    attnorm predict --checkpoint resnet20_cifar_an.fashion_mnist --input PICTURES --output OUTPUT\n"
        "    attnorm train   --initial-checkpoint resnet20_cifar_an.fashion_mnist --model resnet20_cifar_an ...",
        "Networks that classify are pretrained weights to timm, offline:",
        "```python\nimport timm, attnorm.models\n\n"
        'model = timm.create_model("resnet20_cifar_an.fashion_mnist", pretrained=True)\n'
        'model = timm.create_model("resnet20_cifar_an", pretrained=True, num_classes=3, in_chans=3)  # to fine-tune\n'
        "```",
        markdown_table(["name", "data", "on the test part", "parameters", "MB"], rows).rstrip(),
        "Accuracies have Wilson's 95 % interval, which is about the choice of test images; AP has none, and "
        "its evaluation images are few. Numbers are of the last epoch. One run each, one seed: the "
        "table does not say which norm is better. [Results](results.md) has comparisons over seeds. Weights are under "
        "Apache-2.0, the data under the licences named below.",
    ]
    return "\n\n".join([*head, *(section(card) for card in cards)]) + "\n"


def section(card: Mapping[str, Any]) -> str:
    """One card as Markdown."""
    data, images, git = card["data"], card["input"], card["git"]
    changed = " with uncommitted changes" if git["dirty"] else ""
    versions = ", ".join(f"{key} {value}" for key, value in card["versions"].items())
    channels = {1: "grey", 3: "colour"}.get(images["in_chans"], f"{images['in_chans']} channels")
    size = f"{images['image_size']}×{images['image_size']} pixels" if card["task"] == "classification" else (
        f"shorter side {images['image_size']} pixels"
    )  # fmt: skip
    lines = {
        "Task": f"{card['task']}, {len(images['classes'])} class{'es' if len(images['classes']) > 1 else ''} "
        f"({', '.join(images['classes'])}); {channels} images, {size}",
        "Data": f"[{data['name']}]({data['source']}), {data['licence']}",
        "Reached": reached(card["measured"], long=True),
        "Recipe": f"[{card['recipe']}](../{card['recipe']}), {card['epochs']} epochs, seed {card['seed']}",
        "Intended use": card["intended_use"],
        "Limits": data["limits"],
        "Licence of the weights": card["licence"],
        "Made": f"{card['date']}, commit {(git['commit'] or 'unknown')[:12]}{changed}; {versions}",
        "File": f"{card['size']:,} bytes, sha256 `{card['sha256']}`",
    }
    rows = "\n".join(f"- **{name}**: {value}" for name, value in lines.items())
    return f"## {card['name']}\n\n    {card['command']}\n\n{rows}"


def reached(measured: Mapping[str, Any], *, long: bool = False) -> str:
    """The accuracy or AP in words."""
    if measured["metric"] != "top1":
        text = f"mask AP {measured['mask_AP']:.1f}, box AP {measured['box_AP']:.1f}"
        more = f", mask AP50 {measured['mask_AP50']:.1f}, box AP50 {measured['box_AP50']:.1f}"
        return text + (f"{more} on {measured['images']} images" if long else "")
    low, high = measured["interval"]
    text = f"{measured['top1']:.2f} % [{low:.2f}, {high:.2f}]"
    subset = measured["subset"]
    more = f" of {measured['images']:,} images, {subset['top1']:.1f} % of {subset['what']}"
    return text + (more if long else "")


def read_cards(folder: Path = FOLDER) -> list[dict[str, Any]]:
    """All cards, networks that classify first."""
    cards = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")]
    return sorted(cards, key=lambda card: (card["task"], card["name"]))


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Take trained networks into the package, with their cards.")
    commands = parser.add_subparsers(dest="command", required=True)
    adding = commands.add_parser("add", help="a finished run")
    adding.add_argument("run", type=Path)
    adding.add_argument("--name", required=True, help="NETWORK.TAG")
    adding.add_argument("--data-dir", type=Path, required=True)
    commands.add_parser("render", help="renew the page")
    commands.add_parser("check", help="exit 1 where the page is out of date")
    options = parser.parse_args(arguments)
    if options.command == "add":
        if not options.data_dir.is_dir():
            parser.error(f"--data-dir must name the folder that holds the data; got {options.data_dir}")
        add(options.run, options.name, options.data_dir)
    wanted = page(read_cards())
    if options.command == "check":
        current = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
        return int(wanted != current)
    write_text_atomic(PAGE, wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
