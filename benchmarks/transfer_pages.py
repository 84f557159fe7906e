"""The transfer study in pages: tables of accuracy and of paired differences, and a picture.

A page says where by `<!-- transfer NAME:begin -->` and its end, NAME being that of a file in benchmarks/results/.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from attnorm.evidence.plots import COLOURS, MARKERS, STYLE, save_png
from attnorm.evidence.statistics import Difference, conclusion, describe, paired_difference
from benchmarks import pages
from benchmarks.record import RESULTS, ROOT
from benchmarks.results_table import markdown_table

FORMAT = "attnorm-transfer"
SCRATCH = ("bn_scratch", "an_scratch")
ARMS = {
    "bn_scratch": "BN from scratch",
    "an_scratch": "AN from scratch",
    "bn": "BN, fine-tuned",
    "swapped": "BN swapped to AN, fine-tuned",
    "an": "AN, fine-tuned",
}
# What is compared with what: does swapping help, AN from the start, AN without the source; and what the source gives.
PAIRS = (
    ("swapped", "bn"),
    ("an", "bn"),
    ("swapped", "an"),
    ("an_scratch", "bn_scratch"),
    ("bn", "bn_scratch"),
    ("an", "an_scratch"),
)
NAMES = {"cifar10": "CIFAR-10", "fashion_mnist": "Fashion-MNIST"}
WORDS = {"ahead": "better", "behind": "worse", "not shown": "no difference shown", "too few images": "too few images"}


def targets(record: Mapping[str, Any]) -> list[str]:
    """The data sets that were fine-tuned on, the source itself first."""
    found = [name for name in record["top1"] if name != "source"]
    return sorted(found, key=lambda name: name != record["study"]["source"])


def accuracy_table(record: Mapping[str, Any]) -> str:
    """Mean and standard deviation of every arm."""

    def cell(values: Sequence[float]) -> str:
        sample = describe(values)
        return f"{sample.mean:.2f}" + ("" if sample.sd is None else f" ± {sample.sd:.2f}")

    rows = [[words, *(cell(record["top1"][name][arm]) for name in targets(record))] for arm, words in ARMS.items()]
    return markdown_table(["top-1, %: mean ± sd", *(NAMES[name] for name in targets(record))], rows)


def difference_table(record: Mapping[str, Any]) -> str:
    """The paired differences with their intervals."""
    rows: list[list[str]] = []
    for first, second in PAIRS:
        cells: list[str] = []
        for name in targets(record):
            arms = record["top1"][name]
            cells.append(_shown(paired_difference(arms[first], arms[second]), record["study"]["test_images"]))
        rows.append([f"{ARMS[first]} − {ARMS[second]}", *cells])
    return markdown_table(["difference in points [95%]", *(NAMES[name] for name in targets(record))], rows)


def _shown(difference: Difference, images: int) -> str:
    if difference.interval is None:
        return f"{difference.mean:+.2f}"
    low, high = difference.interval
    return f"{difference.mean:+.2f} [{low:+.2f}, {high:+.2f}], {WORDS[conclusion(difference, images)]}"


def section(record: Mapping[str, Any], name: str) -> str:
    """Everything a reader needs to judge and repeat it."""
    study, source = record["study"], record["top1"]["source"]
    before = ", ".join(f"{norm.upper()} {describe(source[norm]).mean:.2f} %" for norm in ("bn", "an"))
    what = (
        f"{study['network']} and its twin with AN ({record['parameters']['bn']:,} and {record['parameters']['an']:,} "
        f"parameters), {study['train_images']:,} training and {study['test_images']:,} test images of each data set at "
        f"32×32 pixels. Trained on {NAMES[study['source']]} for {study['source_epochs']} epochs (top-1 there: "
        f"{before}), then {study['target_epochs']} epochs on each target, as many as from scratch; learning rate "
        f"{study['lr']:g} from scratch and {study['fine_tune_lr']:g} in fine-tuning, batch {study['batch_size']}, "
        f"weight decay {study['weight_decay']:g}, left-right flips. Seeds {', '.join(map(str, record['seeds']))}; "
        f"{record['finished'][:10]}. `attnorm swap` changed the BN networks' outputs by at most "
        f"{record['swap_differs_by']:.0e} of the largest."
    )
    made = ", ".join(f"{key} {value}" for key, value in record["versions"].items())
    machine = ", ".join(f"{key} {value}" for key, value in record["machine"].items() if value is not None)
    parts = [
        what,
        f"    {record['command']}",
        accuracy_table(record).rstrip(),
        difference_table(record).rstrip(),
        f"![top-1 of every run, from {NAMES[study['source']]}](images/{name}.png)",
        "Intervals are Student's t over the seeds' paired differences, each by itself: one in twenty misses "
        f"by chance. Made with {made}; on {machine}. All numbers: "
        f"[`benchmarks/results/{name}.json`](../benchmarks/results/{name}.json).",
    ]
    return "\n\n".join(parts) + "\n"


def picture(record: Mapping[str, Any]) -> Figure:
    """Per target every run's accuracy, with the mean of its arm above."""
    names = targets(record)
    with rc_context(STYLE):
        figure = Figure(figsize=(9.5, 3.2), layout="constrained")
        axes: Sequence[Axes] = figure.subplots(1, len(names), sharey=True)
        for axis, name in zip(axes, names, strict=True):
            for index, arm in enumerate(ARMS):
                values = record["top1"][name][arm]
                colour, marker = COLOURS[index], MARKERS[index]
                axis.plot(values, [index + 0.18] * len(values), marker, color=colour, alpha=0.6, markersize=5)
                axis.plot([describe(values).mean], [index], marker, color=colour, markersize=8)
            axis.set_title(f"{NAMES[name]}: top-1, %", loc="left", fontsize=10)
            axis.grid(axis="y", visible=False)
            axis.tick_params(axis="y", length=0)
        axes[0].set_yticks(range(len(ARMS)), list(ARMS.values()))
        axes[0].set_ylim(len(ARMS) - 0.5, -0.5)
        return figure


def renew(results: Path = RESULTS, root: Path = ROOT) -> None:
    """Write the tables into the pages that name them, and the pictures."""
    records = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in results.glob("transfer_*.json")}
    before = pages.read(root)
    after = {
        path: pages.fill(page, ("transfer",), lambda _, name: section(records[name], name))
        for path, page in before.items()
    }
    pages.write_changed(root, before, after)
    for name, record in records.items():
        if any(f"<!-- transfer {name}:begin -->" in page for page in after.values()):
            save_png(picture(record), root / "docs" / "images" / f"{name}.png")
