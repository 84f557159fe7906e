"""Writes the measured costs into README.md and docs/ from benchmarks/results/*_cost.json.

    python -m benchmarks.performance_table            # renew what stands between the markers
    python -m benchmarks.performance_table --check    # exit 1 where a page is out of date

A page says where: `<!-- performance NAME:begin -->` and `<!-- performance NAME:end -->`, on lines of their own; the
names are the keys of benchmarks/tables.py's TABLES and benchmarks/export_tables.py's EXPORT_TABLES.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import pages
from benchmarks.export_tables import EXPORT_TABLES
from benchmarks.record import ROOT
from benchmarks.tables import TABLES


def read_records(store: Path) -> dict[str, Mapping[str, Any]]:
    """The records by kind: "layer-cost", "step-cost", "network-cost", "gpu-cost"."""
    contents = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(store.glob("*_cost.json"))]
    return {content["format"].removeprefix("attnorm-"): content for content in contents}


def render(page: str, records: Mapping[str, Mapping[str, Any]]) -> str:
    """The page with the content between its markers renewed.

    Raises:
        KeyError: A marker names a table that does not exist.
    """

    def content(_: str, name: str) -> str:
        kind, table = (TABLES | EXPORT_TABLES)[name]
        record = {} if kind is None else records.get(kind)
        return "Not measured yet.\n" if record is None else table(record)

    return pages.fill(page, ("performance",), content)


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Write the tables of measured cost into the pages.")
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 where a page is out of date")
    options = parser.parse_args(arguments)
    records = read_records(root / "benchmarks" / "results")
    before = pages.read(root)
    renewed = {path: render(text, records) for path, text in before.items()}
    command = "python -m benchmarks.performance_table"
    return pages.write_changed(root, before, renewed, check=command if options.check else None)


if __name__ == "__main__":
    sys.exit(main())
