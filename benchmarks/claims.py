"""Writes the paper's claims, beside what was measured here, into docs/results.md.

    python -m benchmarks.claims            # renew what stands between the markers, and the picture
    python -m benchmarks.claims --check    # exit 1 where the page is out of date

`<!-- claims NAME:begin -->` and its end stand in the page, NAME being a key of TABLES. Nothing is typed in: what the
authors published comes from src/attnorm/models/published.json and src/attnorm/detection/published.json, what was
measured from benchmarks/results/. docs/images/differences.png shows every measured difference with its interval.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attnorm.detection import published as published_detectors
from attnorm.evidence.plots import save_png
from attnorm.models import published as published_networks
from benchmarks import mixtures, pages
from benchmarks.differences import SHOWN, Difference, differences, forest
from benchmarks.record import RESULTS, ROOT
from benchmarks.results_table import markdown_table

# The twin without AN of each published network, by our names.
TWINS = {f"{network}_an_{norms}": network for network, norms in [
    *(("resnet34", norms) for norms in ("bn2", "bn12")),
    *(("resnet50", norms) for norms in ("bn3", "bn123", "all")),
]}  # fmt: skip
KINDS = {"train": "training step", "fine_tune": "fine-tuning step", "eval": "evaluation"}
PROFILE = "profile_resnet50"  # of `attnorm profile --json`
NOT_MEASURED = "Not measured yet.\n"
Results = Mapping[str, Mapping[str, Any]]


def summary(results: Results) -> str:
    """Each claim in a line: what was published, what was measured here, and on what."""
    found = differences(results)
    top1 = [row[4] for row in _top1_rows()]
    box, mask = ([row[column] for row in _ap_rows()] for column in (3, 5))
    rows, ratios = _size_rows(results), _time_rows(results)
    lines = [
        ["top-1 is higher", f"{_range(top1)} points on ImageNet", _counted(found, "accuracy")],
        ["AP is higher", f"box {_range(box)}, mask {_range(mask)} points on COCO", _counted(found, "detection")],
        ["transfer is better", "the detectors, whose backbones come from ImageNet", _counted(found, "transfer")],
        ["hardly more parameters", "as in the table of sizes", f"{_range([row[3] for row in rows])}, counted"],
        [
            "no more compute",
            "MACs, printed alike for both",
            f"MACs {_range([row[4] for row in rows])}, other operations {_range([row[5] for row in rows])}, counted",
        ],
        ["no more time", "nothing", f"{_range([row[4].split()[0] for row in ratios])} times BatchNorm's, on CPUs"],
        ["no more power", "nothing measured", _power(results)],
    ]
    return _text_table(["claim", "published", "measured here"], lines)


def _counted(found: Sequence[Difference], claim: str) -> str:
    """How many of the comparisons show what."""
    own = [row for row in found if row.claim == claim]
    if not own:
        return NOT_MEASURED.strip()
    counts = Counter(row.shown for row in own)
    return f"of {len(own)} differences " + ", ".join(f"{counts[shown]} {shown}" for shown in SHOWN if counts[shown])


def _range(cells: Sequence[str]) -> str:
    """The smallest and the largest of numbers as they are printed, with or without a percent sign."""
    ordered = sorted(cells, key=lambda cell: float(cell.removesuffix("%")))
    return f"{ordered[0]} to {ordered[-1]}"


def _power(results: Results) -> str:
    """Joules where a meter was read, else the reason why none was."""
    energy = results.get(PROFILE, {}).get("energy")
    if energy is None:
        return NOT_MEASURED.strip()
    return "see below" if energy["meter"] else f"not measured: {energy['why_not']}"


def published_top1(_: Results) -> str:
    """Published top-1 of every network with AN beside its twin with BatchNorm, of the same release and recipe."""
    headings = ["network", "recipe", "BN, %", "AN, %", "difference", "source"]
    return markdown_table(headings, _top1_rows())


def _top1_rows() -> list[list[str]]:
    rows = published_networks.rows()
    known = {(row.model, row.recipe, row.release): row for row in rows}
    lines: list[list[str]] = []
    for row in rows:
        twin = known.get((TWINS.get(row.model, row.model.removesuffix("_an")), row.recipe, row.release))
        if "_an" not in row.model or twin is None:
            continue
        an, bn = row.accuracy["imagenet"][0], twin.accuracy["imagenet"][0]
        lines.append([row.model, row.recipe, f"{bn:g}", f"{an:g}", f"{an - bn:+.2f}", row.source])
    return lines


def published_ap(_: Results) -> str:
    """Published AP of every detector with AN beside its twin."""
    return markdown_table(["detector", "heads", "box AP", "against BN", "mask AP", "against BN"], _ap_rows())


def _ap_rows() -> list[list[str]]:
    rows = [row for row in published_detectors.rows() if row.release == "attentivenorm-detection"]
    plain = {row.model: row for row in rows if "_an_" not in row.model}
    lines: list[list[str]] = []
    for row in rows:
        twin = plain.get(row.model.replace("_an_", "_"))
        if "_an_" not in row.model or twin is None:
            continue
        heads = "AN on GN" if row.settings["box_norm"] == "an_gn" else "no norm"
        box, mask = row.box_AP - twin.box_AP, row.mask_AP - twin.mask_AP
        lines.append([row.model, heads, f"{row.box_AP:g}", f"{box:+.1f}", f"{row.mask_AP:g}", f"{mask:+.1f}"])
    return lines


def measured(results: Results) -> str:
    """Every difference between AN and BatchNorm that was measured, each in its line."""
    found = differences(results)
    if not found:
        return NOT_MEASURED
    headings = ["claim", "data", "networks", "number", "difference, points [95%]", "over", "shown"]
    return _text_table(headings, [_line(row) for row in found])


def _text_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of words, all columns to the left."""
    return markdown_table(headings, rows).replace("---:", "---")


