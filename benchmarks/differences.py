"""Every measured difference between a network with AN and its twin with BatchNorm, gathered from the committed files.

Differences of accuracy and of average precision are in percentage points, with a 95% interval: over seeds where there
are several (Student's t of paired differences), else over the images that two single networks were measured on.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from attnorm.evidence.plots import COLOURS, STYLE, TEXT_COLOUR
from attnorm.evidence.statistics import paired_difference
from attnorm.training.metric import METRICS
from benchmarks.transfer_pages import ARMS, NAMES, SCRATCH, targets

# What a comparison is called, and the claim that it speaks to. One that is not here is not a claim's evidence.
COMPARISONS = {
    "fashion_mnist_resnet8": ("accuracy", "Fashion-MNIST, 6 epochs"),
    "nuclei_small": ("detection", "nuclei_small, 16 epochs"),
    "fashion_mnist_gain5": ("accuracy", "Fashion-MNIST, 6 epochs, AN that starts at gain 1"),
}
SHOWN = ("AN ahead", "AN behind", "no difference shown")
NUMBERS = {"box": "box AP", "mask": "mask AP"}


@dataclass(frozen=True, kw_only=True)
class Difference:
    """AN minus BatchNorm.

    Attributes:
        claim: "accuracy", "detection" or "transfer".
        data: What was trained on what.
        networks: The one with AN.
        number: What is compared: "top-1", "box AP" or "mask AP".
        points: The difference.
        low: Lower end of its interval; None where there is none. Likewise `high`.
        over: What the interval is over.
    """

    claim: str
    data: str
    networks: str
    number: str
    points: float
    low: float | None
    high: float | None
    over: str

    @property
    def shown(self) -> str:
        """What the interval allows one to say."""
        if self.low is None or self.high is None or self.low <= 0 <= self.high:
            return "no difference shown"
        return "AN ahead" if self.points > 0 else "AN behind"


def differences(results: Mapping[str, Mapping[str, Any]]) -> list[Difference]:
    """All of them, in the order of the claims.

    Args:
        results: The contents of benchmarks/results/ by name.
    """
    found = [*_comparisons(results), *_imagenette(results), *_detection(results), *_transfer(results)]
    order = ("accuracy", "detection", "transfer")
    return sorted(found, key=lambda difference: order.index(difference.claim))


def has_an(network: str) -> bool:
    """Whether a network's name says that it has AN."""
    name, *options = network.split(":")
    return "an" in name.split("_") or any(option in ("norm=an", "norm=an_gn") for option in options)


def _comparisons(results: Mapping[str, Mapping[str, Any]]) -> Iterator[Difference]:
    for name, (claim, data) in COMPARISONS.items():
        result = results.get(name, {"models": ()})
        for model in result["models"]:
            difference = model["difference"]
            if difference is None or difference["interval"] is None or not has_an(model["name"]):
                continue
            low, high = difference["interval"]
            yield Difference(
                claim=claim,
                data=data,
                networks=model["name"],
                number=METRICS[result.get("metric", "top1")].label,
                points=difference["mean"],
                low=low,
                high=high,
                over=f"{difference['n']} seeds",
            )


def _imagenette(results: Mapping[str, Mapping[str, Any]]) -> Iterator[Difference]:
    """One seed each: the interval is over the images."""
    for step in results.get("imagenette_path", {}).get("steps", ()):
        difference = step["difference"]
        low, high = difference["interval"]
        yield Difference(
            claim="accuracy",
            data=f"Imagenette, 128 pixels, {step['epochs']} epochs",
            networks=step["model"],
            number="top-1",
            points=difference["difference"],
            low=low,
            high=high,
            over=f"{difference['images']} images, 1 seed",
        )


def _detection(results: Mapping[str, Mapping[str, Any]]) -> Iterator[Difference]:
    for step in results.get("detection_path", {}).get("steps", ()):
        epochs = next(iter(step["networks"].values()))["epochs"]
        for kind, difference in step.get("differences", {}).items():
            low, high = difference["interval"]
            yield Difference(
                claim="detection",
                data=f"{step['case']}, {epochs} epochs",
                networks=[*step["networks"]][-1],
                number=NUMBERS[kind],
                points=difference["points"],
                low=low,
                high=high,
                over=f"{difference['images']} images, 1 seed",
            )


def _transfer(results: Mapping[str, Mapping[str, Any]]) -> Iterator[Difference]:
    """From scratch, with AN from the start, and swapped in before fine-tuning, against BatchNorm of the same seeds."""
    record = results.get("transfer_cifar10")
    if record is None:
        return
    study = record["study"]
    for target in targets(record):
        for arm, baseline in (("an_scratch", "bn_scratch"), ("an", "bn"), ("swapped", "bn")):
            scratch = arm in SCRATCH
            values = record["top1"][target]
            found = paired_difference(values[arm], values[baseline])
            low, high = found.interval or (None, None)
            yield Difference(
                claim="accuracy" if scratch else "transfer",
                data=(NAMES[target] if scratch else f"{NAMES[study['source']]} to {NAMES[target]}")
                + f", {study['train_images']:,} images, {study['target_epochs']} epochs",
                networks=f"{study['network']}: {ARMS[arm]}",
                number="top-1",
                points=found.mean,
                low=low,
                high=high,
                over=f"{found.n} seeds",
            )


def forest(found: Sequence[Difference]) -> Figure:
    """A line for each difference, its interval on both sides of a point; right of 0 AN is ahead."""
    claims = list(dict.fromkeys(row.claim for row in found))
    with rc_context(STYLE):
        figure = Figure(figsize=(9.5, 1.1 + 0.36 * len(found)), layout="constrained")
        axis = figure.subplots()
        for place, row in enumerate(reversed(found)):
            colour = COLOURS[1 + claims.index(row.claim)]
            if row.low is not None and row.high is not None:
                axis.plot([row.low, row.high], [place, place], color=colour, linewidth=2.2, solid_capstyle="round")
            axis.plot([row.points], [place], marker="o" if "seeds" in row.over else "D", color=colour, markersize=7)
        axis.axvline(0, color=TEXT_COLOUR, linewidth=1)
        axis.set_yticks(range(len(found)), [_label(row) for row in reversed(found)], fontsize=8.5)
        axis.set_ylim(-0.6, len(found) - 0.4)
        axis.grid(axis="y", visible=False)
        axis.set_xlabel(
            "AN minus BatchNorm, points, with 95% interval over seeds (circle) or images (diamond)", loc="right"
        )
        return figure


def _label(row: Difference) -> str:
    return f"{row.networks}\n{row.data}, {row.number}"
