"""What a few seeds and a finite test set allow one to say about a difference in accuracy, or in average precision.

All accuracies here are in percent, all differences in percentage points. An average precision (AP) is treated as an
accuracy is, apart from what rests on counting the images that are right.

Two sources of chance are kept apart:

- *Training*: the same network trained with another seed ends elsewhere. Networks are compared seed by seed (the same
  seed gives both the same order of the data), and the paired differences d_1 .. d_n get Student's t interval
  mean(d) +- t(0.975, n - 1) * sd(d) / sqrt(n), with sd the sample standard deviation (divisor n - 1).
  Where several networks are compared with one baseline, each interval misses the truth in one case of twenty, so that
  some will. Bonferroni's correction widens them until all m hold at once with 95%: the quantile is that of
  1 - 0.025 / m, whatever the differences have to do with each other (`joint_interval`).
- *Test images*: all runs are measured on the same images, so the interval above does not contain this part. For one
  accuracy p on m images it is the binomial's, given as Wilson's interval. For a difference it depends on how many
  images only one of the two networks gets right (McNemar's test; `image_interval`); when fewer than `FEWEST_IMAGES`
  images make up the whole difference, no pattern of agreement can make it significant.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

# The exact two-sided sign test (McNemar) on b images that all speak for the same network has p = 2 * 0.5**b: below
# 0.05 from b = 6 on.
FEWEST_IMAGES = 6
Z_95 = 1.959963984540054  # the normal distribution's 97.5% quantile


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Mean and spread of one network's accuracies over seeds.

    Attributes:
        n: number of seeds.
        mean: their mean, percent.
        sd: sample standard deviation (divisor n - 1); None for a single seed.
        interval: lower and upper end of the 95% t interval of the mean; None where there is no spread to judge by.
    """

    n: int
    mean: float
    sd: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True, kw_only=True)
class Difference(Sample):
    """Paired difference to the baseline, percentage points, over the seeds that both have.

    Attributes:
        why_no_interval: the reason where `interval` is None, else None.
    """

    why_no_interval: str | None


def t_quantile(degrees_of_freedom: int, probability: float = 0.975) -> float:
    """Student's t quantile, e.g. 4.303 for probability 0.975 and 2 degrees_of_freedom (3 seeds)."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees_of_freedom, probability))


def _mean_sd_interval(values: Sequence[float]) -> tuple[float, float | None, tuple[float, float] | None]:
    n = len(values)
    if n == 0:
        raise ValueError("statistics need at least one value, got none")
    mean = math.fsum(values) / n
    if n == 1:
        return mean, None, None
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    # Accuracies are counts of images: a spread below 1e-9 points is rounding, so no spread at all was seen.
    if sd < 1e-9:
        return mean, 0.0, None
    half = t_quantile(n - 1) * sd / math.sqrt(n)
    return mean, sd, (mean - half, mean + half)


def describe(values: Sequence[float]) -> Sample:
    """Mean, standard deviation and 95% t interval of the mean of `values` (one per seed)."""
    mean, sd, interval = _mean_sd_interval(values)
    return Sample(n=len(values), mean=mean, sd=sd, interval=interval)


def paired_difference(values: Sequence[float], baseline: Sequence[float]) -> Difference:
    """The difference `values` - `baseline`, paired by position, with its 95% t interval.

    Args:
        values: accuracies of the network, one per seed.
        baseline: accuracies of the network it is compared with, for the same seeds in the same order.
    """
    pairs = zip(values, baseline, strict=True)
    mean, sd, interval = _mean_sd_interval([a - b for a, b in pairs])
    why = None
    if sd is None:
        why = "one seed has no spread to judge by"
    elif interval is None:
        why = "all seeds gave the same difference, so their spread is unknown"
    return Difference(n=len(values), mean=mean, sd=sd, interval=interval, why_no_interval=why)


def joint_interval(difference: Difference, comparisons: int) -> tuple[float, float] | None:
    """The interval of one of several differences, so wide that all of them hold at once with 95% (Bonferroni).

    Args:
        difference: to the baseline that the others are compared with too.
        comparisons: number of those differences, this one included.

    Returns:
        None where the difference has no interval at all.
    """
    if difference.interval is None or difference.sd is None:
        return None
    quantile = t_quantile(difference.n - 1, 1 - 0.025 / comparisons)
    half = quantile * difference.sd / math.sqrt(difference.n)
    return difference.mean - half, difference.mean + half


def wilson_interval(percent: float, images: int) -> tuple[float, float]:
    """Wilson's 95% interval, in percent, of one accuracy measured on `images` test images."""
    p = percent / 100
    centre = p + Z_95**2 / (2 * images)
    half = Z_95 * math.sqrt(p * (1 - p) / images + Z_95**2 / (4 * images**2))
    scale = 100 / (1 + Z_95**2 / images)
    return (centre - half) * scale, (centre + half) * scale