def _line(row: Difference) -> list[str]:
    interval = f"[{row.low:+.1f}, {row.high:+.1f}]" if row.low is not None else "[no interval]"
    return [row.claim, row.data, row.networks, row.number, f"{row.points:+.1f} {interval}", row.over, row.shown]


def sizes(results: Results) -> str:
    """Parameters and operations of the published networks: counted here, and what the authors print."""
    headings = [
        *("network", "parameters, M", "printed by the authors, M"),
        *("parameters against BN", "MACs", "other operations"),
    ]
    return markdown_table(headings, _size_rows(results))


def _size_rows(results: Results) -> list[list[str]]:
    rows = {row["model"]: row for row in results["models"]["rows"]}
    lines: list[list[str]] = []
    for name, row in rows.items():
        twin = rows.get(TWINS.get(name, name.removesuffix("_an")))
        if "_an" not in name or twin is None:
            continue
        printed = sorted({f"{entry['params_m']:g}" for entry in row["published"]})
        lines.append(
            [
                name,
                f"{row['parameters'] / 1e6:.3f}",
                ", ".join(printed) or "–",
                *(f"{100 * (ratio - 1):+.2f}%" for ratio in _ratios(row, twin)),
            ]
        )
    return lines


def _ratios(row: Mapping[str, Any], twin: Mapping[str, Any]) -> list[float]:
    elements = [sum(each["elements"].values()) for each in (row, twin)]
    return [
        row["parameters"] / twin["parameters"],
        row["macs"] / twin["macs"],
        elements[0] / elements[1],
    ]


def times(results: Results) -> str:
    """Time of whole networks and detectors with AN, in units of the same with BatchNorm."""
    return markdown_table(["network with AN", "what", "layout", "batch", "AN / BN [95%]"], _time_rows(results))


def _time_rows(results: Results) -> list[list[str]]:
    lines: list[list[str]] = []
    for name in ("network_cost", "families_cost", "detector_cost"):
        for row in results.get(name, {}).get("rows", ()):
            for key, ratio in row["ratios"].items():
                if not key.startswith("an_bn"):
                    continue
                networks = ", ".join(n for n in row["networks"] if "an" in n.split("_"))
                what = KINDS[row["kind"]]
                interval = f"{ratio['median']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]"
                lines.append([networks, what, str(row.get("layout", "NCHW")), str(row["batch"]), interval])
    return lines


def power(results: Results) -> str:
    """Joules per image of each network net of the machine's rest, or why there are none."""
    profile = results.get(PROFILE)
    if profile is None:
        return NOT_MEASURED
    energy = profile["energy"]
    if energy["meter"] is None:
        return f"Here: {energy['why_not']} ({profile['date'][:10]}).\n"
    lines: list[list[str]] = []
    for case in profile["cases"]:
        for name, row in case["networks"].items():
            joules = "–" if row["energy"] is None else f"{row['energy']['joules_per_image']:.3g}"
            lines.append([name, case["mode"], str(case["batch_size"]), joules])
    return markdown_table(["network", "what", "batch", "joules per image, net of rest"], lines)


def memory(results: Results) -> str:
    """Peak memory and bytes kept for backward of the profiled networks."""
    profile = results.get(PROFILE)
    if profile is None:
        return NOT_MEASURED
    lines: list[list[str]] = []
    for case in profile["cases"]:
        for name, row in case["networks"].items():
            values = (row.get("peak_bytes"), row.get("saved_bytes"))
            cells = [f"{value / 1e6:.1f}" if value is not None else "–" for value in values]
            lines.append([name, case["mode"], str(case["batch_size"]), *cells])
    return markdown_table(["network", "what", "batch", "peak memory, MB", "kept for backward, MB"], lines)


def mixture(results: Results) -> str:
    """How much of the mixture is in use, on a network's own data and elsewhere."""
    return mixtures.table(results["mixtures"]) if "mixtures" in results else NOT_MEASURED


TABLES: dict[str, Callable[[Results], str]] = {
    "summary": summary,
    "published_top1": published_top1,
    "published_ap": published_ap,
    "measured": measured,
    "sizes": sizes,
    "times": times,
    "memory": memory,
    "power": power,
    "mixture": mixture,
}


def render(page: str, results: Results) -> str:
    """The page with the content between its markers renewed.

    Raises:
        KeyError: A marker names a table that does not exist.
    """
    return pages.fill(page, ("claims",), lambda _, name: TABLES[name](results))


def read_results(store: Path = RESULTS) -> dict[str, Any]:
    """The committed files by name."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(store.glob("*.json"))}


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Write the claims and what was measured into the pages.")
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 where a page is out of date")
    options = parser.parse_args(arguments)
    results = read_results(root / "benchmarks" / "results")
    before = pages.read(root)
    renewed = {path: render(text, results) for path, text in before.items()}
    if not options.check:
        save_png(forest(differences(results)), root / "docs" / "images" / "differences.png")
    command = "python -m benchmarks.claims"
    return pages.write_changed(root, before, renewed, check=command if options.check else None)


if __name__ == "__main__":
    sys.exit(main())
