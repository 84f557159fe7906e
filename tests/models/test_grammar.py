"""The grammar's graphs are those that the released networks were built from, id by id."""

import json
import re

import pytest

from attnorm.models.grammar import Graph, build_graph
from tests.shared import shared_file

# Typed from the reference, 2.1: id, kind, interval, cut, phrase children with their scales, lateral child, parents and
# number of paths. A star marks a lateral child that the residual path leaves out.
D2 = """
0 OR  0-1 - 1,2     -  -   1
1 T   0-1 - -       -  0   1
2 AND 0-1 1 3,4     -  0   1
3 OR  0-0 - 5       -  2,4 1
4 OR  1-1 - 6       3* 2   1
5 T   0-0 - -       -  3   1
6 T   1-1 - -       -  4   1
"""
D4_KEEP_LEFT = """
0  OR  0-3 - 1,2,3       -   -        1
1  T   0-3 - -           -   0        1
2  AND 0-3 1 4(1/2),5    -   0,3      1
3  AND 0-3 2 6,7(1/2)    2*  0        1
4  OR  0-0 - 8           -   2,12,15  2
5  OR  1-3 - 9,10        -   2        1
6  OR  0-1 - 11,12       -   3,7      1
7  OR  2-3 - 13,14       6*  3,10     2
8  T   0-0 - -           -   4        2
9  T   1-3 - -           -   5        1
10 AND 1-3 1 7(1/2),15(1/2) - 5       1
11 T   0-1 - -           -   6        1
12 AND 0-1 1 4(1/2),15(1/2) 14 6      1
13 T   2-3 - -           -   7        2
14 AND 2-3 1 16,17       -   7,12     2
15 OR  1-1 - 18          4*  10,12,16 2
16 OR  2-2 - 19          15  14,17    2
17 OR  3-3 - 20          16* 14       2
18 T   1-1 - -           -   15       2
19 T   2-2 - -           -   16       2
20 T   3-3 - -           -   17       2
"""
D4_KEEP_RIGHT = """
0  OR  0-3 - 1,2,3       -   -        1
1  T   0-3 - -           -   0        1
2  AND 0-3 3 4,5(1/2)    3*  0        1
3  AND 0-3 2 6(1/2),7    -   0,2      1
4  OR  0-2 - 8,9         -   2        1
5  OR  3-3 - 10          15* 2,14     2
6  OR  0-1 - 11,12       -   3,7,9    2
7  OR  2-3 - 13,14       6*  3        1
8  T   0-2 - -           -   4        1
9  AND 0-2 2 6(1/2),15(1/2) - 4       1
10 T   3-3 - -           -   5        2
11 T   0-1 - -           -   6        2
12 AND 0-1 1 16,17       14  6        2
13 T   2-3 - -           -   7        1
14 AND 2-3 1 5(1/2),15(1/2) - 7,12    1
15 OR  2-2 - 18          17  5,9,14   2
16 OR  0-0 - 19          -   12,17    2
17 OR  1-1 - 20          16* 12,15    2
18 T   2-2 - -           -   15       2
19 T   0-0 - -           -   16       2
20 T   1-1 - -           -   17       2
"""
ORDERS = {
    (2, 1): ("1 5 3 6 4 2 0", "0 1 2 4 6 3 5"),
    (2, 2): ("1 5 3 6 4 2 0", "0 1 2 4 6 3 5"),
    (4, 1): (
        "1 8 4 9 13 19 18 15 16 20 17 14 11 12 6 7 10 5 2 3 0",
        "0 1 3 2 5 9 10 7 13 6 11 12 14 17 20 16 19 15 18 4 8",
    ),
    (4, 2): (
        "1 8 11 19 16 20 17 10 18 15 5 14 12 6 9 4 13 7 3 2 0",
        "0 1 2 4 3 8 9 7 13 6 11 12 14 5 10 15 18 17 20 16 19",
    ),
}


def table(graph: Graph) -> list[list[str]]:
    """The graph in the form of the tables above."""
    rows: list[list[str]] = []
    for node in graph.nodes:
        phrase = [
            f"{child}" if scale == 1 else f"{child}({scale})"
            for child, scale in zip(node.phrase_children, graph.residual_scales(node), strict=True)
        ]
        lateral = [
            f"{child}" if included else f"{child}*"
            for child, included in zip(node.lateral_children, graph.lateral_in_residual(node), strict=True)
        ]
        parents = [str(parent) for parent in sorted(graph.parents[node.id])]
        rows.append(
            [
                str(node.id),
                {"TERMINAL": "T"}.get(node.kind, node.kind),
                "{}-{}".format(*node.interval),
                str(node.split or "-"),
                *(",".join(links) or "-" for links in (phrase, lateral, parents)),
                str(graph.num_paths[node.id]),
            ]
        )
    return rows


@pytest.mark.parametrize(
    ("dims", "prune", "expected"), [(2, 1, D2), (2, 2, D2), (4, 1, D4_KEEP_LEFT), (4, 2, D4_KEEP_RIGHT)]
)
def test_the_graphs_of_the_released_networks(dims, prune, expected):
    """Among them the two ANDs whose right part comes first: 10 when keeping left cuts, 14 when keeping right ones."""
    graph = build_graph(dims, prune)
    assert table(graph) == [line.split() for line in expected.strip().splitlines()]
    assert (" ".join(map(str, graph.dfs)), " ".join(map(str, graph.bfs))) == ORDERS[dims, prune]


