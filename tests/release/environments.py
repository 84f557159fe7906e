"""New virtual environments with the built package in them, and nothing of this checkout."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from uv import find_uv_bin

import attnorm

ROOT = Path(__file__).parents[2]
DIST = ROOT / "dist"
WHEEL = DIST / f"attnorm-{attnorm.__version__}-py3-none-any.whl"
SDIST = DIST / f"attnorm-{attnorm.__version__}.tar.gz"


@dataclass(frozen=True)
class Environment:
    """A virtual environment; commands run in a folder of its own, outside the repository.

    Attributes:
        folder: of the environment.
        work: where commands run.
    """

    folder: Path
    work: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def run(self, *command: str | Path, timeout_s: float = 600) -> subprocess.CompletedProcess[str]:
        """Runs a program of the environment, such as "python" or "attnorm"."""
        program, *arguments = (str(word) for word in command)
        known = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))}
        settings = {**known, "OMP_NUM_THREADS": "1", "VIRTUAL_ENV": str(self.folder)}
        return subprocess.run(
            [str(self.folder / "bin" / program), *arguments],
            cwd=self.work,
            env=settings,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def output(self, *command: str | Path, timeout_s: float = 600) -> str:
        """What a command prints that must succeed."""
        done = self.run(*command, timeout_s=timeout_s)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def files(self) -> set[Path]:
        """All files of the environment."""
        return {path for path in self.folder.rglob("*") if not path.is_dir()}


def make_environment(folder: Path, *requirements: str) -> Environment:
    """A new environment with some requirements, in the versions of constraints.txt."""
    environment = Environment(folder / "environment", folder / "work")
    environment.work.mkdir(parents=True)
    _uv("venv", "--seed", "--python", sys.executable, str(environment.folder))
    install(environment, *requirements)
    return environment


def install(environment: Environment, *requirements: str) -> None:
    """More requirements for an environment, in the versions of constraints.txt; none does nothing."""
    if requirements:
        _uv("pip", "install", "--python", str(environment.python), "-c", str(ROOT / "constraints.txt"), *requirements)


def _uv(*arguments: str) -> None:
    done = subprocess.run([find_uv_bin(), *arguments, "--quiet"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def wheel(extra: str | None = None) -> str:
    """The requirement for the built wheel with one of its extras."""
    return f"attnorm[{extra}] @ {WHEEL.as_uri()}" if extra else f"attnorm @ {WHEEL.as_uri()}"
