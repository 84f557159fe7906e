"""From the sums of a layer's mixture weights to the numbers that are shown, and what each of them means."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from attnorm.evidence.mixture import BINS, Array, MixtureStatistics, Moments, effective_number

DEAD = 1e-3  # a weight that is never above it is off; one that varies by no more in all is constant
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

DEFINITIONS = {
    "lambda": "the K mixture weights that a layer gives to one image, each from 0 to 1; gamma = lambda @ weight is the "
    "scale that the image's channels get.",
    "sd": "standard deviation over images (n - 1 in the denominator), the mean of the K components'.",
    "quantiles": f"read from a histogram of {BINS} bins over [0, 1], so exact to 1/{BINS}.",
    "share between classes": "eta squared of a one-way analysis of variance, all K components together: sum over "
    "images of |mean of its class - mean of all|^2, divided by the sum of |lambda - mean of all|^2. 0: the weights "
    "know nothing of the classes; 1: all images of a class have the same weights.",
    "by chance": "the share that k classes drawn at random would have between them on average: (k - 1) / (n - 1).",
    "adjusted share": "epsilon squared, 1 - (1 - eta squared) (n - 1) / (n - k): 0 on average where the classes "
    "mean nothing, at most 1; it may fall below 0.",
    "used components": "exp of the entropy of the K mean weights, divided by their sum: K if all weigh the same, 1 if "
    "one weighs all. Per image: the same of each image's own weights, then the mean over images. With the gates "
    "hard_sigmoid and sigmoid all components may be on at once, so near K is ordinary; with "
    "softmax it says how many are chosen.",
    "directions": "in how many directions lambda varies from image to image: (sum of v)^2 / sum of v^2 over the "
    "eigenvalues v of the components' covariance. 1: all components move in step, one mixture and a dimmer; "
    "K: independently and equally.",
    "dead": f"components that cannot tell images apart: off, with no weight above {DEAD:g} in any image, or constant, "
    f"with less than {DEAD:g} between the largest and the smallest weight.",
    "gamma varies by": "standard deviation of gamma over images, the mean of the C channels', divided by the mean of "
    "|gamma|. A layer where it is 0 is an ordinary norm with a detour.",
}


@dataclass(frozen=True)
class Shares:
    """How much of the variance lies between classes; see DEFINITIONS. None where there is nothing to divide.

    Attributes:
        share: eta squared.
        adjusted: epsilon squared.
        by_chance: (k - 1) / (n - 1).
        f: mean square between classes over mean square within.
    """

    share: float | None = None
    adjusted: float | None = None
    by_chance: float | None = None
    f: float | None = None


def shares(between: float, within: float, classes: int, count: int) -> Shares:
    """Analysis of variance from its sums of squares.

    Args:
        between: sum of squares between classes.
        within: sum of squares within classes.
        classes: k, those that have images.
        count: n, of images.
    """
    if classes < 2 or count <= classes:
        return Shares()
    by_chance = (classes - 1) / (count - 1)
    if between + within <= 0:
        return Shares(by_chance=by_chance)
    eta = between / (between + within)
    f = (between / (classes - 1)) / (within / (count - classes)) if within > 0 else None
    return Shares(eta, 1 - (1 - eta) * (count - 1) / (count - classes), by_chance, f)


def quantiles(histogram: Array, low: float, high: float) -> list[float]:
    """QUANTILES of one component, from its counts (BINS,) and its extreme values; linear within a bin."""
    heights = np.concatenate([[0.0], np.cumsum(histogram)])
    edges = np.arange(len(histogram) + 1) / len(histogram)
    found = np.interp(np.array(QUANTILES) * heights[-1], heights, edges)
    return np.clip(found, low, high).tolist()


def summarise(statistics: MixtureStatistics) -> dict[str, Any]:
    """The numbers of one layer that has seen at least two inputs.

    Returns:
        What `attnorm inspect` writes of a layer, without its name; components and classes are in their own order, and
        what is not defined is None. `class_means` (classes, K) is None where inputs are not images, a row of it where a
        class has none.
    """
    count, mean, squares = statistics.weights.total()
    std = np.sqrt(squares / (count - 1))
    _, gamma, gamma_squares = statistics.gammas.total()
    size = statistics.gamma_size / (count * len(gamma))
    gamma_std = float(np.sqrt(gamma_squares / (count - 1)).mean())
    off = np.flatnonzero(statistics.high <= DEAD)
    constant = np.setdiff1d(np.flatnonzero(statistics.high - statistics.low <= DEAD), off)
    used = statistics.used.total()
    together = _shares_of_all(statistics.weights) if statistics.per_image else Shares()
    return {
        "per_image": statistics.per_image,
        "samples": count,
        "lambda_mean": float(mean.mean()),
        "lambda_std_over_images": float(std.mean()),
        "lambda_quantiles": quantiles(statistics.histogram.sum(0), statistics.low.min(), statistics.high.max()),
        "lambda_share_between_classes": together.share,
        "share_adjusted": together.adjusted,
        "share_by_chance": together.by_chance,
        "used_components": float(effective_number(mean)),
        "used_components_per_image": float(used[1][0]),
        "used_components_per_image_std": float(np.sqrt(used[2][0] / (count - 1))),
        "directions": _directions(statistics.together.products),
        "off": off.tolist(),
        "constant": constant.tolist(),
        "gamma_mean": float(gamma.mean()),
        "gamma_std_over_images_relative": gamma_std / size if size > 0 else None,
        "per_component": _components(statistics, mean, std),
        "class_means": _class_means(statistics.weights) if statistics.per_image else None,
        "histogram": statistics.histogram.tolist(),
    }


def _shares_of_all(moments: Moments) -> Shares:
    """All components together."""
    classes = int((moments.count > 0).sum())
    between, within = float(moments.between().sum()), float(moments.within().sum())
    return shares(between, within, classes, int(moments.count.sum()))


def _components(statistics: MixtureStatistics, mean: Array, std: Array) -> list[dict[str, Any]]:
    moments = statistics.weights
    between, within = moments.between(), moments.within()
    classes, count = int((moments.count > 0).sum()), int(moments.count.sum())
    rows: list[dict[str, Any]] = []
    for k in range(len(mean)):
        own = shares(between[k], within[k], classes, count) if statistics.per_image else Shares()
        low, high = float(statistics.low[k]), float(statistics.high[k])
        rows.append(
            {
                "mean": float(mean[k]),
                "std": float(std[k]),
                "min": low,
                "max": high,
                "quantiles": quantiles(statistics.histogram[k], low, high),
                "share_between_classes": own.share,
                "share_adjusted": own.adjusted,
                "f": own.f,
            }
        )
    return rows


def _class_means(moments: Moments) -> list[list[float] | None]:
    return [mean.tolist() if n else None for mean, n in zip(moments.mean, moments.count, strict=True)]


def _directions(products: Array) -> float | None:
    """(trace)^2 / trace of the square, without the eigenvalues themselves; None where nothing varies."""
    norm = float(np.square(products).sum())
    return float(np.trace(products)) ** 2 / norm if norm > 0 else None
