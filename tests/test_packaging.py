"""What a user gets by installing: light imports, one version, one command, and no traces of a developer's machine."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import attnorm
import attnorm.layers

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src"
HEAVY = (
    "timm",
    "lightning",
    "torchvision",
    "matplotlib",
    "sklearn",
    "jsonargparse",
    "torchdata",
    "safetensors",
    "rich",
    "PIL",
)
DEVELOPERS_MACHINE = (
    ("a path of somebody's machine", r"(?<![\w.~-])/(?:root|home/\w+|Users/\w+|work)/\w"),
    ("a package registry's address", r"--(?:extra-)?index-url|--find-links|PIP_INDEX_URL|UV_INDEX|UV_DEFAULT_INDEX"),
)


def run_python(code: str) -> str:
    """Runs code in a fresh interpreter that sees this checkout's package; returns what it printed."""
    prelude = f"import sys; sys.path.insert(0, {str(SRC)!r})\n"
    done = subprocess.run([sys.executable, "-c", prelude + code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_layers_load_torch_and_nothing_heavy():
    """Each public name of theirs is touched, as names are loaded when they are used."""
    names = sorted(set(attnorm.__all__) & set(attnorm.layers.__all__))
    touch = f"import attnorm, sys; [getattr(attnorm, name) for name in {names}]\n"
    out = run_python(touch + "print(sorted({name.partition('.')[0] for name in sys.modules}))")
    loaded = set(re.findall(r"'([^']+)'", out))
    assert "torch" in loaded
    assert not loaded & set(HEAVY)


def test_layers_work_where_only_torch_can_be_imported():
    """With everything beside torch hidden, layers and conversion still run."""
    code = f"""
import importlib.abc
class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition('.')[0] in {HEAVY!r}:
            raise ModuleNotFoundError(f'hidden for this test: {{name}}')
sys.meta_path.insert(0, Hidden())
import torch, attnorm
net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU())
layer = attnorm.AttentiveBatchNorm2d(8)
y = layer(torch.randn(4, 8, 6, 6, requires_grad=True))
y.square().sum().backward()
attnorm.replace_norm(net, {{"1": 4}})
print(tuple(y.shape), layer.weight.grad is not None, type(net[1]).__name__)
"""
    assert run_python(code).strip() == "(4, 8, 6, 6) True AttentiveBatchNorm2d"


def test_version_has_one_source():
    """The version stands in attnorm/__init__.py; pyproject reads it there, CITATION.cff and CHANGELOG.md agree."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["hatch"]["version"]["path"] == "src/attnorm/__init__.py"
    cited = re.search(
        r"^version: (\S+)\ndate-released: (\S+)$", (ROOT / "CITATION.cff").read_text("utf-8"), re.MULTILINE
    )
    changed = re.search(r"^## \[(\d\S+)\] - (\S+)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert cited is not None
    assert changed is not None
    assert cited[1] == attnorm.__version__
    assert changed.groups() == cited.groups()


def test_console_script_leads_to_the_command_line():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    module, _, function = project["scripts"]["attnorm"].partition(":")
    assert run_python(f"import {module} as m; print(callable(m.{function}))").strip() == "True"


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "SECURITY.md"])
def test_files_that_are_named_exist(page: str):
    """From the root or, of documentation, as a link; `make` targets are looked for by tests/docs/test_readme.py."""
    text = (ROOT / page).read_text("utf-8")
    named = re.findall(r"(?<![\w./])((?:src|tests|docs|configs)/[\w./]*\w)", text)
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


def tracked_files() -> list[Path]:
    """The text files that git would publish."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: nothing to look through")
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [ROOT / name for name in names.split("\0") if name and name != "tests/test_packaging.py"]
    return [p for p in paths if p.is_file() and b"\0" not in p.read_bytes()[:4096]]


@pytest.mark.parametrize(("what", "pattern"), DEVELOPERS_MACHINE)
def test_nothing_of_a_developers_machine_is_published(what: str, pattern: str):
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked_files()
        for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), start=1)
        if re.search(pattern, line)
    ]
    assert not found, f"{what} in {found}"


def test_constraints_agree_with_the_bounds():
    """Every direct requirement of pyproject is pinned in constraints.txt, inside its bound."""
    packaging = pytest.importorskip("packaging.requirements")
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    data = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    extras = data["project"]["optional-dependencies"]
    wanted = data["project"]["dependencies"] + extras["models"] + extras["train"] + data["dependency-groups"]["dev"]
    for text in wanted:
        requirement = packaging.Requirement(text)
        if requirement.name != "attnorm":
            assert requirement.specifier.contains(pins[requirement.name]), text
