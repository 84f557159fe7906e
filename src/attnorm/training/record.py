"""What a run leaves behind beside its weights: numbers per epoch, and enough to know what made them."""

import os
import platform
import subprocess
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from attnorm import __version__
from attnorm.files import write_json_atomic
from attnorm.training.metric import METRICS, TOP1

PACKAGES = ("torch", "torchvision", "timm", "lightning", "torchdata", "numpy")


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A finished run, measured on the evaluation part.

    Attributes:
        config: the resolved configuration, every field of TrainConfig.
        data: what the data set said: name, classes, mean, std, images to train and to evaluate, ...
        history: one entry per epoch: epoch (from 1), step, lr, train_loss, `metrics`, seconds (training only),
            val_seconds, images_per_second, data_wait_share (part of the training time for which it waited for data,
            in the first process). A detector has the parts of its training loss too.
        metrics: of the last epoch: val_loss, top1 and top5 (percent); of a detector COCO's numbers as COCO gives them,
            from 0 to 1, box_AP, box_AP50, ..., mask_AP, ...; None where one is not defined.
        metric: name of that by which the best epoch is told.
        best: the best epoch's (which flatters: the evaluation part was used to choose).
        top1: as in `metrics`, of classification; likewise top5, val_loss and, in `best`, best_top1.
        initial: what the network started with, where it was given weights: which ones were taken.
        params: trainable parameters.
        seconds_per_epoch: median over the epochs, training only.
        images_per_second: median over the epochs, training only.
    """

    model: str
    seed: int
    config: dict[str, Any]
    data: dict[str, Any]
    history: list[dict[str, Any]]
    metrics: dict[str, float | None]
    metric: str
    best: float | None
    best_epoch: int
    top1: float | None = None
    top5: float | None = None
    val_loss: float | None = None
    best_top1: float | None = None
    params: int
    seconds_per_epoch: float
    images_per_second: float
    processes: int
    initial: dict[str, Any] | None = None
    versions: dict[str, str] = field(default_factory=dict[str, str])
    git: dict[str, Any] = field(default_factory=dict[str, Any])
    environment: dict[str, Any] = field(default_factory=dict[str, Any])

    def save(self, path: str | Path) -> None:
        """Writes the record as JSON: complete or not at all."""
        write_json_atomic(path, asdict(self))

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "RunRecord":
        """The record that `save` wrote; keys of a later version are left out, those of an earlier one filled in."""
        names = {item.name for item in fields(cls)}
        if "metric" not in content:  # version 0.1 knew classification alone
            metrics = {name: content[name] for name in ("val_loss", "top1", "top5")}
            content = {**content, "metric": TOP1.name, "metrics": metrics, "best": content["best_top1"]}
        return cls(**{key: value for key, value in content.items() if key in names})

    def summary(self) -> str:
        """The run in a line, without where it lies."""
        metric = METRICS[self.metric]
        numbers = [
            f"{shown.label} {_number(shown.percent(self.metrics))}"
            for shown in METRICS.values()
            if shown.name in self.metrics
        ]
        best = _number(metric.percent({metric.name: self.best}))
        return (
            f"{self.model} on {self.data['name']}: {', '.join(numbers)}, best {best} (epoch {self.best_epoch}), "
            f"{self.params / 1e6:.2f} M parameters"
        )


def _number(percent: float | None) -> str:
    return "not defined" if percent is None else f"{percent:.2f}"


def versions() -> dict[str, str]:
    """Versions of Python, this package and the packages that a result may depend on."""
    found = {"python": platform.python_version(), "attnorm": __version__}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def git_state() -> dict[str, Any]:
    """Commit of the source tree that the package runs from, and whether tracked files differ from it."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        # An installed copy may lie inside somebody else's repository (a .venv in it): only a tracked file counts.
        git("ls-files", "--error-unmatch", str(Path(__file__).name))
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}


def environment(device: Any) -> dict[str, Any]:
    """The machine as far as it bears on results and times.

    Args:
        device: the torch device of the run.
    """
    import torch

    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "threads": torch.get_num_threads(),
    }


def _processor() -> str:
    """The processor's own name where the system tells it (Linux), else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
