"""`attnorm profile`: what networks cost on this machine, counted and measured side by side.

Counted: parameters and operations (:mod:`attnorm.evidence.operations`). Measured, in every case of batch size, dtype,
memory format, compiled or not, inference and training: time (:mod:`attnorm.evidence.interleaved`), memory
(:mod:`attnorm.evidence.memory`) and energy (:mod:`attnorm.evidence.meters`).
"""

import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from attnorm.errors import ConfigError, JobError, shown
from attnorm.evidence import operations
from attnorm.evidence.cost import count_parameters
from attnorm.evidence.interleaved import Interleaved
from attnorm.evidence.memory import held_bytes, peak_bytes, saved_bytes
from attnorm.evidence.meters import Meter, NoMeterError, meter_for
from attnorm.evidence.operations import count_in
from attnorm.evidence.profile_config import Case, ProfileConfig, cases, plain, read_accuracies
from attnorm.evidence.profile_energy import energy, idle_watts
from attnorm.evidence.profile_layers import layers
from attnorm.evidence.profile_networks import Images, Network, build
from attnorm.evidence.profile_steps import Worker
from attnorm.files import write_json_atomic
from attnorm.training.processes import Processes, check_precision, choose_device
from attnorm.training.record import environment, git_state, versions

FORMAT = "attnorm-profile"
FORMAT_VERSION = 1
Say = Callable[[str], None]


def profile_models(config: ProfileConfig, *, command: str | None = None, say: Say = lambda _: None) -> dict[str, Any]:
    """Counts and measures networks; writes nothing and prints nothing.

    Args:
        config: which networks, and what is measured.
        command: the command line that asked for it, for the record.
        say: is told what is being done, a line at a time.

    Returns:
        What `attnorm profile --json` writes: "models" with parameters and operations, "cases" with the measurements of
        each network, "energy" with the meter or why there is none, and everything that it depends on.

    Raises:
        ConfigError: something of this cannot be meant.
        JobError: a network cannot be built or run.
    """
    device = choose_device(config.device, Processes.from_environment())
    if "float16" in config.dtypes:
        check_precision("fp16", device)
    given = read_accuracies(config.accuracy, config.names)  # before what takes time
    start = time.monotonic()
    networks, images = build(config)
    accuracies = _accuracies(networks, given)
    described = [_describe(network, images, accuracies.get(network.name)) for network in networks]
    meter, power, why = _meter(config, device)
    measured: list[dict[str, Any]] = []
    todo = cases(config)
    for number, case in enumerate(todo, 1):
        say(f"[{number}/{len(todo)}] {case.mode}, {case.describe()}")
        measured.append(_measure(case, networks, images, config, device, meter, power))
    if all("failed" in row for case in measured for row in case["networks"].values()):
        first = next(iter(measured[0]["networks"].values()))
        raise JobError(f"not one network could be measured; the first: {first['failed']}")
    if config.per_layer:
        for network, row in zip(networks, described, strict=True):
            say(f"layers of {network.name}")
            row["layers"] = _layers(network, images, config, device)
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - start, 1),
        "command": command,
        "config": plain(config),
        "convention": (operations.__doc__ or "").strip(),
        "images": asdict(images),
        "baseline": networks[0].name,
        "models": described,
        "cases": measured,
        "energy": {
            "meter": None if meter is None else {"name": meter.name, "covers": meter.covers, "idle_watts": power},
            "why_not": why,
        },
        "environment": {"versions": versions(), "machine": environment(device), "source": git_state()},
    }


def profile(config: ProfileConfig, *, command: str | None = None) -> dict[str, Any]:
    """Measures, prints the tables and writes the files that were asked for; see `profile_models`."""
    from attnorm.evidence.profile_table import print_profile

    for name in ("json", "plot"):
        _check_writable(name, getattr(config, name))
    result = profile_models(config, command=command, say=lambda line: print(line, file=sys.stderr, flush=True))
    print_profile(result)
    if config.plot is not None:
        from attnorm.evidence.plots import save_png
        from attnorm.evidence.profile_plot import picture

        save_png(picture(result), Path(config.plot))
        print(f"picture:     {config.plot}")
    if config.json is not None:
        write_json_atomic(config.json, result)
        print(f"all numbers: {config.json}")
    return result


def _check_writable(field: str, path: str | None) -> None:
    """Before minutes of measuring rather than after them."""
    if path is None:
        return
    try:
        if Path(path).is_dir():
            raise IsADirectoryError(21, "it is a folder")
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=Path(path).parent):
            pass
    except OSError as error:
        raise ConfigError(f"{field} must be a file that can be written; got {path} ({error.strerror})") from None


def _accuracies(networks: Sequence[Network], given: Mapping[str, float]) -> dict[str, float]:
    """Those given, and those of checkpoints unless they are of different data sets: these do not compare."""
    own = {network.name: network.accuracy for network in networks if network.accuracy is not None}
    if len({network.dataset for network in networks if network.name in own and network.name not in given}) > 1:
        own = {}
    return {**own, **given}


