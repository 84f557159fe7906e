"""Writes the tables of measured results into README.md and docs/ from the JSON files of benchmarks/results/.

    python -m benchmarks.results_table                                  # renew every table and picture
    python -m benchmarks.results_table --add NAME runs/x/compare.json   # take a comparison in, then renew
    python -m benchmarks.results_table --check                          # exit 1 where a page is out of date

A page says where: between `<!-- table NAME:begin -->` and `<!-- table NAME:end -->` stands the table alone, between
`<!-- section NAME:begin -->` and its end the table with what made it, what it shows and how to read it. A comparison
that no page names yet gets its section at the end of docs/results.md.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attnorm.evidence.curves import learning_curves
from attnorm.evidence.plots import accuracies, save_png
from attnorm.evidence.summary import describe_data, verdicts
from attnorm.evidence.table import cost_table, headings, outcome_table, table_rows
from attnorm.files import write_json_atomic
from benchmarks import pages

ROOT = Path(__file__).parents[1]
# What tells of the machine's folders and not of the result; of weights to start from, the file's name does.
PATHS = ("data_dir", "output", "resume")
FILES = ("initial_checkpoint", "source")


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, numbers to the right."""
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", "<br>")


def table(result: Mapping[str, Any]) -> str:
    """The table of a comparison."""
    return markdown_table(headings(result), table_rows(result))


def tables(result: Mapping[str, Any]) -> str:
    """The outcome and, where more than the times was measured, the costs in a table of their own."""
    if "measured" not in result:
        return table(result)
    return f"{markdown_table(*outcome_table(result))}\n{markdown_table(*cost_table(result))}"


def section(result: Mapping[str, Any], name: str) -> str:
    """The table with everything a reader needs to judge and repeat it."""
    data, environment = result["data"], result["environment"]
    versions, machine = environment["versions"], environment["machine"]
    what = (
        f"{describe_data(data)}; {result['config']['epochs']} epochs; "
        f"seeds {result['config']['seeds']}; {result['finished'][:10]}."
    )
    shown = verdicts(result) + list(result["cautions"])
    parts = [
        what,
        f"    {result['command']}",
        tables(result).rstrip(),
        "\n".join(f"- {line}" for line in shown),
        f"![accuracy of every run and paired differences](images/{name}-accuracy.png)",
        f"![learning curves](images/{name}-curves.png)",
        "How to read it:\n\n" + "\n".join(f"- {line}" for line in result["notes"]),
        f"Made with {_pairs(versions)}; on {_pairs(machine)}. Every run, epoch by epoch: "
        f"[`benchmarks/results/{name}.json`](../benchmarks/results/{name}.json).",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _pairs(value: Mapping[str, Any] | list[Any]) -> str:
    if isinstance(value, list):
        return " or, in other runs, ".join(_pairs(item) for item in value)
    return ", ".join(f"{key} {item}" for key, item in value.items() if item is not None)


def without_paths(result: Mapping[str, Any]) -> dict[str, Any]:
    """The comparison without the names of the machine's folders: the same numbers, fit for publishing."""
    folders = {name: result["config"].get(name) for name in PATHS}
    weights = result["config"].get("initial_checkpoint")
    command = result["command"].replace(f"{ROOT}/", "")
    command = command.replace(weights, Path(weights).name) if weights else command
    for name, folder in sorted(folders.items(), key=lambda item: -len(item[1] or "")):
        if folder:
            command = command.replace(folder, {"data_dir": "DATA_DIR", "output": "OUTPUT"}.get(name, "PATH"))

    def strip(value: Any) -> Any:
        if isinstance(value, Mapping):
            kept = {key: strip(item) for key, item in value.items() if key not in PATHS}
            return kept | {key: Path(kept[key]).name for key in FILES if isinstance(kept.get(key), str)}
        return [strip(item) for item in value] if isinstance(value, list) else value

    return {**strip(result), "command": command}


def render(page: str, results: Mapping[str, Mapping[str, Any]]) -> str:
    """The page with the content between its markers renewed.

    Raises:
        KeyError: a marker names a comparison that is not there.
    """
    return pages.fill(
        page,
        ("table", "section"),
        lambda kind, name: table(results[name]) if kind == "table" else section(results[name], name),
    )


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Write result tables into the pages.")
    parser.add_argument("--add", nargs=2, metavar=("NAME", "COMPARE_JSON"), help="take a comparison in")
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 where a page is out of date")
    options = parser.parse_args(arguments)
    store = root / "benchmarks" / "results"
    if options.add:
        name, path = options.add
        write_json_atomic(store / f"{name}.json", without_paths(json.loads(Path(path).read_text(encoding="utf-8"))))
    results = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(store.glob("*.json"))}
    results = {name: result for name, result in results.items() if result.get("format") == "attnorm-compare"}
    before = pages.read(root)
    renewed = dict(before)
    for name in results:
        if not any(f"{name}:begin" in text for text in renewed.values()):
            renewed[root / "docs" / "results.md"] += (
                f"\n## {name}\n\n<!-- section {name}:begin -->\n<!-- section {name}:end -->\n"
            )
    renewed = {path: render(text, results) for path, text in renewed.items()}
    out_of_date = pages.write_changed(
        root, before, renewed, check="python -m benchmarks.results_table" if options.check else None
    )
    for name, result in results.items():
        # A table alone has no pictures.
        if not options.check and any(f"<!-- section {name}:begin -->" in text for text in renewed.values()):
            save_png(accuracies(result), root / "docs" / "images" / f"{name}-accuracy.png")
            save_png(learning_curves(result), root / "docs" / "images" / f"{name}-curves.png")
    return out_of_date


if __name__ == "__main__":
    sys.exit(main())
