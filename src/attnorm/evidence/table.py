"""The table of a comparison, as rows of text: the terminal, the report and the documentation show the same cells."""

from collections.abc import Mapping, Sequence
from typing import Any

from attnorm.evidence.summary import shown_metrics
from attnorm.training.metric import Metric


def headings(result: Mapping[str, Any]) -> list[str]:
    """The first line of the table."""
    judged, *others = shown_metrics(result)
    return [
        "network",
        f"{judged.label}, %",
        "difference, points [95%]",
        *(f"{metric.label}, %" for metric in others),
        "parameters",
        "MACs",
        "training, ms/image",
        "evaluation, ms/image",
    ]


def table_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """One row of cells per network of a compare.json, under `headings`."""
    return [_row(model, result["baseline"], shown_metrics(result)) for model in result["models"]]


def _row(model: Mapping[str, Any], baseline: str, metrics: Sequence[Metric]) -> list[str]:
    difference = model["difference"]
    values = [_mean(model[metric.name]) for metric in metrics]
    if model["failed"] and model["values"]:
        done = len(model["values"])
        values[0] += f" ({done} of {done + len(model['failed'])} seeds)"
    shift = "baseline" if model["name"] == baseline else "–"
    if difference is not None:
        interval = "[{:+.2f}, {:+.2f}]".format(*difference["interval"]) if difference["interval"] else "[no interval]"
        shift = f"{difference['mean']:+.2f} {interval}"
    return [
        model["name"],
        values[0],
        shift,
        *values[1:],
        in_units(model["parameters"]),
        in_units(model["macs"]),
        _milliseconds(model["train_ms_per_image"]),
        _milliseconds(model["eval_ms_per_image"]),
    ]


def _mean(sample: Mapping[str, Any] | None) -> str:
    if sample is None:
        return "no run finished"
    return f"{sample['mean']:.2f}" + ("" if sample["sd"] is None else f" ± {sample['sd']:.2f}")


def in_units(count: int) -> str:
    """A large count with three digits or more and its unit: 77_850 -> "77.9 k", 12_345_678 -> "12.3 M"."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        # From 999.5 on, rounding would print 1000 of the smaller unit.
        if count >= 0.9995 * size:
            scaled = count / size
            return f"{scaled:.{max(0, 3 - len(str(int(scaled + 0.05))))}f} {unit}"
    return str(count)


def _milliseconds(timing: Mapping[str, float]) -> str:
    half = (timing["high"] - timing["low"]) / 2
    return f"{timing['median']:.3g} ± {half / timing['median']:.0%}"