def smallest_tellable_difference(images: int) -> float:
    """Points below which one pair of runs cannot differ significantly on `images` images (see `FEWEST_IMAGES`)."""
    return 100 * FEWEST_IMAGES / images


def image_interval(only_first: int, only_second: int, images: int) -> tuple[float, float]:
    """95% interval of the difference in accuracy of two trained networks, first minus second, on the same images.

    It is about these two networks and the choice of images, not about training them anew. Agresti and Min's form
    (Statistics in Medicine 24, 2005): Wald's interval for paired proportions after adding half an image to each of the
    four ways in which two networks can be right or wrong.

    Args:
        only_first: images that only the first network gets right.
        only_second: images that only the second one gets right.
        images: all images.
    """
    first, second, total = only_first + 0.5, only_second + 0.5, images + 2
    difference = (first - second) / total
    half = Z_95 * math.sqrt(first + second - (first - second) ** 2 / total) / total
    return 100 * (difference - half), 100 * (difference + half)


def conclusion(difference: Difference, images: int | None) -> str:
    """What the difference shows, without more than it shows: "ahead", "behind", "not shown" or "too few images".

    Args:
        difference: of two networks.
        images: that accuracies were counted on; None for numbers that are no share of the images, such as AP.
    """
    if difference.interval is None or difference.interval[0] <= 0 <= difference.interval[1]:
        return "not shown"
    if images is not None and abs(difference.mean) < smallest_tellable_difference(images):
        return "too few images"
    return "ahead" if difference.mean > 0 else "behind"


def verdict(
    name: str,
    baseline: str,
    difference: Difference,
    images: int | None,
    comparisons: int = 1,
) -> str:
    """One plain sentence about `name` against `baseline`.

    Args:
        name: of a network.
        baseline: of the one that it is compared with.
        difference: of the two.
        images: as in `conclusion`.
        comparisons: as in `joint_interval`.
    """
    start = f"{name} against {baseline}: {difference.mean:+.2f} points"
    if difference.interval is None:
        return f"{start}; no interval, as {difference.why_no_interval}: no difference shown."
    interval = "95% interval [{:+.2f}, {:+.2f}]".format(*difference.interval) + f" over {difference.n} seeds"
    concluded = conclusion(difference, images)
    ending = {
        "not shown": "no difference shown",
        "too few images": f"the seeds agree, but {images or 0:,} test images are too few to tell so small a difference",
        "ahead": "ahead, for this data set and recipe",
        "behind": "behind, for this data set and recipe",
    }[concluded]
    joint = joint_interval(difference, comparisons) if comparisons > 1 and concluded in ("ahead", "behind") else None
    if joint is not None:
        holds = conclusion(replace(difference, interval=joint), images) == concluded
        corrected = "corrected for {} comparisons [{:+.2f}, {:+.2f}]".format(comparisons, *joint)
        ending += f"; {corrected}: {f'still {concluded}' if holds else 'no difference shown'}"
    return f"{start}, {interval}: {ending}."
