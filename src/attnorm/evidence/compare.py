"""`attnorm compare`: every network with every seed by one recipe, then what that shows and what it cost.

compare.json and report.html are written at the end, complete or not at all; the same command after an interruption
goes on.
"""

import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attnorm.data import DetectionData, ImageData
from attnorm.detection.config import finds_masks
from attnorm.errors import ConfigError, JobError
from attnorm.evidence.ablation import describe_networks, expand, parse_ablation
from attnorm.evidence.compare_cost import measure
from attnorm.evidence.compare_runs import check_jobs, run_all
from attnorm.evidence.config import CompareConfig, check_compare
from attnorm.evidence.console import print_result
from attnorm.evidence.curves import learning_curves
from attnorm.evidence.notes import cautions, notes
from attnorm.evidence.plots import accuracies, save_png
from attnorm.evidence.report import render_report
from attnorm.evidence.summary import summarise
from attnorm.files import write_json_atomic, write_text_atomic
from attnorm.training.config import plain, recorded, resolve, resume_differences
from attnorm.training.metric import BOX_AP, MASK_AP, TOP1, Metric
from attnorm.training.processes import Processes
from attnorm.training.task import read_data

FORMAT = "attnorm-compare"
FORMAT_VERSION = 1


def compare(config: CompareConfig, *, command: str | None = None) -> dict[str, Any]:
    """Trains, measures and reports; see the module's docstring.

    Args:
        config: what to compare.
        command: the command line that asked for it, for the report; this process's own when not given.

    Returns:
        The content of compare.json.

    Raises:
        ConfigError: the settings contradict each other, or the output folder holds a comparison with others.
        JobError: the data cannot be read, or not one run finished.
    """
    asked = config
    check_compare(config)
    check_jobs(config)
    # Under torchrun every process trains; the first one writes and prints.
    is_first = Processes.from_environment().is_first
    if config.ablate is not None:
        networks = expand(config.model_names(), parse_ablation(config.ablate))
        config = replace(config, models=",".join(network.name for network in networks), ablate=None)
        if is_first and config.progress != "none":
            print("\n".join(describe_networks(networks, len(config.seed_numbers()))), file=sys.stderr, flush=True)
    models = config.model_names()
    # Once before any training, so that what is wrong with the data is said at once.
    read = read_data(config)
    data, metrics = _describe_data(read), _metrics(config)
    costs = measure(config, read)
    _check_settings(config, write=is_first)

    shown = config.progress if is_first else "none"
    start = time.monotonic()
    runs = run_all(config, metrics, shown)
    if all(run["record"] is None for run in runs):
        raise JobError(f"not one of {len(runs)} runs finished; the first: {runs[0]['why']}")

    entries = summarise(models, runs, costs.networks, data["test_images"], metrics)
    result = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - start, 1),
        "command": command or own_command(),
        "config": recorded(asked),
        "data": data,
        "metric": metrics[0].name,
        "baseline": models[0],
        "models": entries,
        "measured": costs.measured,
        "cautions": cautions(data, entries),
        "notes": notes(data, entries, metrics, costs.measured),
        "environment": _environment(runs),
        "runs": runs,
    }
    if is_first:
        files = write_result(result, Path(config.output))
        if config.progress != "none":
            print_result(result, files)
    return result


def _metrics(config: CompareConfig) -> tuple[Metric, ...]:
    """What the networks are judged by, which all of them must have, and what is listed beside it."""
    if not config.detects:
        return (TOP1,)
    return (MASK_AP, BOX_AP) if all(finds_masks(name) for name in config.networks) else (BOX_AP,)


def _describe_data(data: ImageData | DetectionData) -> dict[str, Any]:
    assert data.train is not None  # both parts are asked for
    assert data.val is not None
    classified = isinstance(data, ImageData)
    return {
        "name": data.name,
        "classes": len(data.classes if classified else data.categories),
        "in_chans": data.in_chans if classified else 3,
        "image_size": data.image_size if classified else None,
        "train_images": len(data.train),
        "test_images": len(data.val),
    }


def _check_settings(config: CompareConfig, *, write: bool) -> None:
    """Writes the settings of a new comparison; refuses to mix runs of different recipes in one folder."""
    path = Path(config.output) / "settings.json"
    # Which network and which seed is no setting of the comparison: both may be added later.
    lr, lr_base, lr_base_size = config.rates
    shared = replace(config, lr=lr, lr_base=lr_base, lr_base_size=lr_base_size, batch_size=config.batch)
    example = resolve(shared.run_config("", 0))
    if path.exists():
        try:
            recorded = json.loads(path.read_text(encoding="utf-8"))
            differences = resume_differences(recorded, example)
        except (ValueError, AttributeError):
            raise ConfigError(f"{path} must be the settings of a comparison, but is damaged; remove it") from None
        if differences:
            raise ConfigError(
                f"{config.output} holds a comparison made with other settings ({'; '.join(differences)}); "
                "name another output, or give the same settings again"
            )
    if write:
        write_json_atomic(path, plain(asdict(example)))


def _environment(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Versions, machine and commit of the runs; where they were not all the same, a list of those that occurred."""
    records = [run["record"] for run in runs if run["record"]]

    def common(read: Callable[[dict[str, Any]], Any]) -> Any:
        found: list[Any] = []
        for record in records:
            if read(record) not in found:
                found.append(read(record))
        return found[0] if len(found) == 1 else found

    return {
        "versions": common(lambda r: r["versions"]),
        "machine": common(lambda r: r["environment"]),
        "source": common(lambda r: r["git"]),
        "processes": common(lambda r: r["processes"]),
    }


def write_result(result: dict[str, Any], folder: Path) -> list[str]:
    """Writes the pictures, the report and, last, compare.json: where that is there, everything is.

    Returns:
        One line per file, "what: name", the report first.
    """
    save_png(accuracies(result), folder / "accuracy.png")
    save_png(learning_curves(result), folder / "curves.png")
    write_text_atomic(folder / "report.html", render_report(result))
    write_json_atomic(folder / "compare.json", result)
    files = {"report": "report.html", "pictures": "accuracy.png and curves.png", "all numbers": "compare.json"}
    return [f"{what + ':':<13}{folder}/{name}" for what, name in files.items()]


def own_command() -> str:
    """The command line of this process, as one would type it."""
    return shlex.join(["attnorm", *sys.argv[1:]])
