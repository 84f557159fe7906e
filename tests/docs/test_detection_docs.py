"""docs/detection.md: its three commands do what it says, its examples run, its tables say what the code says."""

import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models._api import WeightsEnum
from torchvision.models.detection import maskrcnn_resnet50_fpn

from attnorm.cli import main
from attnorm.data import DataConfig, load_detection
from attnorm.data.coco_config import CocoConfig
from attnorm.data.coco_writer import write_coco
from attnorm.detection import create_detector
from attnorm.detection.config import DetectorConfig
from attnorm.detection.published import SOURCES, rows
from attnorm.layers import AttentiveBatchNorm2d, AttentiveGroupNorm
from attnorm.models import create_model
from attnorm.models.transfer import take_weights
from attnorm.options import parse_settings
from attnorm.training.config import TrainConfig
from tests.docs.blocks import ROOT, blocks, blocks_of
from tests.training.narrow_detectors import shrink
from tests.training.test_convert_detector import authors_file

PAGE = (ROOT / "docs" / "detection.md").read_text(encoding="utf-8")
PYTHON = [block.text for block in blocks("docs/detection.md") if block.language == "python"]
# In place of the networks, sizes and lengths of the page: seconds instead of hours.
TINY = (
    "--model mask_rcnn_test_resnet_fpn --no-pretrained --epochs 2 --workers 0 --progress none --detector.min-size 64 "
    "--detector.score-threshold 0 --detector.train-proposals 32 --detector.test-proposals 16"
)


def commands(text: str) -> list[list[str]]:
    """The commands in a part of a page, without the program's name."""
    found = [command for block in blocks_of(text) for command in block.commands]
    return [arguments for program, *arguments in found if program == "attnorm"]


def between(name: str) -> str:
    """What stands between a pair of markers."""
    found = re.search(rf"<!-- test {name}:begin -->\n(.*?)<!-- test {name}:end -->", PAGE, re.DOTALL)
    assert found, name
    return found[1].strip("\n")


def first_cells(table: str) -> dict[str, list[str]]:
    """The rows of a table by their first cell."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return {row[0]: row[1:] for row in rows}


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, where detectors are narrow and the generated set is small."""
    shrink(monkeypatch)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    return tmp_path


def run(name: str, command: list[str], *more: str) -> None:
    """Run a command of the page, which must succeed."""
    assert command[0] == name
    assert main([*command, *more]) == 0


def test_the_readme_has_the_same_three_commands():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.partition("## Detection\n")[2].partition("\n## ")[0]
    assert commands(section) == commands(PAGE)[:3]
    assert [command[0] for command in commands(section)] == ["train", "eval", "predict"]


def test_the_three_commands_with_nothing_downloaded(tiny: Path, capsys: pytest.CaptureFixture[str]):
    """What the page calls a line of an epoch is one, and eval repeats the run's numbers."""
    train, evaluate, predict = [command for command in commands(PAGE) if "runs/shapes" in " ".join(command)]
    run("train", train, *TINY.split(), "--image-size", "64", "--progress", "plain")
    said, *_ = capsys.readouterr().err.splitlines()[-1].split("  reading: ")  # which a busy machine adds
    shown = next(line for line in PAGE.splitlines() if line.startswith("    epoch "))
    assert template(shown) == template(said)

    run("eval", evaluate, "--image-size", "64", "--json", "numbers.json")
    record = json.loads(Path("runs/shapes/record.json").read_text())
    numbers = json.loads(Path("numbers.json").read_text())
    best = record["history"][record["best_epoch"] - 1]
    assert {name: numbers[name] for name in record["metrics"]} == {name: best[name] for name in record["metrics"]}

    exec(compile(PYTHON[0], "detection.md", "exec"), {})
    run("predict", predict, "--score-threshold", "0")
    found = json.loads(Path("runs/shapes/found/predictions.json").read_text())
    assert [Path(item["image"]).name for item in found["predictions"]] == [f"{n:012d}.png" for n in range(1, 6)]
    results = json.loads(Path("runs/shapes/found/results.json").read_text())
    assert len(results) == sum(item["objects"] for item in found["predictions"]) > 0


def template(line: str) -> list[str]:
    return re.sub(r"\d+(\.\d+)?", "#", line).split()


