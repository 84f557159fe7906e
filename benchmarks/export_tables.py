"""From the JSON records of inference and of 8 bits to the Markdown that docs/export.md shows."""

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.inference_cost import WAYS
from benchmarks.results_table import markdown_table
from benchmarks.tables import milliseconds, provenance, ratio

Row = Mapping[str, Any]
PRECISIONS = {"float": "float32", "int8": "8 bits", "int8_an_too": "8 bits, AN too"}


def _label(row: Row) -> str:
    return f"{row['network']}, {row['batch']} × {row['side']} × {row['side']}"


def inference_ratios(record: Row) -> str:
    """AN's time over BN's, by the way to run them."""
    lines = [[_label(row), *(ratio(row["ratios"][way]) for way in WAYS)] for row in record["rows"]]
    return markdown_table(["AN / BN, images", *WAYS], lines)


def inference_times(record: Row) -> str:
    """Milliseconds of a batch."""
    lines: list[list[str]] = []
    for row in record["rows"]:
        for name in (row["network"], f"{row['network']}_an"):
            label = _label({**row, "network": name})
            lines.append([label, *(milliseconds(row["ms"][f"{name} {way}"]) for way in WAYS)])
    return markdown_table(["ms of a batch", *WAYS], lines)


def int8_accuracy(record: Row) -> str:
    """Top-1 with its interval, answers that differ from float's, and size."""
    lines: list[list[str]] = []
    for row in record["rows"]:
        for key, words in PRECISIONS.items():
            if key == "int8_an_too" and row[key] == row["int8"] | {"size": row[key]["size"]}:
                continue
            found = row[key]
            left = ", ".join(f"{count} {name}" for name, count in (found["float_nodes"] or {}).items()) or "all"
            accuracy = f"{found['top1']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"
            changed = str(found["changed_answers"]) if found["float_nodes"] is not None else ""
            lines.append([f"{row['checkpoint']}, {words}", accuracy, changed, f"{found['size'] / 1e6:.2f}", left])
    images = record["rows"][0]["images"]
    head = ["network", "top-1, %", f"other answers, of {images}", "MB", "nodes in float"]
    return markdown_table(head, lines)


EXPORT_TABLES: dict[str, tuple[str | None, Callable[[Row], str]]] = {
    "inference_ratios": ("inference-cost", inference_ratios),
    "inference_times": ("inference-cost", inference_times),
    "inference_provenance": ("inference-cost", provenance),
    "int8_accuracy": ("int8-cost", int8_accuracy),
    "int8_provenance": ("int8-cost", provenance),
}
