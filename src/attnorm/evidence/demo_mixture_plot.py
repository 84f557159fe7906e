"""The mixture weights of one image as a picture: a row for each AN layer, a cell for each component."""

from collections.abc import Mapping

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.figure import Figure

from attnorm.evidence.inspect_plots import bare, spread
from attnorm.evidence.mixture import Array
from attnorm.evidence.plots import STYLE

ROWS = 40  # layers that are shown; of deeper networks some, evenly spread
LOW_TO_HIGH = "viridis"  # told apart by the colour-blind, and in grey
NARROWEST = 0.1  # range of the colours: smaller differences must not look large


def mixture_picture(mixtures: Mapping[str, Array]) -> Figure:
    """Draw lambda in colours that reach from the smallest weight to the largest, with its percent in each cell.

    Args:
        mixtures: lambda (K,), from 0 to 1, by the name of the layer; at least one.
    """
    names = spread(list(mixtures), ROWS)
    table = np.full((len(names), max(len(mixtures[name]) for name in names)), np.nan)
    for row, name in zip(table, names, strict=True):
        row[: len(mixtures[name])] = mixtures[name]
    low, high = float(np.nanmin(table)), float(np.nanmax(table))
    with rc_context(STYLE):
        figure = Figure(figsize=(2 + 0.3 * table.shape[1], 0.6 + 0.24 * len(names)), layout="constrained")
        axis = figure.subplots()
        colours = colormaps[LOW_TO_HIGH]
        image = axis.imshow(table, colours, aspect="auto", vmin=low, vmax=max(high, low + NARROWEST))
        for (row, k), weight in np.ndenumerate(table):
            if np.isfinite(weight):
                red, green, blue, _ = image.to_rgba(weight)
                ink = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"
                axis.text(k, row, f"{100 * weight:.0f}", ha="center", va="center", fontsize=8, color=ink)
        axis.set_yticks(range(len(names)), names, fontsize=8)
        axis.set_xticks(range(table.shape[1]), [str(k) for k in range(table.shape[1])], fontsize=8)
        axis.set_xlabel("component; its weight in percent", fontsize=8)
        bare(axis)
        return figure
