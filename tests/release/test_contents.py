"""What is in the wheel and in the source distribution: all that belongs there, and nothing else."""

import re
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from email import message_from_bytes
from pathlib import Path, PurePosixPath

import pytest

import attnorm
from attnorm.models import shipped
from tests.test_packaging import DEVELOPERS_MACHINE, ROOT

NAME = f"attnorm-{attnorm.__version__}"
WEIGHTS = "attnorm/models/weights"
# Beside Python: type information, the published numbers, the trained networks with their cards.
DATA = {
    "attnorm/py.typed",
    "attnorm/detection/published.json",
    "attnorm/models/published.json",
    f"{WEIGHTS}/README.md",
    *(f"{WEIGHTS}/{name}.json" for name in shipped.cards()),
    *(f"{WEIGHTS}/{card['file']}" for card in shipped.cards().values()),
}
METADATA = {
    f"{NAME}.dist-info/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")
}
SOURCES = {  # what stands at the root of the source distribution
    *("src", "tests", "benchmarks", "docs", "configs"),
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "CITATION.cff", "LICENSE"),
    *("pyproject.toml", "mkdocs.yml", "Makefile", "constraints.txt"),
    *("PKG-INFO", ".gitignore"),  # hatchling's own: the metadata, and what not to pack where it is built again
}
KINDS = {".py", ".typed", ".ipynb", ".json", ".safetensors", ".md", ".png", ".svg", ".css", ".yaml", ".sbatch"}
WHEEL_LIMIT, SDIST_LIMIT = 16_000_000, 20_000_000  # bytes; 13.7 and 16.6 million in 0.2.0, most of it weights


def build(target: str, source: Path, output: Path) -> Path:
    """Builds the "wheel" or the "sdist" of a source tree."""
    code = f"from hatchling.build import build_{target} as build; print(build({str(output)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return output / done.stdout.split()[-1]


@dataclass(frozen=True)
class Built:
    """The wheel, made from the source distribution as a release is, and that; with what is in them by name."""

    wheel: Path
    sdist: Path
    packed: dict[str, bytes]
    sources: dict[str, bytes]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Built:
    folder = tmp_path_factory.mktemp("built")
    sdist = build("sdist", ROOT, folder)
    with tarfile.open(sdist) as archive:
        files = [member for member in archive if member.isfile()]
        sources = {member.name.removeprefix(f"{NAME}/"): archive.extractfile(member).read() for member in files}  # pyright: ignore[reportOptionalMemberAccess]
        archive.extractall(folder, filter="data")
    wheel = build("wheel", folder / NAME, folder)
    with zipfile.ZipFile(wheel) as archive:
        packed = {name: archive.read(name) for name in archive.namelist()}
    return Built(wheel, sdist, packed, sources)


def test_the_wheel_has_the_package_and_nothing_else(built: Built):
    """Modules as they are in the source tree; every other file by name."""
    modules = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src").rglob("*.py")}
    assert set(built.packed) == modules | DATA | METADATA
    changed = [name for name in modules | DATA if built.packed[name] != (ROOT / "src" / name).read_bytes()]
    assert changed == []


def test_the_source_distribution_has_what_it_is_built_tested_and_documented_from(built: Built):
    assert {PurePosixPath(name).parts[0] for name in built.sources} == SOURCES
    inside = [PurePosixPath(name) for name in built.sources if "/" in name]
    assert {path.suffix for path in inside} <= KINDS
    assert [path for path in inside if any(part.startswith((".", "__pycache__")) for part in path.parts)] == []
    here = [path for folder in ("src", "tests", "docs") for path in (ROOT / folder).rglob("*") if path.suffix in KINDS]
    assert {str(path.relative_to(ROOT)) for path in here} <= set(built.sources)


def test_both_are_small_enough_to_download(built: Built):
    assert built.wheel.stat().st_size < WHEEL_LIMIT
    assert built.sdist.stat().st_size < SDIST_LIMIT


def test_licences_go_with_what_they_are_for(built: Built):
    """The code's text; and of trained networks, the weights' licence, the data's and where the data are from."""
    assert built.packed[f"{NAME}.dist-info/licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()
    metadata = message_from_bytes(built.packed[f"{NAME}.dist-info/METADATA"])
    assert metadata["License-Expression"] == "Apache-2.0"
    for card in shipped.cards().values():
        # Weights under another licence would have to be named in the expression above.
        assert card["licence"] == metadata["License-Expression"]
        assert card["data"]["licence"]
        assert card["data"]["source"].startswith("https://")


@pytest.mark.parametrize(("what", "pattern"), DEVELOPERS_MACHINE)
def test_nothing_of_a_developers_machine_is_packed(built: Built, what: str, pattern: str):
    """In headers of weights too: looked for in the bytes."""
    searched = re.compile(pattern.encode())
    files = built.packed | built.sources
    found = [name for name, data in files.items() if name != "tests/test_packaging.py" and searched.search(data)]
    assert not found, f"{what} in {found}"