def written_by_the_page(_: pytest.FixtureRequest) -> Path:
    """The folder that the page's example writes."""
    exec(compile(PYTHON[0], "detection.md", "exec"), {})
    return Path("runs/shapes_files")


def photographs(request: pytest.FixtureRequest) -> Path:
    """A few photographs of facades of each part, with ten kinds of objects that overlap and lie in one another."""
    source, root = request.getfixturevalue("shared_data") / "facade512", Path("facades")
    for part in ("train", "val"):
        content = json.loads((source / "annotations" / f"instances_{part}.json").read_text())
        content["images"] = content["images"][:4]
        ids = [image["id"] for image in content["images"]]
        content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] in ids]
        (root / "annotations").mkdir(parents=True, exist_ok=True)
        (root / "annotations" / f"instances_{part}.json").write_text(json.dumps(content))
        (root / "images" / part).mkdir(parents=True)
        for image in content["images"]:
            shutil.copy(source / "images" / part / image["file_name"], root / "images" / part)
    return root


@pytest.mark.parametrize("folder", [written_by_the_page, photographs])
def test_the_three_commands_on_a_folder(
    folder: Callable[[pytest.FixtureRequest], Path], tiny: Path, request: pytest.FixtureRequest
):
    """The results file gives the numbers of the checkpoint."""
    root = folder(request)
    paths = {"DIR": str(root), "PHOTOS": str(root / "images" / "val")}
    train, evaluate, predict = [[paths.get(word, word) for word in command] for command in commands(PAGE)[:3]]
    run("train", train, *TINY.split())
    assert {path.name for path in Path("runs/mine").iterdir()} >= {
        "last.safetensors", "best.safetensors", "metrics.csv", "config.yaml", "record.json"
    }  # fmt: skip
    run("eval", evaluate, "--save-predictions", "results.json", "--json", "numbers.json")
    truth = str(root / "annotations" / "instances_val.json")
    again = ["eval", "--annotations", truth, "--predictions", "results.json", "--iou-type", "segm", "--json", "a.json"]
    assert main(again) == 0
    numbers, masks = json.loads(Path("numbers.json").read_text()), json.loads(Path("a.json").read_text())
    assert numbers["mask_AP"] == pytest.approx(masks["AP"], abs=1e-9)
    run("predict", predict)
    first = sorted((root / "images" / "val").iterdir())[0]
    assert Path(f"runs/mine/found/{first.name}.objects.png").is_file()