@pytest.mark.parametrize(
    ("dims", "prune", "node", "children"),
    [
        (4, 1, 10, (7, 15)),  # 15, 7: both at 7; 7 goes on to 5 * 7 + 1 = 36, slot 4
        (5, 0, 17, (11, 35)),  # 35, 11: both at 3; 11 goes on to 5 * 3 + 1 = 16, slot 0
        (8, 0, 48, (81, 9)),  # 9, 81: both at 1; 81 goes on to 5 * 1 + 1 + 81 // 32 = 8, slot 0
    ],
)
def test_children_whose_slots_collide(dims, prune, node, children):
    """The order of concatenation where both ids have the same remainder by eight; reference 1.4, probed by hand."""
    assert build_graph(dims, prune).nodes[node].phrase_children == children


@pytest.mark.parametrize("dims", [1, 3, 6, 11])
def test_sizes_without_pruning(dims):
    """Every interval has an OR and a TERMINAL; an interval of w words can be cut in w - 1 ways."""
    graph = build_graph(dims, extra_node_hierarchy=0)
    counts = {kind: sum(node.kind == kind for node in graph.nodes) for kind in ("OR", "TERMINAL", "AND")}
    assert counts == {
        "OR": dims * (dims + 1) // 2,
        "TERMINAL": dims * (dims + 1) // 2,
        "AND": (dims - 1) * dims * (dims + 1) // 6,
    }
    assert not any(node.lateral_children for node in graph.nodes)


@pytest.mark.parametrize("dims", [1, 2, 3, 4, 5, 7, 8, 12, 18])
@pytest.mark.parametrize("prune", [0, 1, 2])
@pytest.mark.parametrize("hierarchy", [0, 4])
def test_what_holds_for_every_graph(dims, prune, hierarchy):
    """No node before its children, none left out, no more on the residual path than there is to share."""
    graph = build_graph(dims, prune, hierarchy)
    assert sorted(graph.dfs) == sorted(graph.bfs) == list(range(len(graph.nodes)))
    place = {node: i for i, node in enumerate(graph.dfs)}
    for node in graph.nodes:
        assert all(place[child] < place[node.id] for child in node.children)
        assert len(node.lateral_children) <= 1
        spans = [graph.nodes[child].interval for child in node.phrase_children]
        if node.kind == "AND":
            first, last = node.interval
            assert sorted(spans) == [(first, first + node.split - 1), (first + node.split, last)]
        else:
            assert set(spans) <= {node.interval}
            assert set(graph.residual_scales(node)) <= {1}
        assert all(0 < scale <= 1 for scale in graph.residual_scales(node))
        assert all(graph.nodes[child].width == node.width for child in node.lateral_children)
        # What the parents take of a node adds up to one whole.
        takers = [graph.nodes[parent] for parent in graph.parents[node.id]]
        shares = [
            scale
            for parent in takers
            for child, scale in zip(parent.phrase_children, graph.residual_scales(parent), strict=True)
            if child == node.id
        ]
        assert node.id == 0 or sum(shares) == 1


def test_every_reference_graph():
    """All files that the original construction wrote, except the hierarchy that is refused."""
    folder = shared_file("reference/aog_graphs")
    if not folder.is_dir():
        pytest.skip("the reference graphs are not on this machine")
    files = [path for path in sorted(folder.glob("*.json")) if "_h6_" not in path.name]
    assert len(files) == 19
    for path in files:
        expected = json.loads(path.read_text())
        graph = build_graph(expected["dims"], expected["prune"], expected["extra_node_hierarchy"])
        assert list(graph.dfs) == expected["dfs"], path.name
        assert list(graph.bfs) == expected["bfs"], path.name
        for node, facts in zip(graph.nodes, expected["nodes"], strict=True):
            found = {
                "id": node.id,
                "type": node.kind,
                "interval": list(node.interval),
                "split": node.split,
                "children": list(node.children),
                "parents": sorted(graph.parents[node.id]),
                "npaths": graph.num_paths[node.id],
            }
            if node.kind != "TERMINAL":
                found |= {
                    "phrase_children": list(node.phrase_children),
                    "lateral_children": list(node.lateral_children),
                    "residual_scale": [str(scale) for scale in graph.residual_scales(node)],
                    "lateral_in_residual": list(graph.lateral_in_residual(node)),
                }
            assert found == facts, path.name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dims": 0}, "dims must be 1 to 18; got 0"),
        ({"dims": 19}, "dims must be 1 to 18; got 19"),
        ({"dims": 4, "prune": 3}, "prune must be 0, 1 or 2; got 3"),
        ({"dims": 4, "extra_node_hierarchy": 6}, "extra_node_hierarchy must be 0 (no lateral links) or 4; got 6"),
        ({"dims": 4, "max_split": 3}, "max_split must be 2; got 3"),
    ],
)
def test_what_is_not_supported_is_refused(arguments, message):
    """Hierarchies 1 to 3, 5 and 6 and larger splits occur in no released network."""
    with pytest.raises(ValueError, match=re.escape(message)):
        build_graph(**arguments)
