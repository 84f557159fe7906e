"""The table of a comparison, as rows of text: the terminal, the report and the documentation show the same cells."""

from collections.abc import Mapping
from typing import Any

HEADINGS = (
    "network",
    "top-1, %",
    "difference, points [95%]",
    "parameters",
    "MACs",
    "training, ms/image",
    "evaluation, ms/image",
)


def table_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """One row of cells per network of a compare.json, under `HEADINGS`."""
    return [_row(model, result["baseline"]) for model in result["models"]]


def _row(model: Mapping[str, Any], baseline: str) -> list[str]:
    top1, difference = model["top1"], model["difference"]
    if top1 is None:
        accuracy = "no run finished"
    else:
        accuracy = f"{top1['mean']:.2f}" + ("" if top1["sd"] is None else f" ± {top1['sd']:.2f}")
        if model["failed"]:
            accuracy += f" ({top1['n']} of {top1['n'] + len(model['failed'])} seeds)"
    shift = "baseline" if model["name"] == baseline else "–"
    if difference is not None:
        interval = "[{:+.2f}, {:+.2f}]".format(*difference["interval"]) if difference["interval"] else "[no interval]"
        shift = f"{difference['mean']:+.2f} {interval}"
    return [
        model["name"],
        accuracy,
        shift,
        in_units(model["parameters"]),
        in_units(model["macs"]),
        _milliseconds(model["train_ms_per_image"]),
        _milliseconds(model["eval_ms_per_image"]),
    ]


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