def test_python_examples_run_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With narrow heads, but for torchvision's weights; those and the authors' file are of random numbers."""
    monkeypatch.chdir(tmp_path)
    training, small, torchvisions, authors = PYTHON[1:]
    scope: dict[str, Any] = {}
    with monkeypatch.context() as patch:
        shrink(patch)
        patch.setitem(DetectorConfig.__init__.__kwdefaults__, "fpn_channels", 32)  # GroupNorm has 32 groups
        exec(compile(training, "detection.md", "exec"), scope)
        assert all(bool(loss.isfinite()) for loss in scope["losses"].values())
        assert set(scope["found"]) == {"boxes", "labels", "scores", "masks"}
        layers = [m for m in scope["detector"].modules() if isinstance(m, (AttentiveBatchNorm2d, AttentiveGroupNorm))]
        assert {type(layer) for layer in layers} == {AttentiveBatchNorm2d, AttentiveGroupNorm}
        assert all(layer.weight.grad is not None for layer in layers)

        exec(compile(small, "detection.md", "exec"), scope)
        assert len(scope["entries"]) == len(scope["found"]["boxes"]) > 0
        assert scope["entries"][0]["segmentation"]["size"] == [160, 200]

        released = authors_file(tmp_path / "mask_rcnn_r50_an_conv_head_fpn_2x.pth", 81)
        exec(compile(authors, "detection.md", "exec"), scope)
        assert (scope["detector"].name, scope["detector"].config.conventions) == (released.name, "v1")

    theirs = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict()
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda self, *args, **kwargs: theirs)
    exec(compile(torchvisions, "detection.md", "exec"), scope)
    ours, key = scope["detector"].state_dict(), "backbone.fpn.layer_blocks.2.0.weight"
    assert torch.equal(ours[key], theirs[key])
    assert ours["roi_heads.stages.0.predictor.cls_score.weight"].shape == (11, 1024)
    assert (tmp_path / "mask_rcnn_coco.safetensors").is_file()


def test_the_table_of_settings():
    table = first_cells(between("settings"))
    assert list(table) == [item.name for item in fields(DetectorConfig)]
    for item in fields(DetectorConfig):
        if item.default is not None:  # else it depends on others, and the table says on which
            assert table[item.name][0] == str(item.default).strip("()"), item.name


def test_the_table_of_options():
    table = first_cells(between("options"))
    assert list(table) == [f"coco.{item.name}" for item in fields(CocoConfig)]
    for item in fields(CocoConfig):
        default = "found" if item.default is None else str(item.default).lower()
        assert table[f"coco.{item.name}"][0] == default, item.name


def test_the_message_about_bad_annotations(tiny: Path, capsys: pytest.CaptureFixture[str]):
    data = load_detection(DataConfig(dataset="shapes", image_size=64))
    assert data.train is not None
    assert data.val is not None
    write_coco(data.train, tiny, "train")
    write_coco(data.val, tiny, "val")
    path = tiny / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    content["images"][1]["file_name"] = "../../secret.png"
    content["images"][2]["file_name"] = "lost.png"
    for index, entry in ((0, {"bbox": [3, 3, 0, 5]}), (1, {"bbox": [900, 3, 5, 5]}), (2, {"category_id": 77}),
                         (3, {"bbox": [1, 1, math.nan, 3]})):  # fmt: skip
        content["annotations"][index] |= entry
    path.write_text(json.dumps(content))
    arguments = ["--model", "mask_rcnn_test_resnet_fpn", "--dataset", "coco", "--data-dir", str(tiny), "--output", "x"]
    assert main(["train", *arguments]) == 1
    said = capsys.readouterr().err.replace(str(tiny), "DIR")
    assert between("message").split() == said.split()


def test_the_report_of_weights():
    with torch.device("meta"):
        detector, network = create_detector("mask_rcnn_resnet18_an_fpn", 11), create_model("resnet18_an")
    report = take_weights(detector, network.state_dict(), name="resnet18_an.safetensors")
    assert between("report").split() == str(report).split()


def test_the_published_rows():
    assert between("published") == published_table()


def published_table() -> str:
    """The recipes of configs/coco with the numbers in published.json; of others with those in the recipe's header."""
    headers = {
        path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "configs" / "coco").glob("*.yaml"))
    }
    flags = ["--data-dir", "x", "--output", "y", "--config"]
    recipes = {
        name: parse_settings(
            TrainConfig, [*flags, str(ROOT / "configs" / "coco" / f"{name}.yaml")], command="train", recipe=True
        )
        for name in headers
    }
    lines: dict[str, list[object]] = {}
    for row in rows():
        (name,) = [
            name for name, config in recipes.items()
            if config.model == row.model and name.startswith("refactored_") == (row.release == "ivmcl-release")
            and all(getattr(config.detector, key) == value for key, value in row.settings.items())
        ]  # fmt: skip
        assert name not in lines
        lines[name] = [row.box_AP, row.mask_AP, row.params_m or "", f"[{1 + list(SOURCES).index(row.release)}]"]
    for name in sorted(recipes.keys() - lines.keys()):
        text = " ".join(line.lstrip("# ") for line in headers[name].splitlines())
        assert "third party" in text
        numbers = re.search(r"box AP ([\d.]+), mask AP ([\d.]+) .*?; ([\d.]+) M parameters", text)
        assert numbers
        lines[name] = [*numbers.groups(), "[3]"]
    table = [
        "| recipe | norms | box AP | mask AP | parameters, M | source |",
        "| --- | --- | ---: | ---: | ---: | --- |",
    ]
    for name in sorted(lines, key=lambda name: (name.startswith("refactored"), name.startswith("cascade"))):
        detector = recipes[name].detector
        norms = ", ".join((detector.fpn_norm, detector.box_norm, detector.mask_norm)).replace(
            "none, none, none", "none"
        )
        cells = [f"[{name}](../configs/coco/{name}.yaml)", norms, *lines[name]]
        table.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(table)


def test_links_lead_somewhere():
    titles = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in re.findall(r"^#+ (.*)", PAGE, re.M)}
    for file, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", PAGE):
        target = ROOT / "docs" / file
        assert target.exists(), file
        assert not (anchor and not file) or anchor in titles, anchor
