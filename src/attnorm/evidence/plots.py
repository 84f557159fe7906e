"""Where the runs of a comparison ended, as a picture; and what its pictures have in common.

Each picture comes as a figure that can be saved as PNG (white ground) or as SVG for a page, whose text and axes take
the page's own text colour, so that it is readable on a light page, on a dark one and on paper.
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
from attnorm.evidence.summary import comparisons, shown_metrics
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


def look(index: int) -> tuple[str, str, str]:
    """Colour, line style and marker of a network; the baseline, 0, has the colour of the text to itself."""
    others = COLOURS[1:]
    colour = COLOURS[0] if index == 0 else others[(index - 1) % len(others)]
    return colour, STYLES[index % len(STYLES)], MARKERS[index % len(MARKERS)]


def in_lines(name: str) -> str:
    """A name with options for a picture: the options in a line of their own."""
    network, _, options = name.partition(":")
    return network + ("\n" + options.replace(":", ", ") if options else "")


def accuracies(result: Mapping[str, Any]) -> Figure:
    """Left: every run's accuracy or AP, with the mean and its 95% t interval. Right: differences to the baseline.

    Thin ends of a difference's interval reach as far as the one that is corrected for the number of comparisons.
    """
    metric = shown_metrics(result)[0]
    models = [model for model in result["models"] if model["values"]]
    with rc_context(STYLE):
        figure = Figure(figsize=(9.5, 1.4 + 0.55 * len(models)), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        for index, model in enumerate(models):
            _draw_accuracy(left, model, index)
            if model["difference"] is not None:
                _draw_difference(right, model, index)
        left.set_yticks(range(len(models)), [in_lines(model["name"]) for model in models], fontsize=9)
        left.set_ylim(len(models) - 0.5, -0.5)
        left.set_title(f"{metric.title}, %: seeds, mean, 95% interval", loc="left", fontsize=10)
        corrected = any(model.get("joint") for model in models)
        thin = f"\nthick: 95% interval, thin: corrected for {comparisons(models)}" if corrected else ""
        right.set_title(f"Difference to {result['baseline']}, points{thin}", loc="left", fontsize=10)
        right.axvline(0, color=TEXT_COLOUR, linewidth=1)
        for axis in (left, right):
            axis.grid(axis="y", visible=False)
            axis.tick_params(axis="y", length=0)
            axis.xaxis.set_major_locator(MaxNLocator(nbins=7))
        _keep_intervals_from_hiding_the_dots(left, [value for model in models for value in model["values"]])
        _keep_intervals_from_hiding_the_dots(right, [0.0, *(d for model in models for d in model["differences"])])
        return figure


def _draw_accuracy(axis: Axes, model: Mapping[str, Any], index: int) -> None:
    colour, _, marker = look(index)
    values = model["values"]
    axis.plot(values, [index + 0.16] * len(values), marker, color=colour, alpha=0.6, markersize=5)
    sample = describe(values)
    if sample.interval is not None:
        axis.plot(sample.interval, [index, index], "-", color=colour, linewidth=2)
    axis.plot([sample.mean], [index], marker, color=colour, markersize=8)


def _draw_difference(axis: Axes, model: Mapping[str, Any], index: int) -> None:
    difference = model["difference"]
    colour, _, marker = look(index)
    if model.get("joint") is not None:
        axis.plot(model["joint"]["interval"], [index, index], "-", color=colour, linewidth=0.8)
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
