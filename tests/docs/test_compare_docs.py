"""docs/compare.md: its ablations have the networks that it says, its quantiles are Student's."""

import re

import pytest
from scipy import stats

from attnorm.evidence.ablation import expand, parse_ablation
from attnorm.evidence.config import CompareConfig
from tests.docs.blocks import ROOT, blocks
from tests.docs.commands import settings_of

PAGE = (ROOT / "docs" / "compare.md").read_text(encoding="utf-8")
NETWORKS = {"num_components": 5, "gate": 4, "placement": 5, "norm": 8, "logit_norm": 4, "head": 7}


def test_ablations_have_the_networks_counted_by_hand():
    """The values, or their product, and those that stay as they are."""
    commands = [command for block in blocks("docs/compare.md") for command in block.commands]
    assert len(commands) == 9
    for _, *arguments in commands:
        config: CompareConfig = settings_of(arguments)
        if config.ablate is not None:
            option = config.ablate.partition("=")[0]
            networks = expand(config.model_names(), parse_ablation(config.ablate))
            assert len(networks) == NETWORKS[option], option


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
