"""A network as text: what it is built of, part by part; for an AOGNet its graphs, node by node."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import nn

from attnorm.layers.attentive import AttentiveNorm
from attnorm.layers.convert import norm_report
from attnorm.models import create_model, model_names
from attnorm.models.aog_block import AOGBlock, NodeOperator
from attnorm.models.aog_stage import Stage
from attnorm.models.aognet import AOGNet
from attnorm.models.grammar import Graph, Node

LEGEND = """\
interval  the words that a node spans, of all D, each standing for a slice of the channels
takes     whose outputs: an OR adds them, an AND concatenates them as listed; 1/2 x 4: on the residual path half of
          node 4, as the other half of its ways from the root do not pass here; +3: a lateral neighbour, added on
          both paths; (+3): on the operation path only, as it has a parent in common with the node
paths     ways down from the root
channels  into the node's bottleneck, inside, and out of it, for each block of the stage
norm 2    behind the 3x3 convolution: AN with its K, or BatchNorm"""


def build_for_description(name: str) -> nn.Module:
    """The network of that name, without memory for its weights if it is one of this package.

    Raises:
        ConfigError: For an unknown name.
    """
    # timm's own networks may compute with values while they are built, which the meta device does not have.
    with torch.device("meta") if name in model_names() else nullcontext():
        return create_model(name)


def describe(model: nn.Module, name: str) -> str:
    """Text about a network.

    Args:
        model: Any network; an AOGNet's graphs are shown.
        name: For the first line.
    """
    lines = [f"{name}: {type(model).__name__}, {_count(model):,} parameters"]
    parts = _aognet(model) if isinstance(model, AOGNet) else _any_network(model)
    return "\n".join([*lines, *parts])


def table(rows: Sequence[Sequence[str]], indent: int = 2) -> list[str]:
    """Rows, the first one the heading, as lines of aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        (" " * indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))).rstrip()
        for row in rows
    ]


def _any_network(model: nn.Module) -> list[str]:
    lines: list[str] = []
    stages = [cast(Mapping[str, Any], info) for info in getattr(model, "feature_info", [])]
    if stages:
        rows = [[str(info["module"]), str(info["num_chs"]), str(info["reduction"])] for info in stages]
        lines += ["", "features", *table([["module", "channels", "stride"], *rows])]
    norms = norm_report(model)
    return [*lines, "", "norms", *(f"  {line}" for line in norms.splitlines() or ["none that AN can replace"])]


def _aognet(model: AOGNet) -> list[str]:
    widths = [model.feature_info[0]["num_chs"]]
    lines = ["", f"stem: {model.in_chans} -> {widths[0]} channels, stride {model.stem.reduction}, {_size(model.stem)}"]
    for s, stage in enumerate(cast("list[Stage]", list(model.stages))):
        lines += ["", *_stage(s, stage)]
    return [*lines, "", f"classifier: {_size(model.fc)}", "", *LEGEND.splitlines()]


def _stage(s: int, stage: Stage) -> list[str]:
    blocks = cast("list[AOGBlock]", list(stage.blocks))
    graph = blocks[0].graph
    counts = {kind: sum(node.kind == kind for node in graph.nodes) for kind in ("OR", "AND", "TERMINAL")}
    shown = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    title = f"stage {s}: {graph.dims} words, {len(graph.nodes)} nodes ({shown}), {_size(stage)}"
    rows = [["part", "channels", "parameters"]]
    if len(stage.transition):
        channels = cast(nn.Conv2d, stage.transition.get_submodule("conv")).out_channels
        rows.append(["transition, pools", f"{channels} -> {channels}", f"{_count(stage.transition):,}"])
    for j, block in enumerate(blocks):
        rows.append([f"block {j}", f"{block.bounds[-1]} -> {block.bn.num_features}", f"{_count(block):,}"])
    heading = ["node", "kind", "interval", "takes", "paths", "channels", "norm 2"]
    nodes = [_node(graph, node, blocks) for node in graph.nodes]
    return [title, *table(rows), "", *table([heading, *nodes])]


def _node(graph: Graph, node: Node, blocks: Sequence[AOGBlock]) -> list[str]:
    operators = [cast(NodeOperator, block.nodes[str(node.id)]) for block in blocks]
    channels = [f"{op.conv1.in_channels}-{op.conv2.out_channels}-{op.conv3.out_channels}" for op in operators]
    norms = {_norm(op.bn2) for op in operators}
    return [
        str(node.id),
        node.kind,
        draw_interval(node, graph.dims),
        takes(graph, node),
        str(graph.num_paths[node.id]),
        ", ".join(channels),
        ", ".join(sorted(norms)),
    ]


def draw_interval(node: Node, dims: int) -> str:
    """The words of a node among all, as in [··██]."""
    first, last = node.interval
    return "[" + "".join("█" if first <= word <= last else "·" for word in range(dims)) + "]"


def takes(graph: Graph, node: Node) -> str:
    """The children of a node, as the legend explains them."""
    if node.kind == "TERMINAL":
        return "the block's input"
    phrase = [
        str(child) if scale == 1 else f"{scale} x {child}"
        for child, scale in zip(node.phrase_children, graph.residual_scales(node), strict=True)
    ]
    lateral = [
        f"+{child}" if in_residual else f"(+{child})"
        for child, in_residual in zip(node.lateral_children, graph.lateral_in_residual(node), strict=True)
    ]
    return " ".join([", ".join(phrase), *lateral])


def _norm(norm: nn.Module) -> str:
    return f"AN, K = {len(norm.weight)}" if isinstance(norm, AttentiveNorm) else "BatchNorm"


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _size(module: nn.Module) -> str:
    return f"{_count(module):,} parameters"
