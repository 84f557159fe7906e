"""What a reader of a comparison must know: how its tables are to be read, and what its verdicts do not say."""

from collections.abc import Mapping, Sequence
from typing import Any

from attnorm.evidence.statistics import FEWEST_IMAGES, smallest_tellable_difference, wilson_interval
from attnorm.evidence.summary import comparisons
from attnorm.training.metric import TOP1, Metric


def notes(
    data: Mapping[str, Any],
    entries: Sequence[Mapping[str, Any]],
    metrics: Sequence[Metric] = (TOP1,),
    measured: Mapping[str, Any] | None = None,
) -> list[str]:
    """What a reader must know to read the tables rightly, as plain sentences.

    Args:
        data: what was compared on.
        entries: of the networks.
        metrics: the judged one first.
        measured: how costs were measured, see `attnorm.evidence.compare_cost.Costs`.
    """
    images = data["test_images"]
    what = "Accuracy" if metrics[0] is TOP1 else "AP"
    lines = [
        f"{what} is that of the last epoch: no epoch was picked by looking at the evaluation part.",
        "The interval of a difference is Student's t over seeds: mean(d) ± t(0.975, n−1) · sd(d) / √n, d being the "
        "differences of runs with the same seed. Intervals are 95% each, not jointly for several networks; those that "
        "are called corrected have t(1 − 0.025/m, n−1) for m networks instead, and hold all at once with 95%.",
    ]
    if metrics[0] is not TOP1:
        return [*lines, *_detection_notes(images), *_cost_notes(measured)]
    means = [entry["top1"]["mean"] for entry in entries if entry["top1"]]
    if means:
        best = max(means)
        low, high = wilson_interval(best, images)
        lines.append(
            f"All runs were measured on the same {images:,} images, whose choice the intervals do not contain: a "
            f"single accuracy of {best:.2f}% on so many has a 95% interval of [{low:.2f}, {high:.2f}] (Wilson), and a "
            f"difference below {smallest_tellable_difference(images):.2f} points, {FEWEST_IMAGES} images, cannot be "
            "significant in one pair of runs (McNemar)."
        )
    return [
        *lines,
        "MACs: multiply-accumulates of convolutions and matrix products, for one image; normalisation, activation and "
        "other elementwise operations are not counted.",
        "Times are of one batch of random images, forward, loss and backward or forward alone, with the runs' batch "
        "size, precision and memory format: medians of rounds in which the networks take turns, with half the distance "
        "between their quartiles. Reading data and the optimizer are not in them.",
        *_cost_notes(measured),
    ]


def _cost_notes(measured: Mapping[str, Any] | None) -> list[str]:
    if measured is None:
        return []
    meter = (
        f"Energy is net of what the machine uses at rest; meter: {measured['meter']}."
        if measured["meter"]
        else f"Energy was not measured: {measured['no_meter'].rstrip('.')}."
    )
    return [
        "× is how many times the baseline's: the median of the rounds' ratios with its 95% interval.",
        "Other operations: one for each element that an elementwise operation gives and that a sum or a pool reads, 4 "
        "for each element of BatchNorm, 8 of GroupNorm (`attnorm.evidence.operations` has the convention).",
        "Kept for backward: what a training step holds between its forward and its backward pass, weights apart. Peak: "
        f"the most that a step or a pass with {measured['batch_size']} images allocates beyond weights and images, "
        f"gradients included, on {measured['device']}.",
        meter,
    ]


def _detection_notes(images: int) -> list[str]:
    return [
        "AP is COCO's, the mean over categories and over overlaps (intersection over union) from 0.5 to 0.95, in "
        f"percent. All runs were measured on the same {images:,} images, whose choice the intervals do not contain.",
        "MACs: multiply-accumulates of convolutions and matrix products for one image of the evaluation part with as "
        "many detections as are allowed; resizing, normalisation, activation and suppression are not counted.",
        "Times are of one batch of training images before any training, forward, losses and backward or detection "
        "alone, with the runs' batch size, precision and memory format: medians of rounds in which the networks take "
        "turns, with half the distance between their quartiles. Reading data and the optimizer are not in them.",
    ]


def cautions(data: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """What must stand beside the verdicts themselves, lest they be misread."""
    lines: list[str] = []
    if data["name"] == "digits":
        lines.append(
            "The handwritten digits are nearly solved by BatchNorm: this comparison shows that the machinery works, "
            "not which layer is better."
        )
    count = comparisons(entries)
    if count > 1:
        lines.append(
            f"{count} networks are compared with one baseline: of so many 95% intervals {0.05 * count:.2g} miss the "
            "truth on average. What should hold for all of them at once is the corrected interval (Bonferroni: each at "
            f"{100 * (1 - 0.05 / count):.3g}%)."
        )
    for entry in entries:
        for failure in entry["failed"]:
            lines.append(f"{entry['name']} with seed {failure['seed']} did not finish: {failure['why']}")
    return lines
