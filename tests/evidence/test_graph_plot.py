"""The picture of an AOGNet's graphs shows every node and link, once."""

from xml.etree import ElementTree

import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Annotation
from PIL import Image

from attnorm.errors import ConfigError
from attnorm.evidence.graph_plot import draw_graphs, save_graphs
from attnorm.models.describe import build_for_description


def test_every_graph_is_drawn_once_with_all_nodes_and_links():
    """12M has three graphs for four stages; counts from the reference, 2.1."""
    figure = draw_graphs(build_for_description("aognet_12m_an"), "aognet_12m_an")
    assert [axis.get_title() for axis in figure.axes] == [
        "stages 0, 1: 2 words",
        "stage 2: 4 words",
        "stage 3: 4 words",
    ]
    for axis, nodes, halves, both_paths, one_path in zip(
        figure.axes, (7, 21, 21), (0, 6, 6), (0, 2, 2), (1, 4, 4), strict=True
    ):
        labels = [text.get_text() for text in axis.texts if not isinstance(text, Annotation)]
        assert sorted(label for label in labels if "/" not in label) == sorted(map(str, range(nodes)))
        assert labels.count("1/2") == halves
        arrows = [text.arrow_patch.get_linestyle() for text in axis.texts if isinstance(text, Annotation)]
        assert (arrows.count("--"), arrows.count(":")) == (both_paths, one_path)
        framed = [
            line
            for line in axis.lines
            if to_hex(line.get_markeredgecolor()) == "#010203" and line.get_marker() != "None"
        ]
        assert len(framed) == (3 if nodes == 7 else 4)  # AN


def test_files(tmp_path):
    model = build_for_description("aognet_1m_cifar")
    save_graphs(model, "aognet_1m_cifar", tmp_path / "graphs.svg")
    assert ElementTree.parse(tmp_path / "graphs.svg").getroot().tag.endswith("svg")
    save_graphs(model, "aognet_1m_cifar", tmp_path / "graphs.PNG")
    with Image.open(tmp_path / "graphs.PNG") as image:
        image.verify()
        assert image.format == "PNG"
        assert image.width > 500


def test_a_network_without_graphs_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="plot needs an AOGNet, such as aognet_12m_an; resnet8_cifar has no graph"):
        save_graphs(build_for_description("resnet8_cifar"), "resnet8_cifar", tmp_path / "graphs.png")
    assert list(tmp_path.iterdir()) == []
