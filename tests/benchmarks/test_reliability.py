"""The page of promises: each is held by a test that exists, and the counts are those of its report."""

import ast
import json

import pytest

from benchmarks import reliability
from benchmarks.promises import PROMISES, Promise
from benchmarks.record import ROOT
from tests.shared import REPOSITORY

REPORT = """<testsuites><testsuite name="pytest">
<testcase classname="tests.training.test_killed" name="test_killed[one]" time="2.5">
  <properties><property name="kills" value="400" /></properties></testcase>
<testcase classname="tests.training.test_killed" name="test_killed[two]" time="1.5">
  <properties><property name="kills" value="1000" /></properties></testcase>
<testcase classname="tests.training.test_killed" name="test_killed[three]" time="0"><skipped /></testcase>
<testcase classname="tests.test_plain" name="test_plain" time="0.5" />
</testsuite></testsuites>"""


def test_published_page_is_up_to_date(capsys):
    assert reliability.main(["--check"]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("promise", [p for section in PROMISES.values() for p in section], ids=lambda p: p.name)
def test_the_test_of_a_promise_exists(promise):
    module = ast.parse((REPOSITORY / promise.file).read_text(encoding="utf-8"))
    assert promise.name in {node.name for node in module.body if isinstance(node, ast.FunctionDef)}
    assert promise.text.endswith(".")


def test_every_section_is_on_the_page():
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert all(f"<!-- promises {section}:begin -->" in page for section in PROMISES)


def test_counts_by_hand(tmp_path, monkeypatch):
    path = tmp_path / "report.xml"
    path.write_text(REPORT)
    results = reliability.read_junit(path)
    killed = results["tests/training/test_killed.py::test_killed"]
    assert (killed["cases"], killed["skipped"], killed["seconds"], killed["counts"]) == (2, 1, 4.0, {"kills": 1400})
    promises = (
        Promise("Runs go on.", "tests/training/test_killed.py::test_killed"),
        Promise("Plain.", "tests/test_plain.py::test_plain"),
        Promise("New.", "tests/test_new.py::test_new"),
    )
    monkeypatch.setitem(reliability.PROMISES, "made", promises)
    assert reliability.render(results, "made").splitlines()[2:] == [
        "| Runs go on. | [`test_killed`](../tests/training/test_killed.py) | 1,400 kills (1 skipped) |",
        "| Plain. | [`test_plain`](../tests/test_plain.py) | 1 case |",
        "| New. | [`test_new`](../tests/test_new.py) | not run yet |",
    ]
    monkeypatch.setattr(reliability, "JSON", tmp_path / "reliability.json")
    reliability.save({name: result for name, result in results.items() if "killed" in name})
    reliability.save({name: result for name, result in results.items() if "plain" in name})
    assert set(json.loads(reliability.JSON.read_text())["results"]) == {promise.test for promise in promises[:2]}


def test_a_report_with_failures_is_refused(tmp_path):
    path = tmp_path / "report.xml"
    path.write_text(REPORT.replace("<skipped />", "<failure>no</failure>"))
    with pytest.raises(SystemExit, match=r"1 failed: tests/training/test_killed\.py::test_killed"):
        reliability.read_junit(path)
