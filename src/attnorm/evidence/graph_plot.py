"""The AND-OR graphs of an AOGNet as a picture: nodes stand where their intervals do, wide above narrow."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Rectangle
from torch import nn

from attnorm.errors import ConfigError
from attnorm.evidence.plots import COLOURS, STYLE, TEXT_COLOUR
from attnorm.files import replacing
from attnorm.layers.attentive import AttentiveNorm
from attnorm.models.aog_block import AOGBlock
from attnorm.models.aognet import AOGNet
from attnorm.models.grammar import Graph, Interval, Node

Point = tuple[float, float]

_COLOUR = {"OR": COLOURS[2], "AND": COLOURS[1], "TERMINAL": COLOURS[3]}
_MARKER = {"OR": "o", "AND": "s", "TERMINAL": "D"}
_LATERAL = COLOURS[4]
# Of the box of an interval: its width, what is below its centre, and the steps from box to box.
_BOX_WIDTH, _BELOW, _COLUMN, _ROW = 0.86, 0.52, 1.0, 1.55


def save_graphs(model: nn.Module, name: str, path: str | Path) -> None:
    """Draw the graphs of an AOGNet, each once, with the stages that use it; the file appears whole or not at all.

    Args:
        model: The network.
        name: For the title.
        path: Ends in .png or .svg.

    Raises:
        ConfigError: If the network is no AOGNet.
    """
    if not isinstance(model, AOGNet):
        raise ConfigError(f"plot needs an AOGNet, such as aognet_12m_an; {name} has no graph to draw: leave plot out")
    figure = draw_graphs(model, name)
    with rc_context(STYLE), replacing(path) as temporary:
        figure.savefig(temporary, format=Path(path).suffix[1:].lower(), dpi=150, facecolor="white")


def draw_graphs(model: AOGNet, name: str) -> Figure:
    """One picture beside the other for all different graphs of a network."""
    stages: dict[Graph, list[int]] = {}
    blocks: dict[Graph, AOGBlock] = {}
    for s, stage in enumerate(model.stages):
        block = cast(AOGBlock, cast(nn.Sequential, stage.get_submodule("blocks"))[0])
        stages.setdefault(block.graph, []).append(s)
        blocks.setdefault(block.graph, block)
    widths = [max(graph.dims, 2.6) for graph in stages]
    most = max(graph.dims for graph in stages)
    span = most * _ROW - 0.2
    with rc_context(STYLE):
        figure = Figure(figsize=(1.75 * sum(widths), 1.1 + 1.2 * span), layout="constrained")
        axes: Sequence[Axes] = figure.subplots(1, len(stages), squeeze=False, width_ratios=widths)[0]
        for axis, (graph, used) in zip(axes, stages.items(), strict=True):
            _draw(axis, graph, blocks[graph])
            # All graphs to one scale, in the middle of their axes.
            middle = (graph.dims + 1) / 2 * _ROW
            axis.set_ylim(middle - span / 2, middle + span / 2)
            plural = "stages" if len(used) > 1 else "stage"
            axis.set_title(f"{plural} {', '.join(map(str, used))}: {graph.dims} words", fontsize=10)
        figure.suptitle(f"{name}: the graph of every block", fontsize=11, color=TEXT_COLOUR)
        figure.legend(handles=_legend(), loc="outside lower center", ncols=4, fontsize=9)
    return figure


def _draw(axis: Axes, graph: Graph, block: AOGBlock) -> None:
    places = _places(graph)
    boxes = {node.interval: _draw_interval(axis, graph, node) for node in graph.nodes if node.kind == "OR"}
    for node in graph.nodes:
        _draw_phrase_links(axis, graph, node, places, boxes)
        _draw_lateral_links(axis, graph, node, places)
        attentive = isinstance(block.nodes[str(node.id)].get_submodule("bn2"), AttentiveNorm)
        _draw_node(axis, node, places[node.id], attentive)
    axis.set_xlim(-0.6, (graph.dims - 1) * _COLUMN + 0.6)
    axis.set_axis_off()


def _centre(node: Node) -> Point:
    first, last = node.interval
    return (first + last) / 2 * _COLUMN, node.width * _ROW


def _places(graph: Graph) -> dict[int, Point]:
    """In the box of its interval the OR is on top, under it the TERMINAL and the ANDs, from left to right by cut."""
    places: dict[int, Point] = {}
    for node in graph.nodes:
        if node.kind == "OR":
            x, y = _centre(node)
            places[node.id] = (x, y + 0.36)
            row = sorted((graph.nodes[child] for child in node.phrase_children), key=lambda n: n.split or 0)
            step = min(0.6 / (len(row) - 1), 0.4) if len(row) > 1 else 0
            for i, child in enumerate(row):
                places[child.id] = (x + step * (i - (len(row) - 1) / 2), y - 0.17)
    return places


def _draw_interval(axis: Axes, graph: Graph, node: Node) -> FancyBboxPatch:
    """A box, and in it the words of the interval among all."""
    x, y = _centre(node)
    shape = "round,pad=0,rounding_size=0.08"
    corner = (x - _BOX_WIDTH / 2, y - _BELOW)
    box = FancyBboxPatch(corner, _BOX_WIDTH, _BELOW + 0.56, boxstyle=shape, fc="#f0f0f0", ec="none", zorder=2)
    axis.add_patch(box)
    cell = 0.5 / graph.dims
    for word in range(graph.dims):
        inside = node.interval[0] <= word <= node.interval[1]
        corner = (x - 0.25 + word * cell, y - _BELOW + 0.05)
        colour = "#555555" if inside else "white"
        axis.add_patch(Rectangle(corner, cell, 0.07, fc=colour, ec="#555555", lw=0.6, zorder=2))
    return box


def _draw_phrase_links(
    axis: Axes, graph: Graph, node: Node, places: dict[int, Point], boxes: dict[Interval, FancyBboxPatch]
) -> None:
    (x, y), bottom = places[node.id], _centre(node)[1] - _BELOW
    for child, scale in zip(node.phrase_children, graph.residual_scales(node), strict=True):
        to_x, to_y = places[child]
        axis.plot([x, to_x], [y, to_y], color=TEXT_COLOUR, linewidth=1, zorder=1)
        # Over the boxes at its ends, behind all others.
        for interval in {node.interval, graph.nodes[child].interval}:
            (line,) = axis.plot([x, to_x], [y, to_y], color=TEXT_COLOUR, linewidth=1, zorder=3)
            line.set_clip_path(boxes[interval])
        if scale != 1:
            down = (y - bottom + 0.09) / (y - to_y)  # just below the box, where links have not met yet
            label = axis.text(x + down * (to_x - x), bottom - 0.09, str(scale), fontsize=7, ha="center", va="center")
            label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.6})
            label.set_zorder(3)


def _draw_lateral_links(axis: Axes, graph: Graph, node: Node, places: dict[int, Point]) -> None:
    for child, in_residual in zip(node.lateral_children, graph.lateral_in_residual(node), strict=True):
        place, origin = places[node.id], places[child]
        bend = -0.35 if origin[0] < place[0] else 0.35  # over the nodes in both directions
        arrow = {
            "arrowstyle": "-|>",
            "color": _LATERAL,
            "linestyle": "--" if in_residual else ":",
            "linewidth": 1.4,
            "shrinkA": 8,
            "shrinkB": 9,
            "connectionstyle": f"arc3,rad={bend}",
        }
        axis.annotate("", xy=place, xytext=origin, arrowprops=arrow, zorder=4)


def _draw_node(axis: Axes, node: Node, place: Point, attentive: bool) -> None:
    edge, width = (TEXT_COLOUR, 2) if attentive else ("white", 1)
    size = 13 if node.kind == "TERMINAL" else 15  # diamonds are larger than they say
    axis.plot(*place, _MARKER[node.kind], color=_COLOUR[node.kind], ms=size, mec=edge, mew=width, zorder=5)
    axis.text(*place, str(node.id), fontsize=8, ha="center", va="center_baseline", zorder=6)


def _legend() -> list[Line2D]:
    nodes = {"OR": "OR: adds", "AND": "AND: concatenates", "TERMINAL": "TERMINAL: a slice of the input"}
    handles = [
        Line2D([], [], linestyle="", marker=_MARKER[kind], color=_COLOUR[kind], markersize=9, label=text)
        for kind, text in nodes.items()
    ]
    return [
        *handles,
        Line2D([], [], linestyle="", marker="o", mfc="none", mec=TEXT_COLOUR, mew=2, ms=10, label="AN as second norm"),
        Line2D([], [], color=TEXT_COLOUR, label="phrase link, with its share on the residual path"),
        Line2D([], [], linestyle="--", color=_LATERAL, label="lateral link"),
        Line2D([], [], linestyle=":", color=_LATERAL, label="lateral link, not on the residual path"),
    ]
