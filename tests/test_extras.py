"""Each extra works by itself, and where a package is missing its extra is named.

A package is hidden from Python's own search for modules, so that it raises the error of one that is not installed.
tests/release/clean_environments.py does the same where packages are really absent.
"""

import ast
import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from attnorm.cli import COMMANDS
from attnorm.extras import EXTRAS

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
# Of no extra: torch and triton are there always; `datasets` is large and for one kind of data set alone, which says so.
OTHERS = {"torch", "triton", "datasets"}
BY_NAME = {"tensorboard", "wandb", "onnxscript"}  # imported by Lightning's loggers and by torch.onnx
HIDE = """
import os, sys
from importlib.machinery import PathFinder
class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = name.partition(".")[0] in os.environ["HIDDEN"].split()
        return None if hidden else super().find_spec(name, path, target)
sys.meta_path[:] = [Without if finder is PathFinder else finder for finder in sys.meta_path]
"""
SHIPPED = "resnet20_cifar_an.fashion_mnist"


def with_extra(extra: str | None, code: str) -> subprocess.CompletedProcess[str]:
    """Runs code where only torch can be imported and what the extra brings."""
    brought = closure(extra) if extra else set()
    hidden = [name for name in EXTRAS if canonicalize_name(distribution(name)) not in brought]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "HIDDEN": " ".join(hidden), "PYTHONPATH": str(SRC)}
    run = [sys.executable, "-c", HIDE + code]
    return subprocess.run(run, capture_output=True, text=True, timeout=300, check=False, env=settings)


INSTALLED = metadata.packages_distributions()


def distribution(name: str) -> str:
    """The distribution of a package that is imported by a name; the name itself where it is not installed here."""
    return INSTALLED.get(name, [name])[0]


@cache
def closure(extra: str) -> set[str]:
    """All distributions that an extra brings, by canonical name."""
    found: set[str] = set()
    waiting = [Requirement(text) for text in PROJECT["optional-dependencies"][extra]]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name == "attnorm":
            inner = [text for e in requirement.extras for text in PROJECT["optional-dependencies"][e]]
        elif name in found:
            continue
        else:
            found.add(name)
            inner = needed(name)
        waiting += [r for text in inner if not (r := Requirement(text)).marker or r.marker.evaluate({"extra": ""})]
    return found


def needed(name: str) -> list[str]:
    try:
        return metadata.requires(name) or []
    except metadata.PackageNotFoundError:  # an extra that is not installed here
        return []


def imported() -> set[str]:
    """The first names of everything that the package imports, anywhere in it, but of Python's own and itself."""
    names: set[str] = set()
    for path in SRC.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"attnorm"}


def test_every_package_that_is_imported_has_an_extra():
    assert imported() - OTHERS == set(EXTRAS) - BY_NAME


@pytest.mark.parametrize(("name", "extra"), EXTRAS.items())
def test_the_extra_that_is_named_brings_the_package(name: str, extra: str):
    """And no smaller one does."""
    wanted = canonicalize_name(distribution(name))
    assert wanted in closure(extra)
    smaller = [other for other in PROJECT["optional-dependencies"] if closure(other) < closure(extra)]
    assert [other for other in smaller if wanted in closure(other)] == []


def test_with_torch_alone_every_command_names_the_extra_to_install():
    code = f"from attnorm.cli import main\nfor name in {list(COMMANDS)}: print(name, main([name, '--help']))"
    done = with_extra(None, code)
    assert done.stdout.split("\n")[:-1] == [f"{name} 1" for name in COMMANDS], done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == len(COMMANDS)
    for name, line in zip(COMMANDS, lines, strict=True):
        assert re.fullmatch(
            rf"attnorm: error: attnorm {name} needs the package \w+, which is not installed: "
            r"pip install 'attnorm\[(train|export|demo)\]'",
            line,
        )


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("import attnorm; attnorm.load_released('x')", "load_released|attnorm.models"),
        ("import attnorm.models", "attnorm.models"),
        ("import attnorm.detection; attnorm.detection.create_detector", "attnorm.detection.create_detector"),
    ],
)
def test_with_torch_alone_python_names_the_extra_to_install(code: str, what: str):
    last = with_extra(None, code).stderr.splitlines()[-1]
    assert re.fullmatch(
        rf"attnorm\.errors\.MissingPackageError: ({what}) needs the package \w+, which is not installed: "
        r"pip install 'attnorm\[models\]'",
        last,
    )


def test_the_extra_models_is_enough_for_networks_weights_and_detectors():
    """What trains names the next extra."""
    code = f"""
import timm, torch, attnorm, attnorm.models, attnorm.training
from attnorm.detection import create_detector
from attnorm.errors import JobError
net = timm.create_model({SHIPPED!r}, pretrained=True).eval()
print(tuple(net(torch.zeros(1, 1, 28, 28)).shape))
detector = create_detector("mask_rcnn_resnet10_small_an_fpn", num_classes=2).eval()
print(sorted(detector([torch.zeros(3, 64, 64)])[0]))
for call in (lambda: attnorm.load_released("nowhere.pth"), lambda: attnorm.training.fit):
    try:
        call()
    except JobError as error:
        print(error)
"""
    done = with_extra("models", code)
    assert done.returncode == 0, done.stderr
    shape, keys, no_file, no_package = done.stdout.splitlines()
    assert shape == "(1, 10)"
    assert keys == "['boxes', 'labels', 'masks', 'scores']"
    assert "nowhere.pth" in no_file
    assert no_package.endswith("which is not installed: pip install 'attnorm[train]'")


def test_the_extra_train_is_enough_for_every_module_but_those_of_other_extras():
    """A module that has an extra of its own names it, or takes its packages when it is used."""
    code = """
import importlib, pkgutil, attnorm
for module in pkgutil.walk_packages(attnorm.__path__, "attnorm."):
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        print(module.name, error.name)
"""
    done = with_extra("train", code)
    assert done.returncode == 0, done.stderr
    brought_by_train = {name for name, extra in EXTRAS.items() if extra in ("models", "train")}
    missed = {line.split()[1] for line in done.stdout.splitlines()}
    assert not missed & (brought_by_train | {"None"})
    assert missed <= set(EXTRAS)
