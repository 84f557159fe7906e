"""The numbers by which networks are judged, and how they are written. Imports nothing heavy."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Metric:
    """A number that an evaluation gives.

    Attributes:
        name: its entry in a history, a record and a JSON file.
        label: its name in a sentence.
        scale: makes a percentage of it.
    """

    name: str
    label: str
    scale: float

    @property
    def title(self) -> str:
        """The label as it begins a line."""
        return self.label[0].upper() + self.label[1:]

    def percent(self, row: Mapping[str, Any]) -> float | None:
        """The number of an epoch in percent; None where it is not defined (the AP of data without objects)."""
        value = row[self.name]
        return None if value is None else self.scale * value


# As they stand in a table: the one that a network is judged by before others that it has.
TOP1 = Metric("top1", "top-1", 1)
BOX_AP = Metric("box_AP", "box AP", 100)
MASK_AP = Metric("mask_AP", "mask AP", 100)
METRICS = {metric.name: metric for metric in (TOP1, MASK_AP, BOX_AP)}


def best_row(history: Sequence[dict[str, Any]], metric: Metric) -> dict[str, Any]:
    """The best epoch of a history; of equal ones the first."""

    def judged(row: Mapping[str, Any]) -> float:
        value = metric.percent(row)
        return -math.inf if value is None else value

    return max(history, key=judged)
