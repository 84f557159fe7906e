"""The picture of a profile: time and energy against accuracy where that is known, bars of them where it is not."""

from collections.abc import Callable, Mapping
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from attnorm.evidence.plots import COLOURS, MARKERS, STYLE
from attnorm.evidence.profile_config import Case

Reading = tuple[float, float, float] | None  # the value, and the ends of its spread


def picture(result: Mapping[str, Any]) -> Figure:
    """The picture.

    Args:
        result: of `attnorm.evidence.profile.profile_models`. Where at least two networks have an accuracy, they stand
            at their time per image in the last case of each mode: the largest batch of those named last. Otherwise all
            cases are drawn.
    """
    known = [model for model in result["models"] if model["accuracy"] is not None]
    panels = _panels(result)
    with rc_context(STYLE):
        if len(known) > 1:
            figure = Figure(figsize=(4.6 * len(panels) + 0.4, 3.9), layout="constrained")
            axes = figure.subplots(1, len(panels), squeeze=False)[0]
            for axis, (title, read, mode) in zip(axes, panels.values(), strict=True):
                _scatter(axis, result, title, read, mode)
        else:
            rows = max(len(_cases(result, mode)) for _, _, mode in panels.values())
            height = 1.3 + rows * (0.35 + 0.24 * len(result["models"]))
            figure = Figure(figsize=(4.9 * len(panels) + 0.4, height), layout="constrained")
            axes = figure.subplots(1, len(panels), squeeze=False)[0]
            for axis, (title, read, mode) in zip(axes, panels.values(), strict=True):
                _bars(axis, result, title, read, mode)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(labels)), fontsize=9)
    return figure


def _panels(result: Mapping[str, Any]) -> dict[str, tuple[str, Callable[[Mapping[str, Any], int], Reading], str]]:
    """Title, what is read, and mode of each panel."""
    found: dict[str, tuple[str, Callable[[Mapping[str, Any], int], Reading], str]] = {}
    for mode in dict.fromkeys(case["mode"] for case in result["cases"]):
        found[f"{mode} time"] = (f"{mode.capitalize()}: ms per image", _time, mode)
        if result["energy"]["meter"] is not None:
            found[f"{mode} energy"] = (f"{mode.capitalize()}: joules per image", _joules, mode)
    return found


def _time(row: Mapping[str, Any], images: int) -> Reading:
    """Milliseconds per image: median and quartiles."""
    if "failed" in row:
        return None
    median, low, high = (row["latency_ms"][key] / images for key in ("median", "low", "high"))
    return median, low, high


def _joules(row: Mapping[str, Any], images: int) -> Reading:
    spent = row.get("energy")
    return None if spent is None else (spent["joules_per_image"],) * 3


def _cases(result: Mapping[str, Any], mode: str) -> list[Mapping[str, Any]]:
    return [case for case in result["cases"] if case["mode"] == mode]


def _scatter(
    axis: Axes, result: Mapping[str, Any], title: str, read: Callable[[Mapping[str, Any], int], Reading], mode: str
) -> None:
    case = _cases(result, mode)[-1]
    for index, model in enumerate(result["models"]):
        reading = read(case["networks"][model["name"]], case["batch_size"])
        if model["accuracy"] is None or reading is None:
            continue
        value, low, high = reading
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        axis.errorbar(
            [value],
            [model["accuracy"]],
            xerr=[[value - low], [high - value]],
            fmt=marker,
            color=colour,
            markersize=8,
            capsize=3,
            label=model["name"],
        )
    axis.set_title(title, loc="left", fontsize=10)
    axis.set_xlabel(_describe(case))
    axis.set_ylabel("accuracy, %")
    axis.set_xlim(left=0)
    axis.margins(y=0.2)


def _bars(
    axis: Axes, result: Mapping[str, Any], title: str, read: Callable[[Mapping[str, Any], int], Reading], mode: str
) -> None:
    found, models = _cases(result, mode), result["models"]
    width = 0.8 / len(models)
    for index, model in enumerate(models):
        readings = [(row, read(case["networks"][model["name"]], case["batch_size"])) for row, case in enumerate(found)]
        drawn = [(row - 0.4 + (index + 0.5) * width, reading) for row, reading in readings if reading is not None]
        places = [place for place, _ in drawn]
        values = [value for _, (value, _, _) in drawn]
        spread = [[v - low for _, (v, low, _) in drawn], [high - v for _, (v, _, high) in drawn]]
        axis.barh(
            places,
            values,
            height=width * 0.9,
            xerr=spread,
            color=COLOURS[index % len(COLOURS)],
            alpha=0.85,
            error_kw={"elinewidth": 1, "alpha": 0.7, "ecolor": "#808080"},
            label=model["name"],
        )
    axis.set_yticks(range(len(found)), [_describe(case) for case in found])
    axis.set_ylim(len(found) - 0.5, -0.5)
    axis.grid(axis="y", visible=False)
    axis.tick_params(axis="y", length=0)
    axis.set_title(title, loc="left", fontsize=10)


def _describe(row: Mapping[str, Any]) -> str:
    """The case in two lines."""
    case = Case(**{key: value for key, value in row.items() if key != "networks"})
    first, rest = case.describe().split(", ", 1)
    return f"{first}\n{rest}"
