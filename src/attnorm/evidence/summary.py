"""From the runs of a comparison to what they show: one entry per network, and the verdicts in sentences."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from attnorm.evidence.statistics import (
    Difference,
    conclusion,
    describe,
    joint_interval,
    paired_difference,
    verdict,
)
from attnorm.training.metric import BOX_AP, MASK_AP, METRICS, TOP1, Metric

Run = Mapping[str, Any]
# "parameters"; "macs" and "elementwise" operations for one image; "train_ms_per_image" and "eval_ms_per_image", as
# `attnorm.evidence.timing.Timing` in a dictionary; and from 0.2 on "..._ratio" to the baseline's, "..._peak_bytes",
# "saved_bytes_per_image" and "..._energy".
Cost = Mapping[str, Any]


def shown_metrics(result: Mapping[str, Any]) -> tuple[Metric, ...]:
    """The numbers of a compare.json: the one that networks are judged by, then what detectors have beside it."""
    metric = METRICS[result.get("metric", TOP1.name)]  # version 0.1 knew classification alone
    return (metric, BOX_AP) if metric is MASK_AP else (metric,)


def summarise(
    models: Sequence[str],
    runs: Sequence[Run],
    costs: Mapping[str, Cost],
    test_images: int,
    metrics: Sequence[Metric] = (TOP1,),
) -> list[dict[str, Any]]:
    """One entry per network, in the order given; the first is the baseline.

    Args:
        models: names of the networks.
        runs: the runs, see `attnorm.evidence.compare.compare`, with each of the metrics in percent.
        costs: per network what it costs.
        test_images: number of images that every accuracy was measured on.
        metrics: the one that networks are judged by, and others that are listed.
    """
    baseline = _values(runs, models[0], metrics[0])
    entries = [_entry(name, models[0], baseline, runs, costs[name], metrics) for name in models]
    counted = test_images if metrics[0] is TOP1 else None
    return [_with_verdict(entry, models[0], counted, comparisons(entries)) for entry in entries]


def comparisons(entries: Sequence[Mapping[str, Any]]) -> int:
    """How many differences to the baseline have an interval."""
    return sum(bool(entry["difference"] and entry["difference"]["interval"]) for entry in entries)


def _entry(
    name: str,
    baseline_name: str,
    baseline: Mapping[int, float],
    runs: Sequence[Run],
    cost: Cost,
    metrics: Sequence[Metric],
) -> dict[str, Any]:
    own = [run for run in runs if run["model"] == name]
    values = _values(runs, name, metrics[0])
    entry: dict[str, Any] = {
        "name": name,
        **cost,
        "seeds": list(values),
        "values": list(values.values()),
        **{metric.name: _sample(_values(runs, name, metric)) for metric in metrics},
        "failed": [{"seed": run["seed"], "why": run["why"]} for run in own if run["status"] == "failed"],
        "paired_seeds": [],
        "differences": [],
        "difference": None,
    }
    shared = [seed for seed in values if seed in baseline]
    if name != baseline_name and shared:
        ours, theirs = [values[seed] for seed in shared], [baseline[seed] for seed in shared]
        entry["paired_seeds"] = shared
        entry["differences"] = [a - b for a, b in zip(ours, theirs, strict=True)]
        entry["difference"] = asdict(paired_difference(ours, theirs))
    return entry


def _with_verdict(entry: dict[str, Any], baseline: str, images: int | None, count: int) -> dict[str, Any]:
    """The entry with what its difference shows, by itself and as one of so many."""
    entry |= {"conclusion": None, "verdict": None, "joint": None}
    name = entry["name"]
    if entry["difference"] is not None:
        difference = Difference(**entry["difference"])
        entry["conclusion"] = conclusion(difference, images)
        entry["verdict"] = verdict(name, baseline, difference, images, count)
        joint = joint_interval(difference, count) if count > 1 else None
        if joint is not None:
            concluded = conclusion(replace(difference, interval=joint), images)
            entry["joint"] = {"comparisons": count, "interval": joint, "conclusion": concluded}
    elif name != baseline:
        entry["verdict"] = f"{name} against {baseline}: no seed was finished by both, so nothing can be said."
    return entry


def headline(result: Mapping[str, Any]) -> str | None:
    """The verdicts in a sentence, where there are several."""
    judged = [entry for entry in result["models"] if entry["difference"] is not None]
    if len(judged) < 2:
        return None

    def told(conclusions: Sequence[str | None]) -> str:
        ahead, behind = conclusions.count("ahead"), conclusions.count("behind")
        rest = len(conclusions) - ahead - behind
        return f"{ahead} ahead, {behind} behind, {rest} without a difference shown"

    start = f"{len(judged)} networks against {result['baseline']}, each by itself: "
    line = start + told([entry["conclusion"] for entry in judged])
    if any(entry.get("joint") for entry in judged):
        joint = [entry["joint"]["conclusion"] if entry["joint"] else None for entry in judged]
        line += f". Corrected for {comparisons(judged)} comparisons: {told(joint)}"
    return line + "."


def verdicts(result: Mapping[str, Any]) -> list[str]:
    """The verdict on each network that has one."""
    return [entry["verdict"] for entry in result["models"] if entry["verdict"]]


def sentences(result: Mapping[str, Any]) -> list[str]:
    """What the comparison shows, the shortest first, and what must stand beside it."""
    first = headline(result)
    return [*([first] if first else []), *verdicts(result), *result["cautions"]]


def history(run: Run) -> list[dict[str, Any]]:
    """The epochs of a run, see `attnorm.training.record.RunRecord`; none for a run that did not finish."""
    return run["record"]["history"] if run["record"] else []


def _values(runs: Sequence[Run], model: str, metric: Metric) -> dict[int, float]:
    return {run["seed"]: run[metric.name] for run in runs if run["model"] == model and run["status"] == "done"}


def _sample(values: Mapping[int, float]) -> dict[str, Any] | None:
    return asdict(describe(list(values.values()))) if values else None


def describe_data(data: Mapping[str, Any]) -> str:
    """The data of a comparison in words."""
    size = f" of {data['image_size']}×{data['image_size']} pixels" if data["image_size"] is not None else ""
    return f"{data['name']}, {data['train_images']:,} training and {data['test_images']:,} evaluation images{size}"
