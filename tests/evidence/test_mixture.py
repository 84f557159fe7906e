"""Sums over batches: equal however images are batched, and to what numpy and scipy make of all weights at once."""

import math

import numpy as np
import pytest
from scipy import stats

from attnorm.evidence.inspect_plots import seriate
from attnorm.evidence.mixture import BINS, MixtureStatistics, Moments, effective_number
from attnorm.evidence.mixture_summary import QUANTILES, quantiles, shares, summarise

RANDOM = np.random.default_rng(7)
CLASSES, K, C, N = 5, 4, 6, 403
LABELS = RANDOM.integers(0, 4, N)  # no image of class 4
# Classes differ in the first two components; the third is the same for all; the fourth hardly moves.
WEIGHTS = np.clip(RANDOM.normal(0.5, 0.1, (N, K)) + np.outer(LABELS, [0.1, -0.05, 0, 0]), 0, 1)
WEIGHTS[:, 3] = 0.5 + 1e-5 * RANDOM.normal(size=N)
AFFINE = RANDOM.normal(1, 0.3, (K, C))


def statistics(parts: list[np.ndarray], labels: bool = True) -> MixtureStatistics:
    made = MixtureStatistics(K, C, CLASSES)
    for part in parts:
        made.add(WEIGHTS[part], AFFINE, LABELS[part] if labels else None)
    return made


def of_class(label: int) -> np.ndarray:
    return WEIGHTS[np.flatnonzero(label == LABELS)]


def batches(*ends: int) -> list[np.ndarray]:
    return np.split(np.arange(N), ends)


def test_batching_does_not_matter():
    whole = summarise(statistics([np.arange(N)]))
    for parts in (batches(1, 2, 100), batches(*range(7, N, 7)), [RANDOM.permutation(N)], batches(50, 50, 51)):
        assert flat(summarise(statistics(parts))) == pytest.approx(flat(whole), rel=1e-8)


