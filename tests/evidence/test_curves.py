"""The band of a network's runs by hand, and what the picture has of it."""

from typing import Any

import numpy as np
import pytest
from matplotlib.collections import PolyCollection

from attnorm.evidence.curves import Band, band, learning_curves

from .conftest import made_up_result, made_up_run


def test_band_by_hand():
    """Over the epochs that both runs have: mean, lowest and highest."""
    curves = [[(1, 2.0), (2, 5.0), (3, 9.0)], [(1, 4.0), (2, 1.0)], [(1, 3.0), (2, 6.0), (3, 7.0)]]
    assert band(curves) == Band(epochs=[1, 2], mean=[3.0, 4.0], low=[2.0, 1.0], high=[4.0, 6.0])
    assert band([]) == Band([], [], [], [])


def test_a_few_networks_share_a_picture(result: dict[str, Any]):
    """Three networks of three seeds: nine thin lines, three bold ones, three bands, in each of two panels."""
    figure = learning_curves(result)
    assert len(figure.axes) == 2
    for axis in figure.axes:
        widths = [line.get_linewidth() for line in axis.lines]
        assert sorted(widths) == [0.7] * 9 + [2.0] * 3
        assert sum(isinstance(item, PolyCollection) for item in axis.collections) == 3
    means = [line for line in figure.axes[0].lines if line.get_linewidth() == 2.0]
    for line, values in zip(means, ((91.0, 91.4, 91.2), (91.3, 91.1, 91.4), (92.0, 92.3, 92.3)), strict=True):
        assert np.asarray(line.get_ydata())[1] == pytest.approx(np.mean(values))
    bands = [item for item in figure.axes[0].collections if isinstance(item, PolyCollection)]
    corners = bands[0].get_paths()[0].vertices
    assert {tuple(corner) for corner in np.asarray(corners)} >= {(2.0, 91.0), (2.0, 91.4), (1.0, 86.0), (1.0, 86.4)}


def test_many_networks_have_pictures_of_their_own():
    names = tuple(f"bn{k}" for k in range(12))
    result = made_up_result([made_up_run(name, seed, 90.0 + seed) for name in names for seed in (0, 1)], names)
    figure = learning_curves(result)
    assert len(figure.axes) == 2 + 2 * 11
    assert [line.get_linewidth() for line in figure.axes[0].lines] == [1.5] * 12, "the means alone"
    titles = [axis.get_title(loc="left") for axis in figure.axes[2::2]]
    assert titles == list(names[1:])
    # The baseline behind, two runs, their mean.
    assert [line.get_linewidth() for line in figure.axes[2].lines] == [1.0, 0.7, 0.7, 2.0]
