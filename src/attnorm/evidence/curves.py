"""How the runs of a comparison went, epoch by epoch: the judged number and the training loss.

Of each network a thin line for each run, a band from the lowest to the highest of them, and a bold line for their mean.
Where there are more networks than can be told apart in one picture, that has the means alone, and below it each
network has a small one of its own with the baseline behind it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from attnorm.evidence.plots import STYLE, in_lines, look
from attnorm.evidence.summary import history, shown_metrics

IN_ONE_PICTURE = 4
CAPTION = "Thin: one seed. Band: from the lowest to the highest seed. Bold: the mean over seeds."

Row = Mapping[str, Any]
Curve = Sequence[tuple[int, float]]  # epochs with their values


@dataclass(frozen=True)
class Band:
    """Over the epochs that all runs of a network have: the mean, the lowest and the highest value."""

    epochs: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]


def band(curves: Sequence[Curve]) -> Band:
    """The band of a network's runs; nothing in it where there are no runs."""
    made = Band([], [], [], [])
    for points in zip(*curves, strict=False):
        values = [value for _, value in points]
        made.epochs.append(points[0][0])
        made.mean.append(sum(values) / len(values))
        made.low.append(min(values))
        made.high.append(max(values))
    return made


def learning_curves(result: Mapping[str, Any]) -> Figure:
    """The judged number and the training loss of every network by epoch."""
    metric = shown_metrics(result)[0]
    readings: tuple[Callable[[Row], float], ...] = (
        lambda epoch: metric.percent(epoch) or 0.0,
        lambda epoch: epoch["train_loss"],
    )
    curves = [[_curves(result, model["name"], read) for model in result["models"]] for read in readings]
    names = [model["name"] for model in result["models"]]
    few = len(names) <= IN_ONE_PICTURE
    with rc_context(STYLE):
        rows = 0 if few else len(names) // 2  # two networks in a row, without the baseline
        figure = Figure(figsize=(9.5, 3.8 + 1.7 * rows + 0.12 * (0 if few else len(names))), layout="constrained")
        grid = figure.add_gridspec(1 + rows, 4, height_ratios=[2.2, *[1] * rows])
        large = [figure.add_subplot(grid[0, :2]), figure.add_subplot(grid[0, 2:])]
        for axis, networks in zip(large, curves, strict=True):
            for index, (name, runs) in enumerate(zip(names, networks, strict=True)):
                _draw(axis, runs, index, in_lines(name), runs_too=few)
        large[0].set_title(f"{metric.title} on the evaluation part, %", loc="left", fontsize=10)
        large[1].set_title("Training loss", loc="left", fontsize=10)
        _scale(large, curves[0])
        for axis in large:
            axis.set_xlabel("epoch")
        if few:
            large[0].legend(loc="lower right", fontsize=8)
            return figure
        figure.legend(*large[0].get_legend_handles_labels(), loc="outside upper left", ncols=3, fontsize=7.5)
        for index in range(1, len(names)):
            row, column = (index - 1) // 2 + 1, (index - 1) % 2 * 2
            small = [figure.add_subplot(grid[row, column + k]) for k in (0, 1)]
            _draw_small(small, [networks[0] for networks in curves], [networks[index] for networks in curves], index)
            small[0].set_title(names[index], loc="left", fontsize=7.5)
            small[0].set_ylabel(f"{metric.label}, %", fontsize=7.5)
            small[1].set_ylabel("loss", fontsize=7.5)
            _scale(small, curves[0])
        return figure


def _curves(result: Mapping[str, Any], model: str, read: Callable[[Row], float]) -> list[Curve]:
    runs = [history(run) for run in result["runs"] if run["model"] == model and run["record"]]
    return [[(epoch["epoch"], read(epoch)) for epoch in run] for run in runs]


def _draw(axis: Axes, curves: Sequence[Curve], index: int, label: str | None, *, runs_too: bool = True) -> None:
    colour, style, shape = look(index)
    # A single epoch is a point, not a line.
    marker = shape if all(len(curve) < 2 for curve in curves) else None
    drawn = band(curves)
    if runs_too:
        for curve in curves:
            axis.plot(*zip(*curve, strict=True), style, color=colour, linewidth=0.7, alpha=0.45, marker=marker)
        axis.fill_between(drawn.epochs, drawn.low, drawn.high, color=colour, alpha=0.15, linewidth=0)
    if drawn.epochs:
        width = 2.0 if runs_too else 1.5
        axis.plot(drawn.epochs, drawn.mean, style, color=colour, linewidth=width, marker=marker, label=label)


def _draw_small(
    axes: Sequence[Axes], baseline: Sequence[Sequence[Curve]], own: Sequence[Sequence[Curve]], index: int
) -> None:
    for axis, behind, curves in zip(axes, baseline, own, strict=True):
        reference = band(behind)
        axis.plot(reference.epochs, reference.mean, color=look(0)[0], linewidth=1, alpha=0.6)
        _draw(axis, curves, index, None)
        axis.tick_params(labelsize=7)


def _scale(axes: Sequence[Axes], judged: Sequence[Sequence[Curve]]) -> None:
    """Whole epochs; of the judged number the later part, of the loss the logarithm."""
    _look_at_the_end(axes[0], [[value for _, value in curve] for runs in judged for curve in runs])
    axes[1].set_yscale("log")
    axes[1].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[1].yaxis.set_minor_locator(NullLocator())
    axes[1].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    for axis in axes:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))


def _look_at_the_end(axis: Axes, curves: Sequence[Sequence[float]]) -> None:
    """Lets the steep start of the curves leave the picture, so that differences at their end can be seen."""
    late = [value for curve in curves for value in curve[len(curve) // 2 :]]
    if late:
        low, high = min(late), max(late)
        bottom = max(min(value for curve in curves for value in curve), low - max(2.0, 1.5 * (high - low)))
        axis.set_ylim(bottom - 0.02 * (high - bottom), high + 0.06 * (high - bottom) + 1e-3)