def flat(value, name=""):
    """Every number of a nested structure, by its path; -1 for None."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {path: leaf for key, item in items for path, leaf in flat(item, f"{name}/{key}").items()}
    return {name: -1 if value is None else value}


def test_numbers_are_those_of_all_weights_kept():
    found = summarise(statistics(batches(64, 128, 192, 256, 320)))
    gammas = WEIGHTS @ AFFINE
    assert found["samples"] == N
    assert found["lambda_mean"] == pytest.approx(WEIGHTS.mean(), rel=1e-12)
    assert found["lambda_std_over_images"] == pytest.approx(WEIGHTS.std(0, ddof=1).mean(), rel=1e-12)
    assert found["gamma_mean"] == pytest.approx(gammas.mean(), rel=1e-12)
    relative = gammas.std(0, ddof=1).mean() / np.abs(gammas).mean()
    assert found["gamma_std_over_images_relative"] == pytest.approx(relative, rel=1e-10)
    for k, row in enumerate(found["per_component"]):
        assert row["mean"] == pytest.approx(WEIGHTS[:, k].mean(), rel=1e-12)
        # 1e-5 around 0.5: a sum of squares would have lost nine digits
        assert row["std"] == pytest.approx(WEIGHTS[:, k].std(ddof=1), rel=1e-9)
        assert (row["min"], row["max"]) == (WEIGHTS[:, k].min(), WEIGHTS[:, k].max())
    for label in range(4):
        assert found["class_means"][label] == pytest.approx(of_class(label).mean(0).tolist(), rel=1e-12)
    assert found["class_means"][4] is None
    eigenvalues = np.linalg.eigvalsh(np.cov(WEIGHTS.T))
    assert found["directions"] == pytest.approx(eigenvalues.sum() ** 2 / np.square(eigenvalues).sum(), rel=1e-9)


def test_analysis_of_variance():
    """Sums of squares by their definition, and F as scipy computes it."""
    found = summarise(statistics(batches(100, 200)))
    groups = [of_class(label) for label in range(4)]
    total = np.square(WEIGHTS - WEIGHTS.mean(0)).sum()
    within = sum(np.square(group - group.mean(0)).sum() for group in groups)
    eta = 1 - within / total
    assert 0.3 < eta < 0.9
    assert found["lambda_share_between_classes"] == pytest.approx(eta, rel=1e-9)
    # Mean squares: the within-class one is what the total one would be if classes meant nothing.
    assert found["share_adjusted"] == pytest.approx(1 - (within / (N - 4)) / (total / (N - 1)), rel=1e-9)
    assert found["share_by_chance"] == 3 / (N - 1)
    for k, row in enumerate(found["per_component"]):
        expected = stats.f_oneway(*(group[:, k] for group in groups)).statistic
        assert row["f"] == pytest.approx(expected, rel=1e-5)


def test_share_by_chance_is_what_shuffled_labels_have():
    """The mean over 400 permutations; adjusted, it is 0."""
    values = RANDOM.normal(size=(60, 3))
    labels = np.repeat(np.arange(6), 10)
    etas, adjusted = [], []
    for _ in range(400):
        moments = Moments(6, 3)
        moments.add(values, RANDOM.permutation(labels))
        found = shares(float(moments.between().sum()), float(moments.within().sum()), 6, 60)
        etas.append(found.share)
        adjusted.append(found.adjusted)
    assert shares(1.0, 1.0, 6, 60).by_chance == 5 / 59
    assert abs(np.mean(etas) - 5 / 59) < 4 * np.std(etas) / 20
    assert abs(np.mean(adjusted)) < 4 * np.std(adjusted) / 20


@pytest.mark.parametrize(
    ("between", "within", "classes", "count"), [(1.0, 1.0, 1, 9), (1.0, 1.0, 5, 5), (0.0, 0.0, 2, 9)]
)
def test_no_share_where_there_is_nothing_to_divide(between: float, within: float, classes: int, count: int):
    found = shares(between, within, classes, count)
    assert (found.share, found.adjusted, found.f) == (None, None, None)


def test_classes_that_explain_everything():
    found = shares(2.0, 0.0, 2, 9)
    assert (found.share, found.adjusted, found.f) == (1.0, 1.0, None)


def test_inputs_that_are_no_images_have_a_distribution_but_no_classes():
    kept = statistics([np.arange(0, 200)])
    kept.add(WEIGHTS[200:], AFFINE, None)  # also when it shows only later
    found = summarise(kept)
    assert not found["per_image"]
    assert found["class_means"] is found["lambda_share_between_classes"] is found["per_component"][0]["f"] is None
    assert found["lambda_std_over_images"] == pytest.approx(WEIGHTS.std(0, ddof=1).mean(), rel=1e-12)


@pytest.mark.parametrize(
    ("weights", "number"),
    [
        ([0.3] * 8, 8.0),
        ([0, 0, 0.9, 0], 1.0),
        ([0.4, 0.4, 0, 0], 2.0),
        ([0.5, 0.25, 0.25], 2 * math.sqrt(2)),  # entropy 1.5 bit
        ([0, 0, 0], 0.0),
    ],
)
def test_effective_number(weights: list[float], number: float):
    assert effective_number(np.array(weights, dtype=float)) == pytest.approx(number, rel=1e-12)


def test_used_components_of_the_mean_and_of_each_image():
    """Each image uses one of two components alone; both together use two."""
    kept = MixtureStatistics(3, 1, 1)
    one_hot = np.array([[0.8, 0, 0], [0, 0.8, 0]] * 10)
    kept.add(one_hot, np.ones((3, 1)), np.zeros(20, dtype=np.int64))
    found = summarise(kept)
    assert found["used_components"] == pytest.approx(2)
    assert found["used_components_per_image"] == pytest.approx(1)
    assert found["used_components_per_image_std"] == pytest.approx(0)
    assert found["directions"] == pytest.approx(1)  # what one gains the other loses


def test_planted_dead_components_are_found():
    weights = RANDOM.uniform(0.2, 0.8, (50, 6))
    weights[:, 1] = 0
    weights[:, 2] = RANDOM.uniform(0, 9e-4, 50)
    weights[:, 4] = 0.7
    weights[:, 5] = 0
    weights[17, 5] = 0.4  # off but for one image: alive
    kept = MixtureStatistics(6, 2, 1)
    for part in np.split(weights, 5):
        kept.add(part, np.ones((6, 2)), np.zeros(10, dtype=np.int64))
    found = summarise(kept)
    assert found["off"] == [1, 2]
    assert found["constant"] == [4]


def test_histogram_and_quantiles():
    """Counts as numpy's; quantiles as exact as the bins are wide, and never beyond the extremes."""
    kept = statistics(batches(100, 300))
    for k in range(K - 1):  # the last sits on an edge
        assert kept.histogram[k].tolist() == np.histogram(WEIGHTS[:, k], BINS, (0, 1))[0].tolist()
        found = quantiles(kept.histogram[k], kept.low[k], kept.high[k])
        assert found == pytest.approx(np.quantile(WEIGHTS[:, k], QUANTILES).tolist(), abs=1.5 / BINS)
    ends = MixtureStatistics(1, 1, 1)
    ends.add(np.array([[0.0], [1.0], [1.0], [1 + 1e-7]]), np.ones((1, 1)), np.zeros(4, dtype=np.int64))
    assert (ends.histogram[0, 0], ends.histogram[0, -1]) == (1, 3)
    assert max(quantiles(ends.histogram[0], 0.0, 1.0)) <= 1


def test_sorting_brings_blocks_together():
    """Two kinds of classes on two kinds of components, shuffled."""
    kinds, parts = RANDOM.permutation([0] * 5 + [1] * 4), RANDOM.permutation([0] * 3 + [1] * 6)
    values = np.where(kinds[:, None] == parts, 0.2, -0.2) + RANDOM.normal(0, 0.02, (9, 9))
    rows, columns = seriate(values - values.mean(0))
    for order, names in ((rows, kinds), (columns, parts)):
        assert sorted(order) == list(range(9))
        assert np.count_nonzero(np.diff(names[order])) == 1
    assert kinds[rows[0]] == parts[columns[0]]  # what goes together is at the same end
