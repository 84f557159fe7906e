"""The statistics against SciPy's and against values worked out by hand."""

import math

import pytest
from scipy import stats

from attnorm.evidence.statistics import (
    FEWEST_IMAGES,
    conclusion,
    describe,
    image_interval,
    joint_interval,
    paired_difference,
    smallest_tellable_difference,
    t_quantile,
    verdict,
    wilson_interval,
)

BN, AN = (91.0, 91.4, 91.2), (92.0, 92.3, 92.3)


def test_describe_by_hand():
    """91.0, 91.4, 91.2: mean 91.2, sd 0.2; t(0.975, 2) = 4.30265, so the half-width is 4.30265 * 0.2 / sqrt(3)."""
    sample = describe(BN)
    assert sample.mean == pytest.approx(91.2)
    assert sample.sd == pytest.approx(0.2)
    half = 4.302652729911275 * 0.2 / math.sqrt(3)
    assert sample.interval == pytest.approx((91.2 - half, 91.2 + half), rel=1e-12)


@pytest.mark.parametrize("n", [2, 3, 5, 30])
def test_t_quantile_is_scipys(n: int):
    assert t_quantile(n - 1) == pytest.approx(stats.t.ppf(0.975, n - 1), rel=1e-12)


@pytest.mark.parametrize("count", [2, 3, 8])
def test_paired_interval_is_scipys(count: int):
    ours = [90 + math.sin(k) for k in range(count)]
    theirs = [90 + math.cos(3 * k) for k in range(count)]
    expected = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    difference = paired_difference(ours, theirs)
    assert difference.interval == pytest.approx((expected.low, expected.high), rel=1e-9)
    assert difference.mean == pytest.approx(sum(ours) / count - sum(theirs) / count)
    assert difference.n == count


def test_pairing_takes_out_what_seeds_share():
    """Seeds that are good for both networks do not widen the interval of their difference."""
    baseline = [80.0, 90.0, 85.0]
    ours = [value + shift for value, shift in zip(baseline, (1.0, 1.1, 0.9), strict=True)]
    low, high = paired_difference(ours, baseline).interval or (0, 0)
    assert 0.7 < low < high < 1.3


def test_unequal_numbers_of_seeds_are_refused():
    with pytest.raises(ValueError, match="argument"):
        paired_difference([1.0, 2.0], [1.0])


def test_one_seed_has_no_interval_and_says_so():
    difference = paired_difference([92.0], [91.0])
    assert difference.interval is None
    assert difference.sd is None
    assert conclusion(difference, 10_000) == "not shown"
    assert "one seed" in verdict("an", "bn", difference, 10_000)
    assert "no difference shown" in verdict("an", "bn", difference, 10_000)


def test_equal_differences_are_not_taken_for_certainty():
    """Accuracies are counts, so three seeds may differ by the same number; an interval of no width would over-claim."""
    difference = paired_difference([92.0, 92.5, 91.0], [91.0, 91.5, 90.0])
    assert difference.sd == 0
    assert difference.interval is None
    assert conclusion(difference, 10_000) == "not shown"
    assert "spread is unknown" in verdict("an", "bn", difference, 10_000)


@pytest.mark.parametrize(("right", "images"), [(780, 797), (9_123, 10_000), (10_000, 10_000), (0, 50)])
def test_wilson_interval_is_scipys(right: int, images: int):
    expected = stats.binomtest(right, images).proportion_ci(0.95, method="wilson")
    assert wilson_interval(100 * right / images, images) == pytest.approx((100 * expected.low, 100 * expected.high))


def test_fewest_images_is_where_the_sign_test_turns_significant():
    """All images that only one network gets right speak for the same one: the most favourable case there is."""
    assert stats.binomtest(FEWEST_IMAGES, FEWEST_IMAGES, 0.5).pvalue < 0.05
    assert stats.binomtest(FEWEST_IMAGES - 1, FEWEST_IMAGES - 1, 0.5).pvalue > 0.05
    assert smallest_tellable_difference(797) == pytest.approx(100 * 6 / 797)


