"""What a person sees of a profile in the terminal: a table of counts, one of measurements for each mode, sentences."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from attnorm.evidence.profile_config import Case
from attnorm.evidence.table import in_units

WIDTH = 100  # of a log file, which has no edge to wrap at
Rows = list[list[str]]


def print_profile(result: Mapping[str, Any], console: Console | None = None) -> None:
    """Prints everything but the pictures."""
    console = Console() if console is None else console
    if not console.is_terminal:
        console.width = WIDTH
    convention = result["config"]["convention"]
    _print_table(console, "Counted, for one image", count_headings(convention), count_rows(result, convention))
    for mode in ("inference", "training"):
        if any(case["mode"] == mode for case in result["cases"]):
            title = f"{mode.capitalize()}, {_where(result)}"
            _print_table(console, title, time_headings(result, mode), time_rows(result, mode))
    if result["energy"]["meter"] is not None:
        _print_table(console, "Energy beyond that at rest", energy_headings(result), energy_rows(result))
    for model in result["models"]:
        if "layers" in model:
            title = f"Layers of {model['name']}: for one image"
            _print_table(console, title, LAYER_HEADINGS, layer_rows(model["layers"]), lefts=2)
    for line in sentences(result):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def count_headings(convention: str) -> list[str]:
    """The first line of the table of counts."""
    operations = "other\noperations" if convention == "all" else "the papers'\nFLOPs"
    return ["network", "parameters", "MACs", operations]


def count_rows(result: Mapping[str, Any], convention: str) -> Rows:
    """One row for each network."""
    rows: Rows = []
    for model in result["models"]:
        counts = ["not counted", "not counted"]
        if model["operations"] is not None:
            shown = model["operations"]["elementwise" if convention == "all" else "paper"]
            counts = [in_units(model["macs"]), in_units(shown)]
        rows.append([model["name"], in_units(model["parameters"]), *counts])
    return rows


def time_headings(result: Mapping[str, Any], mode: str) -> list[str]:
    """The first line of a table of measurements."""
    headings = ["network", "median,\nms", "p95,\nms", "images/s", "time against\nthe first [95%]", "peak\nmemory"]
    if len(result["models"]) == 1:
        headings.remove("time against\nthe first [95%]")
    return [*headings, "kept for\nbackward"] if mode == "training" else headings


def time_rows(result: Mapping[str, Any], mode: str) -> Rows:
    """For each case a row that says what it is, then one for each network."""
    alone = len(result["models"]) == 1
    rows: Rows = []
    for case in (case for case in result["cases"] if case["mode"] == mode):
        rows.append([_case(case).describe()])
        for name, row in case["networks"].items():
            if "failed" in row:
                rows.append([f"  {name}", "–"])
                continue
            latency = row["latency_ms"]
            cells = [
                f"  {name}",
                *(_three(latency[key]) for key in ("median", "p95")),
                _three(row["images_per_second"]),
            ]
            cells += [] if alone else [_ratio(row["ratio"], name == result["baseline"])]
            cells += [f"{in_units(row['peak_bytes'])}B"]
            rows.append(cells + ([f"{in_units(row['saved_bytes'])}B"] if mode == "training" else []))
    return rows


def energy_headings(result: Mapping[str, Any]) -> list[str]:
    """The first line of the table of energy."""
    headings = ["network", "J/image", "against the\nfirst [95%]", "watts", "watts with\nthose at rest"]
    return [heading for heading in headings if len(result["models"]) > 1 or "first" not in heading]


def energy_rows(result: Mapping[str, Any]) -> Rows:
    """For each case a row that says what it is, then one for each network."""
    alone = len(result["models"]) == 1
    rows: Rows = []
    for case in result["cases"]:
        rows.append([f"{case['mode']}, {_case(case).describe()}"])
        for name, row in case["networks"].items():
            spent = row.get("energy")
            if spent is None:
                rows.append([f"  {name}", "–"])
                continue
            ratio = [] if alone else [_ratio(spent["ratio"], name == result["baseline"])]
            watts = [_three(spent[key]) for key in ("watts", "watts_with_idle")]
            rows.append([f"  {name}", _three(spent["joules_per_image"]), *ratio, *watts])
    return rows


LAYER_HEADINGS = ["layer", "class", "parameters", "MACs", "other\noperations", "ms", "share"]


def layer_rows(layers: Sequence[Mapping[str, Any]]) -> Rows:
    """One row for each layer, in the network's order."""
    return [
        [
            layer["name"] or "(itself)",
            layer["kind"],
            _count(layer["parameters"]),
            _count(layer["macs"]),
            _count(layer["elements"]),
            _three(layer["milliseconds"]),
            f"{layer['share']:.1%}",
        ]
        for layer in layers
    ]


def sentences(result: Mapping[str, Any]) -> list[str]:
    """What the tables cannot say."""
    lines: list[str] = []
    energy = result["energy"]
    if energy["meter"] is None:
        lines.append(f"energy: {energy['why_not']}")
    else:
        meter = energy["meter"]
        lines.append(f"energy: {meter['name']}, of {meter['covers']}; {_three(meter['idle_watts'])} W at rest")
    if result["config"]["convention"] == "paper":
        lines.append("the papers' FLOPs: MACs + 4 for each element of a BatchNorm or AN layer + 1 for each of ReLU")
    lines += [f"{m['name']}: operations not counted: {m['not_counted']}" for m in result["models"] if m["not_counted"]]
    for case in result["cases"]:
        for name, row in case["networks"].items():
            if "failed" in row:
                lines.append(f"{name}, {case['mode']}, {_case(case).describe()}: not measured: {row['failed']}")
    return lines


def _case(row: Mapping[str, Any]) -> Case:
    return Case(**{key: value for key, value in row.items() if key != "networks"})


def _where(result: Mapping[str, Any]) -> str:
    machine, images = result["environment"]["machine"], result["images"]
    device = machine["device"] if machine["device"] != "cpu" else f"{machine['processor']}, {machine['threads']} thread"
    plural = "s" if device.endswith(" thread") and machine["threads"] != 1 else ""
    return f"images of {images['size']}x{images['size']} pixels, {device}{plural}"


def _three(value: float) -> str:
    """Three digits, without powers of ten."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")


def _count(value: int | None) -> str:
    return "–" if value is None else in_units(value) if value else ""


def _ratio(ratio: Mapping[str, float] | None, is_baseline: bool) -> str:
    if is_baseline:
        return "1"
    return "–" if ratio is None else f"{ratio['median']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"


def _print_table(console: Console, title: str, headings: Sequence[str], rows: Rows, lefts: int = 1) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for index, heading in enumerate(headings):
        # Names may be long paths: they are folded, numbers never.
        table.add_column(
            heading,
            justify="left" if index < lefts else "right",
            vertical="bottom",
            no_wrap=index >= lefts,
            overflow="fold",
        )
    for row in rows:
        # As Text, because rich would read an interval "[0.9, 1.1]" as a style.
        style = "italic" if len(row) == 1 else ""
        table.add_row(*(Text(cell, style=style) for cell in row))
    console.print(Text(title, style="bold"))
    console.print(table)
    console.print()
