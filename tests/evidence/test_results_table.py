"""The tables of the README and the docs come from committed JSON files, without a trace of the machine's folders."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import results_table


@pytest.fixture
def site(tmp_path: Path, result: dict[str, Any]) -> Path:
    """A repository with a README that wants the table, and a comparison to take in."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("# x\n<!-- table made_up:begin -->\nold\n<!-- table made_up:end -->\nend\n")
    (tmp_path / "docs" / "results.md").write_text("# Results\n")
    (tmp_path / "compare.json").write_text(json.dumps(result))
    return tmp_path


def test_published_pages_are_up_to_date(capsys: pytest.CaptureFixture[str]):
    assert results_table.main(["--check"]) == 0, capsys.readouterr().err


def test_add_fills_the_markers(site: Path):
    (site / "docs" / "results.md").write_text(
        "# Results\n<!-- section made_up:begin -->\n<!-- section made_up:end -->\n"
    )
    assert results_table.main(["--add", "made_up", str(site / "compare.json")], root=site) == 0
    readme = (site / "README.md").read_text()
    assert "old" not in readme
    assert "| an | 92.20 ± 0.17 | +1.00 [+0.75, +1.25] | 77.9 k | 12.3 M |" in readme.replace("77.8 k", "77.9 k")
    assert readme.endswith("end\n")
    section = (site / "docs" / "results.md").read_text()
    assert "an against bn: +1.00 points" in section
    assert (site / "docs" / "images" / "made_up-accuracy.png").exists()
    assert results_table.main(["--check"], root=site) == 0
    again = (site / "README.md").read_text(), (site / "docs" / "results.md").read_text()
    assert results_table.main([], root=site) == 0
    assert ((site / "README.md").read_text(), (site / "docs" / "results.md").read_text()) == again


def test_a_comparison_that_no_page_names_gets_a_section(site: Path):
    (site / "README.md").write_text("# x\n")
    assert results_table.main(["--add", "made_up", str(site / "compare.json")], root=site) == 0
    assert "## made_up" in (site / "docs" / "results.md").read_text()
    assert results_table.main(["--check"], root=site) == 0


def test_check_finds_a_number_changed_by_hand(site: Path):
    results_table.main(["--add", "made_up", str(site / "compare.json")], root=site)
    text = (site / "README.md").read_text()
    (site / "README.md").write_text(text.replace("+1.00", "+2.00"))
    assert results_table.main(["--check"], root=site) == 1


def test_folders_of_the_machine_are_not_published(site: Path):
    results_table.main(["--add", "made_up", str(site / "compare.json")], root=site)
    text = (site / "benchmarks" / "results" / "made_up.json").read_text()
    assert "somewhere" not in text
    assert "elsewhere" not in text
    assert json.loads(text)["command"] == "attnorm compare --models bn,se,an --data-dir DATA_DIR --output OUTPUT"
    assert json.loads(text)["models"] == json.loads((site / "compare.json").read_text())["models"]


def test_weights_to_start_from_are_named_without_their_folder(result: dict[str, Any]):
    config = result["config"] | {"initial_checkpoint": "/elsewhere/weights/{backbone}.safetensors"}
    run = {"record": {"initial": {"source": "/elsewhere/weights/resnet18.safetensors", "taken": ["conv1.weight"]}}}
    recipe = results_table.ROOT / "configs" / "quickstart" / "nuclei.yaml"
    command = f"attnorm compare --config {recipe} --initial-checkpoint '/elsewhere/weights/{{backbone}}.safetensors'"
    public = results_table.without_paths(result | {"config": config, "runs": [run], "command": command})
    assert public["config"]["initial_checkpoint"] == "{backbone}.safetensors"
    assert public["runs"][0]["record"]["initial"] == {"source": "resnet18.safetensors", "taken": ["conv1.weight"]}
    start = "attnorm compare --config configs/quickstart/nuclei.yaml"
    assert public["command"] == f"{start} --initial-checkpoint '{{backbone}}.safetensors'"


def test_costs_that_were_measured_get_a_table(site: Path, result: dict[str, Any]):
    """Beside the outcome, and a second line of a cell stays in its row."""
    (site / "README.md").write_text("# x\n")
    told = {"median": 1.25, "low": 1.23, "high": 1.28, "rounds": 21}
    result["models"][2] |= {"elementwise": 4_321_000, "train_ratio": told}
    result["measured"] = {"device": "cpu", "batch_size": 64, "meter": None, "no_meter": "there is none"}
    (site / "compare.json").write_text(json.dumps(result))
    assert results_table.main(["--add", "made_up", str(site / "compare.json")], root=site) == 0
    section = (site / "docs" / "results.md").read_text()
    assert "| an | 92.20 ± 0.17 | +1.00 [+0.75, +1.25] | [+0.64, +1.36] ahead |\n" in section
    assert "| an | 77.8 k | 12.3 M | 4.32 M | 0.3 ± 10%<br>× 1.25 [1.23, 1.28] | 0.15 ± 0% |\n" in section
