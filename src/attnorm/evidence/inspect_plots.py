"""The pictures of `attnorm inspect`: classes by depth, distributions, class means, images with their own weights."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from attnorm.errors import shown
from attnorm.evidence.mixture import Array
from attnorm.evidence.plots import COLOURS, STYLE, TEXT_COLOUR

DRAWN = 6  # layers that heat maps and histograms show
LABELLED = 40  # classes that still have their names beside a heat map
ABOVE_AND_BELOW = "RdBu_r"  # red above, blue below, white at the mean; told apart by the colour-blind
Layer = Mapping[str, Any]
T = TypeVar("T")


def spread(layers: Sequence[T], count: int = DRAWN) -> list[T]:
    """At most so many of the layers: the first, the last, and some at equal distances between them."""
    if len(layers) <= count:
        return list(layers)
    return [layers[round(i * (len(layers) - 1) / (count - 1))] for i in range(count)]


def by_depth(result: Mapping[str, Any]) -> Figure:
    """Left: share of lambda's variance between classes. Right: how much gamma varies. Layers as they run."""
    layers = result["layers"]
    with rc_context(STYLE):
        figure = Figure(figsize=(9.5, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        places = [i for i, layer in enumerate(layers, 1) if layer["lambda_share_between_classes"] is not None]
        for key, label, style, colour in (
            ("lambda_share_between_classes", "share (η²)", "o-", TEXT_COLOUR),
            ("share_adjusted", "adjusted (ε²)", "s--", COLOURS[4]),
            ("share_by_chance", "by chance", ":", TEXT_COLOUR),
        ):
            values = [layers[i - 1][key] for i in places]
            if places:
                left.plot(places, values, style, label=label, color=colour, markersize=5)
        left.set_title("Variance of λ between classes", loc="left", fontsize=10)
        if places:
            left.legend(loc="upper right", ncols=3, fontsize=8)
        else:
            left.text(0.5, 0.5, "no classes", ha="center", transform=left.transAxes)
        varying = [(i, x["gamma_std_over_images_relative"]) for i, x in enumerate(layers, 1)]
        varying = [(i, value) for i, value in varying if value is not None]
        right.plot([i for i, _ in varying], [value for _, value in varying], "o-", color=TEXT_COLOUR, markersize=5)
        right.set_title("Variation of γ, relative to its size", loc="left", fontsize=10)
        for axis, room in ((left, 1.2), (right, 1.05)):  # left with room for the legend
            _layer_axis(axis, layers, room)
        return figure


def _layer_axis(axis: Axes, layers: Sequence[Layer], room: float) -> None:
    axis.set_xlim(0.5, len(layers) + 0.5)
    top = max(axis.get_ylim()[1] * room, 0.01)
    ticks = MaxNLocator(8, steps=[1, 2, 5, 10]).tick_values(0, top)
    axis.set_yticks([tick for tick in ticks if tick <= 1])  # shares end there, whatever room is above
    axis.set_ylim(0, top)
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0 if top > 0.06 else 1))
    if len(layers) <= 12:
        names = [layer["name"] for layer in layers]
        axis.set_xticks(range(1, len(layers) + 1), names, rotation=35, ha="right", rotation_mode="anchor", fontsize=8)
    else:
        axis.set_xlabel("AN layer, in the order they run")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def histograms(layers: Sequence[Layer]) -> Figure:
    """For each layer a thin line per component, a bold one for all of them: share of the inputs by weight."""
    with rc_context(STYLE):
        figure, axes = _grid(len(layers), height=2.0)
        for axis, layer in zip(axes, layers, strict=True):
            counts = np.array(layer["histogram"], dtype=float)
            counts = counts.reshape(len(counts), -1, 2).sum(2) / layer["samples"]  # half as many bins are smoother
            edges = np.linspace(0, 1, counts.shape[1] + 1)
            for row in counts:
                axis.stairs(row, edges, color=COLOURS[2], linewidth=0.8, alpha=0.8)
            overall = counts.mean(0)
            axis.stairs(overall, edges, color=TEXT_COLOUR, linewidth=1.8)
            # A component that never varies is one bar as high as all images: it must not flatten the others.
            axis.set_ylim(0, min(counts.max() * 1.05, max(4 * overall.max(), 0.05)))
            axis.set_xlim(0, 1)
            axis.yaxis.set_major_formatter(PercentFormatter(1))
            axis.yaxis.set_major_locator(MaxNLocator(3))
            axis.set_title(f"{layer['name']}, K = {layer['components']}", loc="left", fontsize=9)
            axis.tick_params(labelsize=8)
        for axis in axes[-3:]:
            axis.set_xlabel("λ", fontsize=9)
        return figure