def _describe(network: Network, images: Images, accuracy: float | None) -> dict[str, Any]:
    """What is counted, and known, of a network."""
    row: dict[str, Any] = {
        "name": network.name,
        "kind": network.kind,
        "num_classes": network.num_classes,
        "parameters": count_parameters(network.model),
        "accuracy": accuracy,
        "dataset": network.dataset,
        "macs": None,
        "operations": None,
        "not_counted": None,
    }
    try:
        counted = count_in(network.model, images.one())
    except JobError as error:
        return {**row, "not_counted": str(error)}
    found = {"elements": counted.elements, "elementwise": counted.elementwise, "paper": counted.paper}
    return {**row, "macs": counted.macs, "operations": found}


def _meter(config: ProfileConfig, device: torch.device) -> tuple[Meter | None, float | None, str | None]:
    """The meter with the power at rest, or why there is none."""
    if config.energy_seconds == 0:
        return None, None, "not asked for (energy_seconds 0)"
    try:
        meter = meter_for(device)
        return meter, float(f"{idle_watts(meter):.4g}"), None
    except NoMeterError as error:
        return None, None, f"no meter on this machine: {error}"


def _measure(
    case: Case,
    networks: Sequence[Network],
    images: Images,
    config: ProfileConfig,
    device: torch.device,
    meter: Meter | None,
    power: float | None,
) -> dict[str, Any]:
    """All networks in one case; one that cannot be run in it says why."""
    torch.compiler.reset()  # or the networks before count towards the compiler's limit of versions of one function
    workers, rows = _workers(case, networks, images, device)
    steps = {name: worker.step for name, worker in workers.items()}
    if steps:
        timed = Interleaved(steps, device)
        timed.run_within(config.rounds, config.seconds)
        for name in steps:
            rows[name] |= _times(timed, name, networks[0].name, case)
    if steps and meter is not None and power is not None:
        found = energy(meter, steps, case.batch_size, config.energy_seconds, power, device)
        rows = {name: {**row, "energy": found.get(name)} for name, row in rows.items()}
    return {**asdict(case), "networks": rows}


def _workers(
    case: Case, networks: Sequence[Network], images: Images, device: torch.device
) -> tuple[dict[str, Worker], dict[str, dict[str, Any]]]:
    """Those networks that can be run in a case, warm, and for each a row with its memory or why it cannot."""
    memory_format = torch.channels_last if case.channels_last else torch.contiguous_format
    workers: dict[str, Worker] = {}
    rows: dict[str, dict[str, Any]] = {}
    for network in networks:
        try:
            batch = images.batch(case.batch_size).to(device, memory_format)
            model: Any = network.model.to(device)
            worker = Worker(model.to(memory_format=memory_format), batch, case, device)
            worker.run()  # compiles, and makes the optimizer's state
            rows[network.name] = _memory(worker, device)
            workers[network.name] = worker
        except Exception as error:  # out of memory, one image for a batch norm, what a compiler cannot take, ...
            rows[network.name] = {"failed": shown(f"{type(error).__name__}: {_first_line(error)}", 300)}
            network.model.zero_grad(set_to_none=True)
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
    return workers, rows


def _memory(worker: Worker, device: torch.device) -> dict[str, Any]:
    held = held_bytes(worker.held())
    row: dict[str, Any] = {"peak_bytes": held + peak_bytes(worker.run, device), "held_bytes": held}
    if worker.case.mode == "training":
        with saved_bytes(worker.model) as count:
            worker.forward()
        row["saved_bytes"] = count.total
    return row


def _times(timed: Interleaved, name: str, first: str, case: Case) -> dict[str, Any]:
    calls = timed.calls[name]
    cuts = statistics.quantiles(calls, n=20, method="inclusive")
    milliseconds = {
        "median": statistics.median(calls),
        "p95": cuts[18],
        "low": cuts[4],
        "high": cuts[14],
    }
    return {
        "latency_ms": {key: _digits(1000 * value) for key, value in milliseconds.items()},
        "calls": len(calls),
        "rounds": len(timed.seconds(name)),
        "images_per_second": _digits(case.batch_size / milliseconds["median"]),
        "phases_ms": {
            phase: _digits(1000 * statistics.median(values)) for phase, values in timed.samples[name].items()
        },
        "ratio": timed.ratio(name, first).as_dict() if first in timed.steps else None,
    }


def _layers(network: Network, images: Images, config: ProfileConfig, device: torch.device) -> list[dict[str, Any]]:
    """In inference, on the first batch size, in float32, contiguous and eager."""
    size = config.batch_sizes[0]
    batch: Any = images.batch(size).to(device, torch.contiguous_format)
    one: Any = images.batch(1).to(device, torch.contiguous_format)
    model: Any = network.model.to(device)
    model = model.to(memory_format=torch.contiguous_format).eval()

    def infer() -> None:
        with torch.no_grad():
            model(batch.images)

    return [asdict(layer) for layer in layers(model, one.images, infer, size, device)]


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "")


def _digits(value: float) -> float:
    return float(f"{value:.4g}")
