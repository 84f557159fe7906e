"""The building block of AOGNet: an AND-OR graph over slices of the channels, a bottleneck at every node.

    x (N, C_in, H, W)  ->  TERMINALs look at the slices of their intervals  ->  ANDs concatenate, ORs add, up to the
    root  ->  norm, ReLU  ->  (N, C_out, H, W)

Source: arXiv 1711.05847, in the form of its ImageNet release, with lateral links and a norm behind the root.
"""

import math
from functools import reduce
from typing import Any, NamedTuple

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn

from attnorm.models.grammar import ROOT, Graph, Node


class NodeOperator(nn.Module):
    """The bottleneck at a node: ReLU(part3(part2(part1(x))) + shortcut(residual)).

    Part 1 is a 1x1 convolution to m channels, part 2 a 3x3 convolution, part 3 a 1x1 convolution; each is followed by
    a norm, the first two by a ReLU too. The shortcut is a 1x1 convolution with a norm where the width changes.

    Args:
        in_channels: Of x and the residual.
        out_channels: Of the output.
        ratio: m = `bottleneck_width(out_channels, ratio)`.
        drop_rate: Probability that a channel of part 3 is dropped.
        device: Of the parameters.
        dtype: Of the parameters.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        ratio: float,
        drop_rate: float = 0.0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        width = bottleneck_width(out_channels, ratio)
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False, **dd)
        self.bn1 = BatchNormAct2d(width, **dd)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False, **dd)
        self.bn2 = BatchNormAct2d(width, **dd)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False, **dd)
        self.bn3 = nn.BatchNorm2d(out_channels, **dd)
        self.drop = nn.Dropout2d(drop_rate) if drop_rate else nn.Identity()
        self.shortcut = nn.Identity()
        if in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, bias=False, **dd), nn.BatchNorm2d(out_channels, **dd)
            )
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """Map x and residual, both (N, in_channels, H, W), to (N, out_channels, H, W)."""
        y = self.bn1(self.conv1(x))
        y = self.bn2(self.conv2(y))
        y = self.drop(self.bn3(self.conv3(y)))
        y += self.shortcut(residual)
        return self.act(y)


def bottleneck_width(out_channels: int, ratio: float) -> int:
    """Channels inside a node: ratio * out_channels, halves rounded up, at least 4."""
    return max(4, math.floor(out_channels * ratio + 0.5))


def slice_bounds(channels: int, dims: int) -> list[int]:
    """Where each of `dims` consecutive slices of the channels starts, and the end; the first ones take what is over."""
    size, over = divmod(channels, dims)
    return [i * size + min(i, over) for i in range(dims + 1)]


class _Children(NamedTuple):
    """Whose outputs an AND or OR takes, and what they count on the residual path."""

    phrase: tuple[int, ...]
    scales: tuple[float, ...]
    lateral: tuple[int, ...]
    lateral_in_residual: tuple[bool, ...]


class AOGBlock(nn.Module):
    """One AND-OR graph of node operators, and a norm with ReLU behind its root.

    Args:
        graph: What composes what.
        in_channels: C_in; the TERMINAL of an interval sees its slices of them.
        out_channels: C_out; a node's output has the channels of its interval's slices of them.
        ratio: Of the bottlenecks.
        drop_rate: In every node.
        device: Of the parameters.
        dtype: Of the parameters.

    Raises:
        ValueError: If there are fewer channels than words, or if lateral links would add slices of unequal width.
    """

    def __init__(
        self,
        graph: Graph,
        in_channels: int,
        out_channels: int,
        ratio: float = 0.25,
        drop_rate: float = 0.0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        _check_channels(graph, in_channels, out_channels)
        self.graph = graph
        self.bounds = slice_bounds(in_channels, graph.dims)
        out_bounds = slice_bounds(out_channels, graph.dims)
        self.children_of = {node.id: _children(graph, node) for node in graph.nodes}
        self.nodes = nn.ModuleDict()
        for node in (graph.nodes[i] for i in graph.dfs):
            outputs = _span(out_bounds, node)
            inputs = _span(self.bounds, node) if node.kind == "TERMINAL" else outputs
            self.nodes[str(node.id)] = NodeOperator(len(inputs), len(outputs), ratio, drop_rate, device, dtype)
        self.bn = BatchNormAct2d(out_channels, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (N, C_in, H, W) to (N, C_out, H, W)."""
        outputs: dict[int, Tensor] = {}
        for i in self.graph.dfs:
            node = self.graph.nodes[i]
            if node.kind == "TERMINAL":
                operation = residual = self._slice(x, node)
            else:
                operation, residual = self._compose(node, outputs)
            outputs[i] = self.nodes[str(i)](operation, residual)
        return self.bn(outputs[ROOT])

    def _slice(self, x: Tensor, node: Node) -> Tensor:
        if node.width == self.graph.dims:
            return x
        words = _span(self.bounds, node)
        # Two convolutions read the slice, and would each make their own copy. The memory format stays.
        return x[:, words.start : words.stop].clone()

    def _compose(self, node: Node, outputs: dict[int, Tensor]) -> tuple[Tensor, Tensor]:
        """What the operator of an AND or OR takes, and its shortcut: one tensor where both are equal."""
        children = self.children_of[node.id]
        parts = [outputs[child] for child in children.phrase]
        operation = residual = torch.cat(parts, 1) if node.kind == "AND" else _add(parts)
        if any(scale != 1 for scale in children.scales):  # of ANDs only
            scaled = zip(parts, children.scales, strict=True)
            residual = torch.cat([part if scale == 1 else part * scale for part, scale in scaled], 1)
        for child, in_residual in zip(children.lateral, children.lateral_in_residual, strict=True):
            shared = operation is residual
            operation = operation + outputs[child]
            if in_residual:
                residual = operation if shared else residual + outputs[child]
        return operation, residual


def _children(graph: Graph, node: Node) -> _Children:
    scales = tuple(map(float, graph.residual_scales(node)))
    return _Children(node.phrase_children, scales, node.lateral_children, graph.lateral_in_residual(node))


def _span(bounds: list[int], node: Node) -> range:
    """The channels of a node's interval."""
    return range(bounds[node.interval[0]], bounds[node.interval[1] + 1])


def _add(tensors: list[Tensor]) -> Tensor:
    return reduce(torch.add, tensors)


def _check_channels(graph: Graph, in_channels: int, out_channels: int) -> None:
    if min(in_channels, out_channels) < graph.dims:
        raise ValueError(
            f"a block needs a channel for each of its {graph.dims} words; got in_channels={in_channels}, "
            f"out_channels={out_channels}: widen it, or take a smaller `dims`"
        )
    if out_channels % graph.dims and any(node.lateral_children for node in graph.nodes):
        raise ValueError(
            f"out_channels must be a multiple of dims where lateral links add neighbours; got {out_channels} channels "
            f"for {graph.dims} words: round the width, or set extra_node_hierarchy to 0"
        )