def _grid(count: int, height: float, columns: int = 3) -> tuple[Figure, list[Axes]]:
    """So many axes, `columns` in a row of `height` inches each."""
    rows = -(-count // columns)
    figure = Figure(figsize=(9.5, 0.3 + height * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[count:]:
        axis.remove()
    return figure, axes[:count]


def class_means(layers: Sequence[Layer], classes: Sequence[Mapping[str, Any]]) -> Figure:
    """A heat map per layer, classes x components: mean of the class minus mean of all images, both sorted.

    Args:
        layers: that have class means.
        classes: name and number of images of each.
    """
    filled = [i for i, row in enumerate(classes) if row["images"]]
    named = len(filled) <= LABELLED
    with rc_context(STYLE):
        figure, axes = _grid(len(layers), height=0.75 + (0.145 * len(filled) if named else 2.6), columns=2)
        for axis, layer in zip(axes, layers, strict=True):
            means = np.array([layer["class_means"][i] for i in filled])
            means = means - np.array([row["mean"] for row in layer["per_component"]])
            rows, columns = seriate(means)
            limit = max(float(np.abs(means).max()), 1e-9)
            image = axis.imshow(
                means[np.ix_(rows, columns)], colormaps[ABOVE_AND_BELOW], aspect="auto", vmin=-limit, vmax=limit
            )
            bar = figure.colorbar(image, ax=axis, pad=0.02, fraction=0.05)
            bar.ax.tick_params(labelsize=7)
            bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
            share = layer["lambda_share_between_classes"]
            between = "" if share is None else f": {100 * share:.0f}% between classes"
            axis.set_title(layer["name"] + between, loc="left", fontsize=9)
            axis.set_xticks(range(len(columns)), [str(k) for k in columns], fontsize=7)
            names = [shown(classes[filled[i]]["name"], 24) for i in rows]
            axis.set_yticks(range(len(names)) if named else [], names if named else [], fontsize=7)
            axis.set_ylabel("" if named else f"{len(filled)} classes")
            bare(axis)
        return figure


def seriate(values: Array) -> tuple[list[int], list[int]]:
    """Orders of the rows and of the columns of a matrix (R, C) in which like ones lie together.

    Both follow the first pair of singular vectors, that is the direction in which the rows differ most; the largest
    entry of the columns' vector counts as positive.
    """
    if not np.any(values):
        return list(range(values.shape[0])), list(range(values.shape[1]))
    left, _, right = np.linalg.svd(values, full_matrices=False)
    sign = np.sign(right[0, np.abs(right[0]).argmax()])
    rows, columns = np.argsort(-sign * left[:, 0], kind="stable"), np.argsort(-sign * right[0], kind="stable")
    return rows.tolist(), columns.tolist()


def examples(result: Mapping[str, Any], pictures: Sequence[np.ndarray]) -> Figure:
    """Pictures, and beside each its weights: a row per layer, a cell per component, in standard deviations."""
    layers = spread([layer for layer in result["layers"] if layer["per_image"]], 10)
    rows = -(-len(pictures) // 2)
    with rc_context({**STYLE, "axes.grid": False}):
        height = max(1.5, 0.5 + 0.17 * len(layers))
        figure = Figure(figsize=(9.5, height * rows + 0.6), layout="constrained")
        grid = figure.subplots(rows, 4, squeeze=False, width_ratios=(1, 2.2, 1, 2.2))
        cells = [(line[i], line[i + 1]) for line in grid for i in (0, 2)]
        image = None
        for (left, right), example, picture in zip(cells, result["examples"], pictures, strict=False):
            left.imshow(picture)
            label = example["class"]
            name = f"image {example['position']}" if label is None else shown(result["classes"][label]["name"], 40)
            left.set_title(name, loc="left", fontsize=8)
            left.set_axis_off()
            left.set_anchor("N")
            image = right.imshow(
                _deviations(layers, example), colormaps[ABOVE_AND_BELOW], aspect="auto", vmin=-3, vmax=3
            )
            right.set_yticks(range(len(layers)), [layer["name"] for layer in layers], fontsize=7)
            right.set_xticks([])
            bare(right)
        for left, right in cells[len(pictures) :]:
            left.set_visible(False)  # not removed: the colour bar takes its width from all of the grid
            right.set_visible(False)
        if image is not None:
            bar = figure.colorbar(
                image, ax=grid, location="bottom", fraction=0.03, shrink=0.5, aspect=50, pad=0.02, panchor=False
            )
            bar.set_label("λ above or below its mean over all images, in standard deviations", fontsize=8)
            bar.ax.tick_params(labelsize=7)
            bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
        return figure


def _deviations(layers: Sequence[Layer], example: Mapping[str, Any]) -> Array:
    """(layers, largest K): an image's weights from their means, in standard deviations; nan beyond a layer's K."""
    table = np.full((len(layers), max(layer["components"] for layer in layers)), np.nan)
    for row, layer in zip(table, layers, strict=True):
        own = np.array(example["lambda"][layer["name"]])
        means = np.array([part["mean"] for part in layer["per_component"]])
        stds = np.array([part["std"] for part in layer["per_component"]])
        row[: len(own)] = np.divide(own - means, stds, out=np.zeros_like(own), where=stds > 0)
    return table


def bare(axis: Axes) -> None:
    """Takes the grid, the ticks and the frame away: what is left are the names of a heat map's rows and columns."""
    axis.grid(visible=False)
    axis.tick_params(length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)