def test_conclusions():
    ahead, behind = paired_difference(AN, BN), paired_difference(BN, AN)
    assert conclusion(ahead, 10_000) == "ahead"
    assert conclusion(behind, 10_000) == "behind"
    assert conclusion(paired_difference((91.3, 91.1, 91.4), BN), 10_000) == "not shown"
    # 1 point of 100 images is one image: too few, however well the seeds agree.
    assert conclusion(ahead, 100) == "too few images"


def test_verdict_names_difference_interval_and_seeds():
    sentence = verdict("an", "bn", paired_difference(AN, BN), 10_000)
    assert (
        sentence
        == "an against bn: +1.00 points, 95% interval [+0.75, +1.25] over 3 seeds: ahead, for this data set and recipe."
    )
    sentence = verdict("se", "bn", paired_difference((91.3, 91.1, 91.4), BN), 10_000)
    assert sentence.endswith("no difference shown.")


def test_the_interval_over_images_by_hand():
    """98.5 and 1.5 of 202: difference 97/202, variance (100 - 97^2/202)/202^2, that is a deviation of 7.3090/202."""
    low, high = image_interval(98, 1, 200)
    assert (low + high) / 2 == pytest.approx(100 * 97 / 202)
    assert (high - low) / 2 == pytest.approx(100 * 1.959964 * 7.308953 / 202, rel=1e-5)
    assert image_interval(1, 98, 200) == pytest.approx((-high, -low))


def test_the_interval_over_images_covers_the_truth():
    """Drawn pairs of answers, 10% and 4% of them right by one network alone: 95 of 100 intervals hold 6 points."""
    draws = stats.multinomial(400, [0.10, 0.04, 0.86]).rvs(4000, random_state=0)
    intervals = [image_interval(int(b), int(c), 400) for b, c, _ in draws]
    assert 0.94 < sum(low <= 6 <= high for low, high in intervals) / len(intervals) < 0.965


def test_the_interval_for_all_comparisons_by_hand():
    """1.0, 0.9, 1.1 with 5 comparisons: t(1 - 0.025/5, 2) = t(0.995, 2) = 9.924843, times 0.1 / sqrt(3)."""
    difference = paired_difference(AN, BN)
    half = 9.92484320091807 * 0.1 / math.sqrt(3)
    assert joint_interval(difference, 5) == pytest.approx((1 - half, 1 + half), rel=1e-9)
    assert joint_interval(difference, 1) == pytest.approx(difference.interval)
    assert joint_interval(paired_difference([1.0], [0.0]), 5) is None
    assert joint_interval(paired_difference([1.0, 2.0], [0.0, 1.0]), 5) is None


def test_joint_intervals_hold_together():
    """Six networks without any difference, four seeds, one baseline: all six intervals hold 0 in 95% of the cases."""
    draws = stats.norm(90, 0.3).rvs((3000, 7, 4), random_state=0)
    alone = together = 0
    for baseline, *others in draws:
        differences = [paired_difference(list(values), list(baseline)) for values in others]
        alone += all(low <= 0 <= high for low, high in (d.interval or (0, 0) for d in differences))
        together += all(low <= 0 <= high for low, high in (joint_interval(d, 6) or (0, 0) for d in differences))
    assert together / len(draws) > 0.95
    assert alone / len(draws) < 0.85


def test_verdicts_of_several_networks():
    """Half-widths of 0.1 / sqrt(3) times t(0.9875, 2) = 6.2053 and, for 20 comparisons, t(0.99875, 2) = 19.9625."""
    sentence = verdict("an", "bn", paired_difference(AN, BN), 10_000, 2)
    assert sentence.endswith(
        ": ahead, for this data set and recipe; corrected for 2 comparisons [+0.64, +1.36]: still ahead."
    )
    sentence = verdict("an", "bn", paired_difference(AN, BN), 10_000, 20)
    assert sentence.endswith(
        "ahead, for this data set and recipe; corrected for 20 comparisons [-0.15, +2.15]: no difference shown."
    )
    assert "corrected" not in verdict("se", "bn", paired_difference((91.3, 91.1, 91.4), BN), 10_000, 20)
