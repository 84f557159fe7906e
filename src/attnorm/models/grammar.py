"""The AND-OR grammar of AOGNet: every way to compose an interval of words, as one graph with shared parts.

A sentence of D words stands for D slices of a block's channels. Three kinds of nodes describe an interval [l, r]:

    TERMINAL  looks at the interval's own words                         [██··]
    OR        offers alternatives: the TERMINAL of its interval,        [██··]  =  TERMINAL | AND | AND | ...
              and one AND for each way to cut the interval in two
    AND       composes: the OR of the left part with that of the right  [█···] + [·█··]

A link leads from a node (the parent) to the nodes whose outputs it takes (its children). Those are *phrase* links.
*Lateral* links chain neighbours of one kind and width. Equal ORs, and equal TERMINALs, are one node, so the graph is
no tree: a word can reach the root on several paths. `num_paths` counts them; AOGNet divides by them where a part
would be counted twice.

The ids, the order of children and the direction of lateral links are those of the released networks, whose weights
depend on them. Source: X. Li, X. Song, T. Wu, "AOGNets: Compositional Grammatical Architectures for Deep Learning",
CVPR 2019, arXiv 1711.05847. Standard library only.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache, cached_property
from itertools import pairwise
from typing import Literal

Kind = Literal["OR", "AND", "TERMINAL"]
Interval = tuple[int, int]

ROOT = 0
_LARGEST_DIMS = 18  # up to here the released order of an OR node's children follows from the rule below


@dataclass(frozen=True)
class Node:
    """One node of the graph.

    Args:
        id: Number in the order of creation; the root is 0.
        kind: "OR", "AND" or "TERMINAL".
        interval: First and last word, both included.
        split: Number of words in the left part of an AND; None for the others.
        phrase_children: Ids, in the order in which an AND concatenates their outputs: not always left to right.
        lateral_children: Id of the neighbour whose output is added; empty for most.
    """

    id: int
    kind: Kind
    interval: Interval
    split: int | None = None
    phrase_children: tuple[int, ...] = ()
    lateral_children: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        """Number of words."""
        return self.interval[1] - self.interval[0] + 1

    @property
    def children(self) -> tuple[int, ...]:
        """All children, the lateral ones last."""
        return self.phrase_children + self.lateral_children


@dataclass(frozen=True)
class Graph:
    """The graph of a sentence of `dims` words; see :func:`build_graph`."""

    dims: int
    nodes: tuple[Node, ...]

    @cached_property
    def parents(self) -> tuple[frozenset[int], ...]:
        """For every node, who takes its output, through phrase and lateral links alike."""
        parents: list[set[int]] = [set() for _ in self.nodes]
        for node in self.nodes:
            for child in node.children:
                parents[child].add(node.id)
        return tuple(map(frozenset, parents))

    @cached_property
    def dfs(self) -> tuple[int, ...]:
        """Ids in an order of evaluation, children before parents: depth first from the root."""
        order: dict[int, None] = {}

        def visit(node: int) -> None:
            if node not in order:
                for child in self.nodes[node].children:
                    visit(child)
                order[node] = None

        visit(ROOT)
        return tuple(order)

    @cached_property
    def bfs(self) -> tuple[int, ...]:
        """Ids from the root down, level by level, parents before children."""
        waiting = [len(parents) for parents in self.parents]
        order = [ROOT]
        for node in order:  # grows as it is read
            for child in self.nodes[node].children:
                waiting[child] -= 1
                if waiting[child] == 0:
                    order.append(child)
        return tuple(order)

    @cached_property
    def num_paths(self) -> tuple[int, ...]:
        """For every node, the number of ways from the root down to it along phrase links."""
        paths = [int(node.id == ROOT) for node in self.nodes]
        for node in self.bfs:
            for child in self.nodes[node].phrase_children:
                paths[child] += paths[node]
        return tuple(paths)

    def residual_scales(self, node: Node) -> tuple[Fraction, ...]:
        """What each phrase child counts on the residual path: the share of its ways to the root that use this node."""
        return tuple(Fraction(self.num_paths[node.id], self.num_paths[child]) for child in node.phrase_children)

    def lateral_in_residual(self, node: Node) -> tuple[bool, ...]:
        """For each lateral child, whether the residual path takes it too.

        It does not where node and child have a parent in common, which the child then reaches by itself.
        """
        return tuple(self.parents[node.id].isdisjoint(self.parents[child]) for child in node.lateral_children)

    @property
    def whole(self) -> tuple[Node, ...]:
        """The nodes that span the whole sentence."""
        return tuple(node for node in self.nodes if node.width == self.dims)


@cache
def build_graph(dims: int, prune: int = 0, extra_node_hierarchy: int = 4, max_split: int = 2) -> Graph:
    """Build the AND-OR graph of a sentence, breadth first from the root.

    Args:
        dims: D, the number of words, 1 to 18.
        prune: Of two cuts that mirror each other, 0 keeps both, 1 the one with the smaller left part, 2 the other.
        extra_node_hierarchy: 4 adds lateral links, 0 does not.
        max_split: Parts of an AND.

    Raises:
        ValueError: For values that no released network uses and whose meaning differs between the releases.
    """
    _check("dims", dims, range(1, _LARGEST_DIMS + 1), f"1 to {_LARGEST_DIMS}")
    _check("prune", prune, (0, 1, 2), "0, 1 or 2")
    _check("extra_node_hierarchy", extra_node_hierarchy, (0, 4), "0 (no lateral links) or 4")
    _check("max_split", max_split, (2,), "2")
    nodes = _phrase_nodes(dims, prune)
    if extra_node_hierarchy == 4:
        for receiver, giver in _lateral_links(nodes):
            nodes[receiver] = replace(nodes[receiver], lateral_children=(giver,))
    return Graph(dims, tuple(nodes))


def _check(name: str, value: int, supported: Sequence[int], shown: str) -> None:
    if value not in supported:
        raise ValueError(f"{name} must be {shown}; got {value!r}: other grammars of AOGNet are not supported")


def _phrase_nodes(dims: int, prune: int) -> list[Node]:
    """All nodes, with their phrase children, in the order of creation."""
    nodes: list[Node] = []
    known: dict[tuple[Kind, Interval, int | None], int] = {}
    queue: deque[int] = deque()

    def ask(kind: Kind, interval: Interval, split: int | None = None) -> int:
        """The id of the node, which is created, and queued to get its children, unless it exists."""
        key = (kind, interval, split)
        if key not in known:
            known[key] = len(nodes)
            nodes.append(Node(known[key], kind, interval, split))
            if kind != "TERMINAL":
                queue.append(known[key])
        return known[key]

    ask("OR", (0, dims - 1))
    while queue:
        node = nodes[queue.popleft()]
        left, right = node.interval
        if node.split is None:
            children = [ask("TERMINAL", node.interval)]
            children += [ask("AND", node.interval, split) for split in _cuts(node.width, prune)]
        else:
            middle = left + node.split
            children = [ask("OR", (left, middle - 1)), ask("OR", (middle, right))]
        nodes[node.id] = replace(node, phrase_children=_released_order(children))
    return nodes


def _cuts(width: int, prune: int) -> list[int]:
    """Sizes of the left part, in the order in which the ANDs are created; a cut in the middle is its own mirror."""
    if prune == 1:
        return [split for split in range(1, width) if split <= width - split]
    if prune == 2:
        return [split for split in range(width - 1, 0, -1) if split >= width - split]
    return list(range(1, width))


def _released_order(children: Sequence[int]) -> tuple[int, ...]:
    """The children, given in order of creation, as the released networks list them: by slots of a hash table.

    Up to four share a ring of eight slots, each at id mod 8 or where probing leads from there. More than four, which
    only ORs have, are consecutive ids and never collide among 32 slots.
    """
    if len(children) > 4:
        return tuple(sorted(children, key=lambda child: child % 32))
    ring: dict[int, int] = {}
    for child in children:
        slot, rest = child % 8, child
        while slot in ring:
            rest //= 32
            slot = (5 * slot + 1 + rest) % 8
        ring[slot] = child
    return tuple(ring[slot] for slot in sorted(ring))


def _lateral_links(nodes: Sequence[Node]) -> list[tuple[int, int]]:
    """Pairs (receiver, giver) of neighbours: ANDs, then ORs, width by width from the narrowest.

    An AND receives the next in its row, an OR the one before; a width with a single node turns the direction of the
    width that follows.
    """
    links: list[tuple[int, int]] = []
    for kind in ("AND", "OR"):
        turned = False
        for width in sorted({node.width for node in nodes if node.kind == kind}):
            row = sorted((n for n in nodes if n.kind == kind and n.width == width), key=_place_in_row)
            from_next = (kind == "AND") != turned
            links += [(a.id, b.id) if from_next else (b.id, a.id) for a, b in pairwise(row)]
            turned = len(row) < 2
    return links


def _place_in_row(node: Node) -> tuple[int, int]:
    """By the end of an AND's left part, then by the first word; `split` is None in a row of ORs."""
    first = node.interval[0]
    return (first + (node.split or 0), first)
