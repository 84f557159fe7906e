"""The JSON file of a benchmark: what was measured, with what, on what; complete after every part."""

import argparse
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from attnorm.files import write_json_atomic
from attnorm.training.record import environment, git_state, versions

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


class Record:
    """Rows that are on the disk as soon as they are added, so that an interrupted run keeps what it has measured.

    Args:
        path: The JSON file; a former one is overwritten when the first row comes.
        kind: "layer-cost", "step-cost", "network-cost" or "gpu-cost"; the file's format is "attnorm-" and this.
        device: Where it is measured.
        options: The script's settings, for the reader of the file.
        packages: What else it depends on, whose versions are to be known.
    """

    def __init__(
        self,
        path: str | Path,
        kind: str,
        device: torch.device | str,
        options: dict[str, Any],
        packages: Sequence[str] = (),
    ) -> None:
        self.path = Path(path)
        self.content: dict[str, Any] = {
            "format": f"attnorm-{kind}",
            "format_version": 1,
            "started": _now(),
            "finished": None,
            "command": _command(kind, options),
            "git": git_state(),
            "versions": versions() | {name: version(name) for name in packages},
            "machine": environment(torch.device(device)),
            "rows": [],
        }

    def add(self, row: dict[str, Any]) -> None:
        """Takes a row in and writes the file."""
        self.content["rows"].append({**row, "date": _now()})
        write_json_atomic(self.path, self.content)

    def finish(self) -> None:
        """Marks the file as that of a run that came to its end."""
        self.content["finished"] = _now()
        write_json_atomic(self.path, self.content)


def parser(description: str, name: str) -> argparse.ArgumentParser:
    """The arguments that all benchmarks share; `name` is that of the JSON file in benchmarks/results/."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    made.add_argument("--json", default=str(RESULTS / f"{name}.json"), help="where the figures go")
    return made


def options_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings without the name of the file, which tells of the machine's folders and not of the figures."""
    return {name: value for name, value in vars(arguments).items() if name != "json"}


def _command(kind: str, options: dict[str, Any]) -> str:
    script = {"gpu-cost": "gpu"}.get(kind, kind.replace("-", "_"))
    flags = "".join(f" --{name.replace('_', '-')} {value}" for name, value in options.items())
    return f"python -m benchmarks.{script}{flags}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
