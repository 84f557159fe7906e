"""docs/reliability.md: each promise beside the test that holds it, with what the nightly form of the test went through.

`make nightly` runs the tests of benchmarks/promises.py in their long form, then

    python -m benchmarks.reliability --junit REPORT.xml     # their counts into the JSON, and the page anew
    python -m benchmarks.reliability [--check]              # the page from the JSON
    python -m benchmarks.reliability --tests                # names of the tests, for pytest
"""

import argparse
import json
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from attnorm.files import write_json_atomic
from attnorm.training.record import environment, git_state, versions
from benchmarks import pages
from benchmarks.promises import PROMISES, Promise
from benchmarks.record import RESULTS, ROOT

JSON = RESULTS / "reliability.json"
COMMAND = "python -m benchmarks.reliability"
Results = dict[str, dict[str, Any]]  # by a test's name
SUMMED = ("inputs", "images", "cut files", "bombs", "kills", "damaged states", "updates")  # of one meaning


def read_junit(path: Path) -> Results:
    """What a JUnit report says of each test: its cases over all parameters, their seconds, and the sums of its counts.

    Raises:
        SystemExit: tests failed; their names are said.
    """
    results: Results = {}
    failed: list[str] = []
    for case in ElementTree.parse(path).iter("testcase"):
        name = f"{case.attrib['classname'].replace('.', '/')}.py::{case.attrib['name'].partition('[')[0]}"
        result = results.setdefault(name, {"cases": 0, "skipped": 0, "seconds": 0.0, "counts": Counter()})
        if case.find("failure") is not None or case.find("error") is not None:
            failed.append(name)
        skipped = case.find("skipped") is not None
        result["skipped" if skipped else "cases"] += 1
        result["seconds"] = round(result["seconds"] + float(case.attrib["time"]), 1)
        for item in case.iter("property"):
            result["counts"][item.attrib["name"]] += int(item.attrib["value"])
    if failed:
        sys.exit(f"the counts are of tests that pass, and {len(failed)} failed: {', '.join(sorted(set(failed)))}")
    return results


def save(results: Results) -> None:
    """Writes the JSON; results of tests that were not run this time stay."""
    before = json.loads(JSON.read_text())["results"] if JSON.exists() else {}
    date = datetime.now(UTC).isoformat(timespec="seconds")
    about = {"date": date, "git": git_state(), "versions": versions(), "machine": environment(torch.device("cpu"))}
    new = {name: {**result, "counts": dict(result["counts"]), **about} for name, result in results.items()}
    known = {promise.test for section in PROMISES.values() for promise in section}
    kept = {name: result for name, result in sorted({**before, **new}.items()) if name in known}
    write_json_atomic(JSON, {"format": "attnorm-reliability", "command": "make nightly", "results": kept})


def render(results: Results, section: str) -> str:
    """The table of one section's promises."""
    lines = ["| promise | test | in the long form |", "| --- | --- | --- |"]
    lines += [
        f"| {promise.text} | [`{promise.name}`](../{promise.file}) | {_counted(promise, results)} |"
        for promise in PROMISES[section]
    ]
    return "\n".join(lines)


def _counted(promise: Promise, results: Results) -> str:
    result = results.get(promise.test)
    if result is None:
        return "not run yet"
    counts = [f"{count:,} {name}" for name, count in result["counts"].items()]
    if not counts:
        counts = [f"{result['cases']} case{'s' * (result['cases'] != 1)}"]
    return ", ".join(counts) + (f" ({result['skipped']} skipped)" if result["skipped"] else "")


def summary(results: Results) -> str:
    """The sums over all tests, and where they come from."""
    total: Counter[str] = Counter()
    for result in results.values():
        total.update(result["counts"])
    machines = sorted({f"{r['machine']['processor']}, {r['machine']['cores']} cores" for r in results.values()})
    versions_used = sorted({f"torch {r['versions']['torch']}" for r in results.values()})
    dates = sorted({r["date"][:10] for r in results.values()})
    hours = sum(result["seconds"] for result in results.values()) / 3600
    return (
        f"In all: {', '.join(f'{total[name]:,} {name}' for name in SUMMED)}. Run with `make nightly` on "
        f"{', '.join(dates)} ({'; '.join(machines)}; {', '.join(versions_used)}); their times add up to "
        f"{hours:.1f} hours."
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--junit", help="JUnit report of the nightly run")
    parser.add_argument("--check", action="store_true", help="write nothing, fail if the page is out of date")
    parser.add_argument("--tests", action="store_true", help="print the names of the tests")
    options = parser.parse_args(arguments)
    if options.tests:
        print("\n".join(sorted({promise.test for section in PROMISES.values() for promise in section})))
        return 0
    if options.junit is not None:
        save(read_junit(Path(options.junit)))
    results: Results = json.loads(JSON.read_text())["results"]
    before = {path: text for path, text in pages.read(ROOT).items() if path.name == "reliability.md"}

    def content(kind: str, name: str) -> str:
        return summary(results) if kind == "counts" else render(results, name)

    after = {path: pages.fill(text, ("promises", "counts"), content) for path, text in before.items()}
    return pages.write_changed(ROOT, before, after, check=COMMAND if options.check else None)


if __name__ == "__main__":
    sys.exit(main())
