"""The tables of a comparison, as rows of text: the terminal, the report and the documentation show the same cells."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attnorm.evidence.summary import comparisons, shown_metrics
from attnorm.training.metric import Metric

Table = tuple[list[str], list[list[str]]]  # headings, and a row of cells for each network


def headings(result: Mapping[str, Any]) -> list[str]:
    """The first line of the table with the outcome and the costs that every comparison has."""
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
    metrics = shown_metrics(result)
    return [
        [
            model["name"],
            _judged(model, metrics[0]),
            _difference(model, result["baseline"]),
            *(_mean(model[metric.name]) for metric in metrics[1:]),
            in_units(model["parameters"]),
            in_units(model["macs"]),
            _milliseconds(model["train_ms_per_image"]),
            _milliseconds(model["eval_ms_per_image"]),
        ]
        for model in result["models"]
    ]


def outcome_table(result: Mapping[str, Any]) -> Table:
    """What the networks attain; with several against one baseline the corrected intervals too."""
    judged, *others = shown_metrics(result)
    columns: list[tuple[str, Cell]] = [
        ("network", lambda model: model["name"]),
        (f"{judged.label}, %", lambda model: _judged(model, judged)),
        ("difference, points [95%]", lambda model: _difference(model, result["baseline"])),
        (f"corrected for {comparisons(result['models'])}", _corrected),
        *((f"{metric.label}, %", _metric(metric)) for metric in others),
    ]
    return _table(columns, result["models"])


def cost_table(result: Mapping[str, Any]) -> Table:
    """What the networks cost, as far as it was measured; a cell may have two lines."""
    columns: list[tuple[str, Cell]] = [
        ("network", lambda model: model["name"]),
        ("parameters", lambda model: in_units(model["parameters"])),
        ("MACs", lambda model: in_units(model["macs"])),
        ("other operations", lambda model: in_units(model["elementwise"]) if model.get("elementwise") else None),
        ("training, ms/image", lambda model: _time(model, "train")),
        ("evaluation, ms/image", lambda model: _time(model, "eval")),
        ("kept for backward, per image", lambda model: _bytes(model.get("saved_bytes_per_image"))),
        ("peak in training (evaluation)", _peaks),
        ("training, J/image", lambda model: _joules(model, "train")),
        ("evaluation, J/image", lambda model: _joules(model, "eval")),
    ]
    return _table(columns, result["models"])


Cell = Callable[[Mapping[str, Any]], str | None]


def _table(columns: Sequence[tuple[str, Cell]], models: Sequence[Mapping[str, Any]]) -> Table:
    """The columns that have something in them."""
    made = [(heading, [cell(model) for model in models]) for heading, cell in columns]
    kept = [(heading, cells) for heading, cells in made if any(cell is not None for cell in cells)]
    rows = [[cells[row] or "–" for _, cells in kept] for row in range(len(models))]
    return [heading for heading, _ in kept], rows


def _judged(model: Mapping[str, Any], metric: Metric) -> str:
    value = _mean(model[metric.name])
    if model["failed"] and model["values"]:
        done = len(model["values"])
        value += f" ({done} of {done + len(model['failed'])} seeds)"
    return value


def _difference(model: Mapping[str, Any], baseline: str) -> str:
    difference = model["difference"]
    if difference is None:
        return "baseline" if model["name"] == baseline else "–"
    interval = _interval(difference["interval"]) if difference["interval"] else "[no interval]"
    return f"{difference['mean']:+.2f} {interval}"


def _corrected(model: Mapping[str, Any]) -> str | None:
    joint = model.get("joint")
    return f"{_interval(joint['interval'])} {joint['conclusion']}" if joint else None


def _interval(ends: Sequence[float]) -> str:
    return "[{:+.2f}, {:+.2f}]".format(*ends)


def _metric(metric: Metric) -> Cell:
    return lambda model: _mean(model[metric.name])


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
    median, half = timing["median"], (timing["high"] - timing["low"]) / 2
    return f"{median:{'.0f' if median >= 1000 else '.3g'}} ± {half / median:.0%}"


def _time(model: Mapping[str, Any], kind: str) -> str:
    """Milliseconds and, below, how many times the baseline's."""
    cell = _milliseconds(model[f"{kind}_ms_per_image"])
    return cell + _times_baseline(model.get(f"{kind}_ratio"))


def _joules(model: Mapping[str, Any], kind: str) -> str | None:
    spent = model.get(f"{kind}_energy")
    return f"{spent['joules_per_image']:.3g}" + _times_baseline(spent["ratio"]) if spent else None


def _times_baseline(ratio: Mapping[str, float] | None) -> str:
    return "\n× {median:.2f} [{low:.2f}, {high:.2f}]".format(**ratio) if ratio and ratio["median"] != 1 else ""


def _peaks(model: Mapping[str, Any]) -> str | None:
    train, evaluate = _bytes(model.get("train_peak_bytes")), _bytes(model.get("eval_peak_bytes"))
    return f"{train}\n({evaluate})" if train and evaluate else None


def _bytes(count: int | None) -> str | None:
    return None if count is None else f"{in_units(count)}B"
