"""`attnorm compare`: every network with every seed by one recipe, then what that shows and what it cost.

A finished run leaves record.json and is not repeated; an unfinished one goes on from its own checkpoint. compare.json
and report.html are written at the end, complete or not at all; the same command after an interruption goes on.
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

from torch import nn

from attnorm.data import DetectionData, ImageData, make_loader
from attnorm.detection.config import finds_masks
from attnorm.errors import ConfigError, DataError, DivergedError, JobError
from attnorm.evidence.config import CompareConfig, check_compare
from attnorm.evidence.console import ComparisonProgress, print_result
from attnorm.evidence.cost import count_detector_macs, count_macs, count_parameters
from attnorm.evidence.plots import accuracies, learning_curves, save_png
from attnorm.evidence.report import render_report
from attnorm.evidence.summary import Cost, cautions, notes, summarise
from attnorm.evidence.timing import Batch, ClassifiedImages, ImagesWithObjects, time_networks
from attnorm.files import write_json_atomic, write_text_atomic
from attnorm.training.config import TrainConfig, plain, recorded, resolve, resume_differences
from attnorm.training.loop import fit
from attnorm.training.metric import BOX_AP, MASK_AP, TOP1, Metric
from attnorm.training.output import read_record
from attnorm.training.processes import Processes, choose_device
from attnorm.training.task import make_task, read_data

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
    # Once before any training, so that what is wrong with the data is said at once.
    read = read_data(config)
    data, metrics = _describe_data(read), _metrics(config)
    # Under torchrun every process trains; the first one writes and prints.
    is_first = Processes.from_environment().is_first
    costs = _measure(config, read)
    _check_settings(config, write=is_first)

    shown = config.progress if is_first else "none"
    start = time.monotonic()
    runs: list[dict[str, Any]] = []
    with ComparisonProgress(len(models) * len(seeds), config.epochs, shown) as progress:
        # Seed by seed, so that an interrupted comparison holds whole pairs.
        for seed in seeds:
            runs += [_run(config.run_config(name, seed), metrics, progress) for name in models]
    if all(run["record"] is None for run in runs):
        raise JobError(f"not one of {len(runs)} runs finished; the first: {runs[0]['why']}")

    entries = summarise(models, runs, costs, data["test_images"], metrics)
    result = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - start, 1),
        "command": command or own_command(),
        "config": recorded(config),
        "data": data,
        "metric": metrics[0].name,
        "baseline": models[0],
        "models": entries,
        "cautions": cautions(data, entries),
        "notes": notes(data, entries, metrics),
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


def _measure(config: CompareConfig, data: ImageData | DetectionData) -> dict[str, Cost]:
    """Builds each network as a run would (an unknown name stops here), counts it and times it beside the others."""
    built: dict[str, nn.Module] = {}
    macs: dict[str, int] = {}
    for name in config.networks:
        run = resolve(config.run_config(name, config.seed_numbers()[0]))
        built[name] = make_task(run, data).network()
        if isinstance(data, ImageData):
            macs[name] = count_macs(built[name], (data.in_chans, data.image_size, data.image_size))
        else:
            assert data.val is not None
            all_found = replace(run, detector=replace(run.detector, score_threshold=0.0))
            macs[name] = count_detector_macs(make_task(all_found, data).network(), data.val[0][0])
    counts = {name: count_parameters(model) for name, model in built.items()}
    times = time_networks(
        built,
        _batch(config, data),
        device=choose_device(config.device, Processes.from_environment()),
        precision=config.precision,
        channels_last=config.channels_last,
    )
    return {
        name: {
            "parameters": counts[name],
            "macs": macs[name],
            "train_ms_per_image": asdict(times[name]["train"]),
            "eval_ms_per_image": asdict(times[name]["eval"]),
        }
        for name in config.networks
    }


def _batch(config: CompareConfig, data: ImageData | DetectionData) -> Batch:
    """What the networks are timed on: random images, or for detectors the first ones of the training part."""
    if isinstance(data, ImageData):
        size = (data.in_chans, data.image_size, data.image_size)
        return ClassifiedImages.random(config.batch, size, config.num_classes or len(data.classes))
    assert data.train is not None
    loader = make_loader(data.train, batch_size=min(config.batch, len(data.train)), train=True)
    return ImagesWithObjects(*next(iter(loader)))


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


def _run(config: TrainConfig, metrics: Sequence[Metric], progress: ComparisonProgress) -> dict[str, Any]:
    """One run: its record if it is finished (`fit` with resume sees to that), else trained to its end."""
    progress.start_run(config.model, config.seed)
    trained = read_record(Path(config.output)) is None
    record, why = None, None
    values: dict[str, float | None] = {metric.name: None for metric in metrics}
    try:
        record = fit(config, quiet=True, on_epoch=progress.epoch_done)
        values = {metric.name: metric.percent(record.metrics) for metric in metrics}
        if None in values.values():
            raise DataError("AP is not defined without objects in the evaluation part; compare on other data")
    except DivergedError as error:
        # A network that diverges under the shared recipe is a result, and the others can still be compared.
        why = str(error)
    judged = metrics[0]
    outcome = f"{judged.label} {values[judged.name]:.2f}%" if record else f"failed: {why}"
    progress.end_run(config.model, config.seed, outcome, trained=trained)
    return {
        "model": config.model,
        "seed": config.seed,
        "status": "done" if record else "failed",
        "why": why,
        **values,
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
