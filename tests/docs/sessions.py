"""Reads a page as one session: its blocks are run in order, in a folder that holds what the page speaks of."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image
from timm.models import _registry

from attnorm.cli import main
from attnorm.data import DataConfig, load_detection
from attnorm.data.coco_writer import write_coco
from attnorm.layers.attention import GATES
from attnorm.models import create_model
from attnorm.models.released import to_released
from tests.docs.blocks import ROOT, Block, blocks
from tests.training.narrow_detectors import shrink

# In place of the lengths and sizes of the pages: seconds instead of hours.
SHORT = "--epochs 1 --warmup-epochs 0 --workers 0 --progress none"
SMALL = f"{SHORT} --image-size 32 --batch-size 4"
DETECTOR = (
    f"{SHORT} --model mask_rcnn_test_resnet_fpn --detector.min-size 64 --detector.score-threshold 0 "
    "--detector.train-proposals 32 --detector.test-proposals 16"
)
COMPARED = "--models resnet8_cifar,resnet8_cifar_an --seeds 0,1"


@dataclass(frozen=True)
class Session:
    """How a page is run.

    Attributes:
        flags: What each command gets besides what the page says, by its name; commands that are not named are parsed
            and not run.
        long: Likewise, of commands that are left to `make test-all`.
        instead: What stands in for words of the page's Python that need a network.
    """

    flags: Mapping[str, str] = field(default_factory=dict)
    long: Mapping[str, str] = field(default_factory=dict)
    instead: Mapping[str, str] = field(default_factory=dict)


PYTHON_ONLY = Session()
SESSIONS = {
    "docs/export.md": Session({"export": ""}),
    "docs/hub.md": Session({"hub": "", "predict": ""}),
    "docs/index.md": Session({"train": SHORT, "eval": "", "inspect": ""}, long={"compare": f"{SHORT} {COMPARED}"}),
    "docs/inspect.md": Session({"train": SHORT, "inspect": ""}),
    "docs/watching.md": Session({"train": ""}),
    "docs/shipped_models.md": Session({"predict": ""}),
    "docs/swap.md": Session(instead={"pretrained=True": "pretrained=False"}),
    "docs/how_to/train_folder.md": Session(
        {"train": SMALL, "eval": "", "predict": ""}, long={"compare": f"{SMALL} {COMPARED}"}
    ),
    "docs/how_to/detect.md": Session({"train": DETECTOR, "eval": "", "predict": ""}),
    "docs/how_to/released_weights.md": Session({"convert": "", "predict": "", "train": SMALL}),
    "docs/how_to/extend.md": Session({"models": "", "train": "--warmup-epochs 0 --progress none"}),
}
# Why commands of other pages are parsed and not run.
ONLY_PARSED = {
    "README.md": "minutes to hours each; the sessions of the how-to pages run the same commands on tiny data",
    "docs/compare.md": "trainings of minutes to hours; tests/evidence run comparisons of seconds",
    "docs/demo.md": "serves until it is stopped; tests/evidence/test_demo.py talks to it",
    "docs/detection.md": "downloads; tests/docs/test_detection_docs.py runs those that need none",
    "docs/models.md": "the authors' weights and ImageNet; docs/how_to/released_weights.md runs on random weights",
    "docs/performance.md": "measurements of half an hour; tests/benchmarks run each in seconds",
    "docs/profile.md": "measurements of minutes; tests/evidence run them in seconds",
    "docs/results.md": "the trainings behind the tables, hours each",
    "docs/scale.md": "several GPUs and machines; tests/test_scale_docs.py runs the script with stand-ins",
    "docs/shipped_models.md": "Fashion-MNIST; tests/models use the weights without it",
    "docs/tutorials/read_the_mixture.md": "Fashion-MNIST; its Python runs on drawn clothes",
    "docs/swap.md": "weights to be downloaded; tests/training swap small networks",
}
# Pages whose Python is run by tests of their own, which look at what comes out.
ELSEWHERE = {
    "README.md": "tests/docs/test_readme.py",
    "docs/detection.md": "tests/docs/test_detection_docs.py",
    "docs/profile.md": "tests/docs/test_profile_docs.py",
    "docs/tutorials/an_in_ten_minutes.md": "tests/docs/test_tutorials.py",
    "docs/tutorials/read_the_mixture.md": "tests/docs/test_tutorials.py",
}


def read_through(page: str, folder: Path, patch: pytest.MonkeyPatch, *, long: bool = False) -> dict[str, Any]:
    """Run a page's blocks, from its first to its last, in `folder`; the names that its Python made."""
    session = SESSIONS.get(page, PYTHON_ONLY)
    flags = {**session.flags, **session.long} if long else session.flags
    furnish(folder, patch, released="model_best.pth.tar" in (ROOT / page).read_text("utf-8"))
    patch.chdir(folder)
    patch.syspath_prepend(folder)  # a page may write a module
    names: dict[str, Any] = {"__name__": "__main__"}
    # What a page adds to timm's networks and to the gates is gone afterwards.
    with mock.patch.dict(_registry._model_entrypoints), mock.patch.dict(GATES):
        for block in blocks(page):
            if block.excuse is None and block.language == "python":
                run_python(block, session.instead, names)
            elif block.excuse is None:
                for program, *arguments in block.commands:
                    if program == "attnorm" and arguments[0] in flags:
                        run_command(arguments, flags[arguments[0]].split())
    return names


def run_python(block: Block, instead: Mapping[str, str], names: dict[str, Any]) -> None:
    """Run a block in the page's names; one with a title is also the file that the reader writes."""
    text = block.text
    for words, others in instead.items():
        text = text.replace(words, others)
    if block.title is not None:
        Path(block.title).write_text(text)
    # With empty lines in front, a traceback names the page's own line.
    code = compile("\n" * (block.line - 1) + text, str(ROOT / block.page), "exec")
    with contextlib.redirect_stdout(io.StringIO()):
        exec(code, names)


def run_command(arguments: Sequence[str], more: Sequence[str]) -> None:
    """Run a command, which must succeed."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main([*arguments, *more])
    assert code == 0, f"attnorm {' '.join(arguments)}\n{said.getvalue()}"


def furnish(folder: Path, patch: pytest.MonkeyPatch, *, released: bool) -> None:
    """Lay out what pages speak of: the recipes, images of two classes, photographs, objects, an authors' file."""
    (folder / "configs").symlink_to(ROOT / "configs")
    for part, count in (("train", 8), ("val", 4)):
        for name in ("cat", "dog"):
            pictures(folder / "my_images" / part / name, count)
    pictures(folder / "photos", 2)
    (folder / "PICTURES").symlink_to("photos")
    shrink(patch)
    data = load_detection(DataConfig(dataset="shapes", image_size=64))
    assert data.train is not None
    assert data.val is not None
    write_coco(data.train, folder / "my_objects", "train")
    write_coco(data.val, folder / "my_objects", "val")
    if released:
        torch.manual_seed(0)
        state = to_released(create_model("resnet50_an"), "aognet-v2")
        content = {"epoch": 120, "arch": "resnet", "state_dict": {f"module.{key}": v for key, v in state.items()}}
        torch.save(content, folder / "model_best.pth.tar")


def pictures(folder: Path, count: int) -> None:
    """Random pictures of 40 by 48 pixels."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(len(str(folder)))
    for number in range(count):
        pixels = generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg")
