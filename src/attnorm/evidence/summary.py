"""From the runs of a comparison to its table: one entry per network, and the notes that a reader needs with it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from attnorm.evidence.statistics import (
    FEWEST_IMAGES,
    conclusion,
    describe,
    paired_difference,
    smallest_tellable_difference,
    verdict,
    wilson_interval,
)
from attnorm.training.metric import BOX_AP, MASK_AP, METRICS, TOP1, Metric

Run = Mapping[str, Any]
# "parameters", "macs", and the times as `attnorm.evidence.timing.Timing` in a dictionary.
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
    return [_entry(name, models[0], baseline, runs, costs[name], test_images, metrics) for name in models]


def _entry(
    name: str,
    baseline_name: str,
    baseline: Mapping[int, float],
    runs: Sequence[Run],
    cost: Cost,
    images: int,
    metrics: Sequence[Metric],
) -> dict[str, Any]:
    own = [run for run in runs if run["model"] == name]
    values = _values(runs, name, metrics[0])
    counted = images if metrics[0] is TOP1 else None
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
        "conclusion": None,
        "verdict": None,
    }
    shared = [seed for seed in values if seed in baseline]
    if name != baseline_name and shared:
        ours, theirs = [values[seed] for seed in shared], [baseline[seed] for seed in shared]
        difference = paired_difference(ours, theirs)
        entry["paired_seeds"] = shared
        entry["differences"] = [a - b for a, b in zip(ours, theirs, strict=True)]
        entry["difference"] = asdict(difference)
        entry["conclusion"] = conclusion(difference, counted)
        entry["verdict"] = verdict(name, baseline_name, difference, counted)
    elif name != baseline_name:
        entry["verdict"] = f"{name} against {baseline_name}: no seed was finished by both, so nothing can be said."
    return entry


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


def notes(
    data: Mapping[str, Any], entries: Sequence[Mapping[str, Any]], metrics: Sequence[Metric] = (TOP1,)
) -> list[str]:
    """What a reader must know to read the table rightly, as plain sentences."""
    images = data["test_images"]
    what = "Accuracy" if metrics[0] is TOP1 else "AP"
    lines = [
        f"{what} is that of the last epoch: no epoch was picked by looking at the evaluation part.",
        "The interval of a difference is Student's t over seeds: mean(d) ± t(0.975, n−1) · sd(d) / √n, d being the "
        "differences of runs with the same seed. Intervals are 95% each, not jointly for several networks.",
    ]
    if metrics[0] is not TOP1:
        return [*lines, *_detection_notes(images)]
    means = [entry["top1"]["mean"] for entry in entries if entry["top1"]]
    if means:
        best = max(means)
        low, high = wilson_interval(best, images)
        lines.append(
            f"All runs were measured on the same {images:,} images, whose choice the intervals do not contain: a "
            f"single accuracy of {best:.2f}% on so many has a 95% interval of [{low:.2f}, {high:.2f}] (Wilson), and a "
            f"difference below {smallest_tellable_difference(images):.2f} points, {FEWEST_IMAGES} images, cannot be "
            "significant in one pair of runs (McNemar)."
        )
    return [
        *lines,
        "MACs: multiply-accumulates of convolutions and matrix products, for one image; normalisation, activation and "
        "other elementwise operations are not counted.",
        "Times are of one batch of random images, forward, loss and backward or forward alone, with the runs' batch "
        "size, precision and memory format: medians of rounds in which the networks take turns, with half the distance "
        "between their quartiles. Reading data and the optimizer are not in them.",
    ]


def _detection_notes(images: int) -> list[str]:
    return [
        "AP is COCO's, the mean over categories and over overlaps (intersection over union) from 0.5 to 0.95, in "
        f"percent. All runs were measured on the same {images:,} images, whose choice the intervals do not contain.",
        "MACs: multiply-accumulates of convolutions and matrix products for one image of the evaluation part with as "
        "many detections as are allowed; resizing, normalisation, activation and suppression are not counted.",
        "Times are of one batch of training images before any training, forward, losses and backward or detection "
        "alone, with the runs' batch size, precision and memory format: medians of rounds in which the networks take "
        "turns, with half the distance between their quartiles. Reading data and the optimizer are not in them.",
    ]


def cautions(data: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """What must stand beside the verdicts themselves, lest they be misread."""
    lines: list[str] = []
    if data["name"] == "digits":
        lines.append(
            "The handwritten digits are nearly solved by BatchNorm: this comparison shows that the machinery works, "
            "not which layer is better."
        )
    for entry in entries:
        for failure in entry["failed"]:
            lines.append(f"{entry['name']} with seed {failure['seed']} did not finish: {failure['why']}")
    return lines
