"""docs/compare.md: its commands are understood, their networks can be built, its quantiles are Student's."""

import re
from pathlib import Path

import pytest
from scipy import stats

from attnorm.evidence.ablation import expand, parse_ablation
from attnorm.evidence.config import CompareConfig, check_compare
from attnorm.options import parse_settings
from tests.test_detection_docs import commands

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "compare.md").read_text(encoding="utf-8")
NETWORKS = {"num_components": 5, "gate": 4, "placement": 5, "norm": 8, "logit_norm": 4, "head": 7}


@pytest.mark.parametrize("arguments", commands(PAGE), ids=" ".join)
def test_commands_are_understood(arguments: list[str], monkeypatch: pytest.MonkeyPatch):
    """The number of networks is counted by hand: the values, or their product, and those that stay as they are."""
    monkeypatch.chdir(ROOT)
    assert arguments[0] == "compare"
    config = parse_settings(CompareConfig, arguments[1:], command="attnorm compare", recipe=True)
    check_compare(config)
    if config.ablate is not None:
        option = config.ablate.partition("=")[0]
        networks = expand(config.model_names(), parse_ablation(config.ablate))
        assert len(networks) == NETWORKS[option]


def test_there_are_commands():
    assert len(commands(PAGE)) == 9


def test_the_table_of_quantiles():
    rows = re.findall(r"^\| (\d+) \|((?: [\d.]+ \|){4})$", PAGE, re.MULTILINE)
    assert [int(seeds) for seeds, _ in rows] == [3, 5, 10]
    for seeds, cells in rows:
        for comparisons, cell in zip((1, 2, 5, 11), cells.split("|"), strict=False):
            assert float(cell) == pytest.approx(stats.t.ppf(1 - 0.025 / comparisons, int(seeds) - 1), abs=0.006)


def test_how_often_twelve_equal_networks_seem_different():
    """The page says in more than a third of all comparisons: drawn, with five seeds and one baseline."""
    values = stats.norm(90, 0.3).rvs((20_000, 13, 5), random_state=0)
    differences = values[:, 1:] - values[:, :1]
    half = stats.t.ppf(0.975, 4) * differences.std(axis=-1, ddof=1) / 5**0.5
    assert 1 / 3 < (abs(differences.mean(axis=-1)) > half).any(axis=1).mean() < 0.4
