"""`attnorm compare`: every network with every seed by one recipe, then what that shows and what it cost.

A finished run leaves record.json and is not repeated; an unfinished one goes on from its own checkpoint. compare.json
and report.html are written at the end, complete or not at all; the same command after an interruption goes on.
"""

import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attnorm.data import load_data
from attnorm.errors import ConfigError, DivergedError, JobError
from attnorm.evidence.config import CompareConfig, check_compare
from attnorm.evidence.console import ComparisonProgress, print_result
from attnorm.evidence.cost import count_macs, count_parameters
from attnorm.evidence.plots import accuracies, learning_curves, save_png
from attnorm.evidence.report import render_report
from attnorm.evidence.summary import Cost, cautions, notes, summarise
from attnorm.evidence.timing import time_networks
from attnorm.files import write_json_atomic, write_text_atomic
from attnorm.models import create_model
from attnorm.training.config import TrainConfig, resolve, resume_differences
from attnorm.training.loop import fit
from attnorm.training.output import read_record
from attnorm.training.processes import Processes, choose_device

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
    check_compare(config)
    models, seeds = config.model_names(), config.seed_numbers()
    data = _describe_data(config)
    # Under torchrun every process trains; the first one writes and prints.
    is_first = Processes.from_environment().is_first
    costs = _measure(models, config, data)
    _check_settings(config, write=is_first)

    shown = config.progress if is_first else "none"
    start = time.monotonic()
    runs: list[dict[str, Any]] = []
    with ComparisonProgress(len(models) * len(seeds), config.epochs, shown) as progress:
        # Seed by seed, so that an interrupted comparison holds whole pairs.
        for seed in seeds:
            runs += [_run(config.run_config(name, seed), progress) for name in models]
    if all(run["record"] is None for run in runs):
        raise JobError(f"not one of {len(runs)} runs finished; the first: {runs[0]['why']}")

    entries = summarise(models, runs, costs, data["test_images"])
    result = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - start, 1),
        "command": command or own_command(),
        "config": asdict(config),
        "data": data,
        "baseline": models[0],
        "models": entries,
        "cautions": cautions(data, entries),
        "notes": notes(data, entries),
        "environment": _environment(runs),
        "runs": runs,
    }
    if is_first:
        files = write_result(result, Path(config.output))
        if config.progress != "none":
            print_result(result, files)
    return result


def _describe_data(config: CompareConfig) -> dict[str, Any]:
    """Reads the data once before any training, so that what is wrong with them is said at once."""
    data = load_data(config)
    assert data.train is not None  # both parts are asked for
    assert data.val is not None
    return {
        "name": data.name,
        "classes": len(data.classes),
        "in_chans": data.in_chans,
        "image_size": data.image_size,
        "train_images": len(data.train),
        "test_images": len(data.val),
    }


def _measure(models: Sequence[str], config: CompareConfig, data: dict[str, Any]) -> dict[str, Cost]:
    """Builds each network as a run would (an unknown name stops here), counts it and times it beside the others."""
    in_chans, classes = config.in_chans or data["in_chans"], config.num_classes or data["classes"]
    size = (in_chans, data["image_size"], data["image_size"])
    built = {name: create_model(name, num_classes=classes, in_chans=in_chans) for name in models}
    counts = {name: (count_parameters(model), count_macs(model, size)) for name, model in built.items()}
    times = time_networks(
        built,
        size,
        classes,
        batch_size=config.batch,
        device=choose_device(config.device, Processes.from_environment()),
        precision=config.precision,
        channels_last=config.channels_last,
    )
    return {
        name: {
            "parameters": counts[name][0],
            "macs": counts[name][1],
            "train_ms_per_image": asdict(times[name]["train"]),
            "eval_ms_per_image": asdict(times[name]["eval"]),
        }
        for name in models
    }


def _check_settings(config: CompareConfig, *, write: bool) -> None:
    """Writes the settings of a new comparison; refuses to mix runs of different recipes in one folder."""
    path = Path(config.output) / "settings.json"
    # Which network and which seed is no setting of the comparison: both may be added later.
    example = resolve(config.run_config("", 0))
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
        write_json_atomic(path, asdict(example))


def _run(config: TrainConfig, progress: ComparisonProgress) -> dict[str, Any]:
    """One run: its record if it is finished (`fit` with resume sees to that), else trained to its end."""
    progress.start_run(config.model, config.seed)
    trained = read_record(Path(config.output)) is None
    record, why = None, None
    try:
        record = fit(config, quiet=True, on_epoch=progress.epoch_done)
    except DivergedError as error:
        # A network that diverges under the shared recipe is a result, and the others can still be compared.
        why = str(error)
    outcome = f"top-1 {record.top1:.2f}%" if record else f"failed: {why}"
    progress.end_run(config.model, config.seed, outcome, trained=trained)
    return {
        "model": config.model,
        "seed": config.seed,
        "status": "done" if record else "failed",
        "why": why,
        "top1": record.top1 if record else None,
        "record": asdict(record) if record else None,
    }


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
