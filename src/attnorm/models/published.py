"""What the authors published for their released ImageNet networks, so that a measurement can stand beside it.

Weights of the first release (AOGNet-v2, 2019) were converted for the second (iVMCL-Release, 2020) and evaluated again
there, on more data sets and rounded to a tenth of a percent; networks that the first one lacks were trained for the
second. Numbers that the authors quote from others are left out, and so is their ImageNet-O column: that set is for
detecting what lies outside of the distribution, and accuracy on it says nothing.

Sources: the README of AOGNet-v2 and docs/classification of iVMCL-Release, which go with X. Li et al., "Attentive
Normalization", ECCV 2020, arXiv 1908.01259.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

SOURCES = {"aognet-v2": "README of AOGNet-v2", "ivmcl-release": "docs/classification of iVMCL-Release"}


@dataclass(frozen=True, kw_only=True)
class Published:
    """One published row.

    Attributes:
        model: our name of the network.
        recipe: "normal" (120 epochs; MobileNetV2 150) or "advanced" (200, label smoothing, mixup).
        release: "aognet-v2" or "ivmcl-release", also the name of the key scheme of its files.
        name: the row's name in that release.
        params_m: parameters as printed, in millions.
        accuracy: data set -> (top-1, top-5) in percent.
    """

    model: str
    recipe: str
    release: str
    name: str
    params_m: float
    accuracy: dict[str, tuple[float, float]]

    @property
    def source(self) -> str:
        """Where the row stands."""
        return SOURCES[self.release]


@cache
def rows() -> tuple[Published, ...]:
    """All published rows, in the order of the two releases."""
    text = files("attnorm.models").joinpath("published.json").read_text(encoding="utf-8")
    return tuple(_row(entry) for entry in json.loads(text))


def results(model: str) -> tuple[Published, ...]:
    """The published rows of one network, those of the first release before those of the second."""
    return tuple(row for row in rows() if row.model == model)


def _row(entry: dict[str, Any]) -> Published:
    accuracy = {dataset: (top1, top5) for dataset, (top1, top5) in entry.pop("accuracy").items()}
    return Published(**entry, accuracy=accuracy)
