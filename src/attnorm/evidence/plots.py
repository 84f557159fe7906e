"""The two pictures of a comparison: how the runs went, and where they ended.

Each comes as a figure that can be saved as PNG (white ground) or as SVG for a page, whose text and axes take the page's
own text colour, so that it is readable on a light page, on a dark one and on paper.
"""

import html
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from attnorm.evidence.statistics import describe
from attnorm.evidence.summary import history, shown_metrics
from attnorm.files import replacing

# The palette of Okabe and Ito keeps apart for the colour-blind; these members of it are also visible on black and on
# white. The baseline has the colour of the text. Line styles and markers repeat the distinction for black and white.
TEXT_COLOUR = "#010203"  # stands for "the colour of the text" until the SVG is written
COLOURS = (TEXT_COLOUR, "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7")
STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P")
STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.color": TEXT_COLOUR,
    "text.color": TEXT_COLOUR,
    "axes.edgecolor": TEXT_COLOUR,
    "axes.labelcolor": TEXT_COLOUR,
    "axes.titlecolor": TEXT_COLOUR,
    "xtick.color": TEXT_COLOUR,
    "ytick.color": TEXT_COLOUR,
    "legend.frameon": False,
    "axes.facecolor": "none",
    "svg.fonttype": "path",  # the reader's machine need not have the font
    "svg.hashsalt": "attnorm",  # the same data give the same bytes
}


def learning_curves(result: Mapping[str, Any]) -> Figure:
    """Accuracy or AP and training loss by epoch: a thin line per seed, a bold one for their mean."""
    metric = shown_metrics(result)[0]
    readings = (lambda epoch: metric.percent(epoch) or 0.0, lambda epoch: epoch["train_loss"])
    with rc_context(STYLE):
        figure = Figure(figsize=(9.5, 3.6), layout="constrained")
        axes: Sequence[Axes] = figure.subplots(1, 2)
        for axis, read in zip(axes, readings, strict=True):
            for index, model in enumerate(result["models"]):
                runs = [history(run) for run in result["runs"] if run["model"] == model["name"] and run["record"]]
                curves = [([e["epoch"] for e in run], [read(e) for e in run]) for run in runs]
                _draw_curves(axis, curves, model["name"], index)
            axis.set_xlabel("epoch")
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes[0].set_title(f"{metric.title} on the evaluation part, %", loc="left", fontsize=10)
        axes[1].set_title("Training loss", loc="left", fontsize=10)
        axes[1].set_yscale("log")
        _look_at_the_end(axes[0], [[readings[0](e) for e in history(run)] for run in result["runs"] if run["record"]])
        axes[0].legend(loc="lower right", fontsize=9)
        return figure


def _draw_curves(axis: Axes, curves: Sequence[tuple[list[float], list[float]]], name: str, index: int) -> None:
    colour, style = COLOURS[index % len(COLOURS)], STYLES[index % len(STYLES)]
    # A single epoch is a point, not a line.
    marker = MARKERS[index % len(MARKERS)] if all(len(epochs) < 2 for epochs, _ in curves) else None
    for epochs, values in curves:
        axis.plot(epochs, values, style, color=colour, linewidth=0.8, alpha=0.45, marker=marker)
    shared = min((len(epochs) for epochs, _ in curves), default=0)
    if shared:
        mean = [sum(values[k] for _, values in curves) / len(curves) for k in range(shared)]
        axis.plot(curves[0][0][:shared], mean, style, color=colour, linewidth=2.2, marker=marker, label=name)


def _look_at_the_end(axis: Axes, curves: Sequence[Sequence[float]]) -> None:
    """Lets the steep start of the curves leave the picture, so that differences at their end can be seen."""
    late = [value for curve in curves for value in curve[len(curve) // 2 :]]
    if late:
        low, high = min(late), max(late)
        bottom = max(axis.get_ylim()[0], low - max(2.0, 1.5 * (high - low)))
        axis.set_ylim(bottom, high + 0.06 * (high - bottom))


def accuracies(result: Mapping[str, Any]) -> Figure:
    """Left: every run's accuracy or AP, with the mean and its 95% t interval. Right: differences to the baseline."""
    metric = shown_metrics(result)[0]
    models = [model for model in result["models"] if model["values"]]
    with rc_context(STYLE):
        figure = Figure(figsize=(9.5, 1.4 + 0.55 * len(models)), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        for index, model in enumerate(models):
            _draw_accuracy(left, model, index)
            if model["difference"] is not None:
                _draw_difference(right, model, index)
        left.set_yticks(range(len(models)), [model["name"] for model in models])
        left.set_ylim(len(models) - 0.5, -0.5)
        left.set_title(f"{metric.title}, %: seeds, mean, 95% interval", loc="left", fontsize=10)
        right.set_title(f"Difference to {result['baseline']}, points", loc="left", fontsize=10)
        right.axvline(0, color=TEXT_COLOUR, linewidth=1)
        for axis in (left, right):
            axis.grid(axis="y", visible=False)
            axis.tick_params(axis="y", length=0)
        _keep_intervals_from_hiding_the_dots(left, [value for model in models for value in model["values"]])
        return figure


def _draw_accuracy(axis: Axes, model: Mapping[str, Any], index: int) -> None:
    colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
    values = model["values"]
    axis.plot(values, [index + 0.16] * len(values), marker, color=colour, alpha=0.6, markersize=5)
    sample = describe(values)
    if sample.interval is not None:
        axis.plot(sample.interval, [index, index], "-", color=colour, linewidth=2)
    axis.plot([sample.mean], [index], marker, color=colour, markersize=8)


def _draw_difference(axis: Axes, model: Mapping[str, Any], index: int) -> None:
    difference = model["difference"]
    colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
    if difference["interval"] is not None:
        axis.plot(difference["interval"], [index, index], "-", color=colour, linewidth=2)
    axis.plot([difference["mean"]], [index], marker, color=colour, markersize=8)
    axis.plot(model["differences"], [index + 0.16] * len(model["differences"]), marker, color=colour, alpha=0.6, ms=5)


def _keep_intervals_from_hiding_the_dots(axis: Axes, values: Sequence[float]) -> None:
    """With two seeds the t interval is 13 standard errors wide; then the axis follows the runs and cuts it."""
    span = max(max(values) - min(values), 0.2)
    low, high = axis.get_xlim()
    axis.set_xlim(max(low, min(values) - 2.5 * span), min(high, max(values) + 2.5 * span))


def save_png(figure: Figure, path: Path) -> None:
    """Writes the figure as PNG on white, whole or not at all."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150, facecolor="white")


def inline_svg(figure: Figure, title: str) -> str:
    """The figure as an <svg> element for an HTML page: no reference outside itself, text in the page's colour.

    Args:
        figure: what to draw.
        title: what a screen reader says.
    """
    buffer = io.StringIO()
    metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with rc_context(STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(re.escape(TEXT_COLOUR), "currentColor", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(title)}" ', 1)
