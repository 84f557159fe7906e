"""What the authors published for their detectors on COCO's val2017, so that a measurement can stand beside it.

Rows that the authors quote from others (GroupNorm, Switchable Normalization) are left out. The second release repeats
some rows of the first; only what was trained anew for it stands here a second time.

Sources: the README of AttentiveNorm_Detection and docs/detection of iVMCL-Release, which go with X. Li et al.,
"Attentive Normalization", ECCV 2020, arXiv 1908.01259.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from attnorm.detection.config import DetectorConfig

SOURCES = {
    "attentivenorm-detection": "README of AttentiveNorm_Detection",
    "ivmcl-release": "docs/detection of iVMCL-Release",
}


@dataclass(frozen=True, kw_only=True)
class Published:
    """One published row.

    Attributes:
        model: our name of the detector.
        settings: the fields of its DetectorConfig that tell it from other rows of that name.
        release: "attentivenorm-detection" or "ivmcl-release", also the name of the key scheme of its files.
        name: the row's name in that release.
        params_m: parameters as printed, in millions; None where none are.
        box_AP: average precision of boxes in percent; likewise mask_AP.
    """

    model: str
    settings: dict[str, str]
    release: str
    name: str
    params_m: float | None
    box_AP: float
    mask_AP: float

    @property
    def source(self) -> str:
        """Where the row stands."""
        return SOURCES[self.release]


@cache
def rows() -> tuple[Published, ...]:
    """All published rows, in the order of the two releases."""
    text = files("attnorm.detection").joinpath("published.json").read_text(encoding="utf-8")
    return tuple(Published(**entry) for entry in json.loads(text))


def results(model: str, config: DetectorConfig) -> tuple[Published, ...]:
    """The published rows of one detector with these heads, those of the first release before those of the second."""
    return tuple(
        row
        for row in rows()
        if row.model == model and all(getattr(config, name) == value for name, value in row.settings.items())
    )
