"""The mixture weights of one AN layer over a data set, as sums: however many images, the memory stays the same.

    layers x (classes x K + K^2 + K x BINS + C) numbers, in float64

Batches are merged by the formulas of Chan, Golub and LeVeque ("Algorithms for computing the sample variance", 1983),
which keep their digits where a sum of squares would lose them: how the images were batched does not matter.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
BINS = 100  # of the histograms, over [0, 1]: where every gate's weights are


class Moments:
    """Counts, means and sums of squared deviations of D quantities in G groups.

    Attributes:
        count: values seen, (G,).
        mean: (G, D); 0 in a group without values.
        squares: sum over the values of (value - mean)^2, (G, D).
    """

    def __init__(self, groups: int, quantities: int) -> None:
        self.count = np.zeros(groups, dtype=np.int64)
        self.mean: Array = np.zeros((groups, quantities))
        self.squares: Array = np.zeros((groups, quantities))

    def add(self, values: Array, groups: NDArray[np.int64]) -> None:
        """Takes values (n, D) of the groups (n,)."""
        for group in np.unique(groups):
            chosen = values[groups == group]
            mean = chosen.mean(0)
            old, new = int(self.count[group]), len(chosen)
            step = mean - self.mean[group]
            self.mean[group] += step * (new / (old + new))
            self.squares[group] += np.square(chosen - mean).sum(0) + step**2 * (old * new / (old + new))
            self.count[group] = old + new

    def total(self) -> tuple[int, Array, Array]:
        """All groups together: how many values, mean (D,) and sum of squared deviations (D,)."""
        return int(self.count.sum()), self.overall_mean(), self.between() + self.within()

    def overall_mean(self) -> Array:
        """Mean of all values, (D,)."""
        shares = self.count / max(int(self.count.sum()), 1)
        return shares @ self.mean

    def between(self) -> Array:
        """Sum over the values of (mean of its group - mean of all)^2, (D,)."""
        return self.count.astype(np.float64) @ np.square(self.mean - self.overall_mean())

    def within(self) -> Array:
        """Sum over the values of (value - mean of its group)^2, (D,)."""
        return self.squares.sum(0)


class CoMoments:
    """How D quantities vary together: `products`, the sum over the values of deviation_i * deviation_j, (D, D)."""

    def __init__(self, quantities: int) -> None:
        self.count = 0
        self.mean: Array = np.zeros(quantities)
        self.products: Array = np.zeros((quantities, quantities))

    def add(self, values: Array) -> None:
        """Takes values (n, D), n at least 1."""
        mean = values.mean(0)
        centred, step = values - mean, mean - self.mean
        total = self.count + len(values)
        self.products += centred.T @ centred + np.outer(step, step) * (self.count * len(values) / total)
        self.mean += step * (len(values) / total)
        self.count = total


class MixtureStatistics:
    """What is kept of one layer.

    Args:
        components: K.
        channels: C.
        classes: of the images.

    Attributes:
        per_image: whether every input so far was one image, with its class; otherwise classes mean nothing here.
        weights: of lambda, by class.
        together: of lambda's components with each other.
        gammas: of gamma = lambda @ weight, in one group.
        gamma_size: sum of |gamma| over inputs and channels.
        used: effective number of components, of each input by itself, in one group.
        histogram: how many weights are in each bin, (K, BINS).
        low: smallest weight of each component, (K,); `high` likewise the largest.
    """

    def __init__(self, components: int, channels: int, classes: int) -> None:
        self.per_image = True
        self.weights = Moments(classes, components)
        self.together = CoMoments(components)
        self.gammas = Moments(1, channels)
        self.gamma_size = 0.0
        self.used = Moments(1, 1)
        self.histogram = np.zeros((components, BINS), dtype=np.int64)
        self.low: Array = np.full(components, np.inf)
        self.high: Array = np.full(components, -np.inf)

    @property
    def samples(self) -> int:
        """Inputs seen."""
        return self.together.count

    def add(self, weights: Array, affine: Array, classes: NDArray[np.int64] | None) -> None:
        """Takes one batch.

        Args:
            weights: lambda, (n, K), from 0 to 1.
            affine: the layer's `weight`, (K, C).
            classes: of the images, (n,); None where the inputs are not images.
        """
        self.per_image &= classes is not None
        if not len(weights):
            return
        one = np.zeros(len(weights), dtype=np.int64)
        gammas = weights @ affine
        self.weights.add(weights, one if classes is None else classes)
        self.together.add(weights)
        self.gammas.add(gammas, one)
        self.gamma_size += float(np.abs(gammas).sum())
        self.used.add(effective_number(weights)[:, None], one)
        self._count(weights)

    def _count(self, weights: Array) -> None:
        self.low = np.minimum(self.low, weights.min(0))
        self.high = np.maximum(self.high, weights.max(0))
        # The last bin has its upper edge too. Rounding may put a softmax a hair above 1.
        bins = np.clip((weights * BINS).astype(np.int64), 0, BINS - 1)
        places = bins + BINS * np.arange(weights.shape[1])
        self.histogram += np.bincount(places.ravel(), minlength=self.histogram.size).reshape(self.histogram.shape)


def effective_number(weights: Array) -> Array:
    """The exponential of the entropy of weights divided by their sum: K for equal ones, 1 where only one is not 0.

    Args:
        weights: (..., K), not negative.

    Returns:
        (...); 0 where all weights are 0.
    """
    total = weights.sum(-1, keepdims=True)
    shares = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
    logarithms = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    return np.where(total[..., 0] > 0, np.exp(-(shares * logarithms).sum(-1)), 0.0)
