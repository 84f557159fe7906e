"""The table of models says what was counted, published and verified, and is that of the committed figures."""

import json

import pytest

from benchmarks import models_table
from tests.shared import shared_file

ROW = {
    "model": "resnet50_an",
    "parameters": 25_755_420,
    "macs": 4_089_000_000,
    "elements": {"add": 40_000_000, "relu": 24_000_000},
    "published": [
        {"recipe": "normal", "release": "aognet-v2", "params_m": 25.76, "top1": 78.41},
        {"recipe": "normal", "release": "ivmcl-release", "params_m": 25.755, "top1": 78.4},
    ],
    "recipes": ["configs/imagenet/resnet50_an.yaml"],
    "verified": [
        {"release": "aognet-v2", "original": "resnet-50-an-imagenet", "entries": 416, "logit_error": 6e-13},
        {"release": "ivmcl-release", "original": "resnet_50_an_bn2_imagenet", "entries": 416, "logit_error": None},
    ],
}


def test_a_row():
    lines = models_table.table({"rows": [ROW, {**ROW, "published": [], "recipes": [], "verified": []}]}).splitlines()
    assert lines[2] == (
        "| resnet50_an | 25,755,420 (25.755 / 25.76) | 4.089 | 0.064 | 78.41 / 78.4 |  "
        "| [resnet50_an](../configs/imagenet/resnet50_an.yaml) | 416 keys, logits to 6e-13 |"
    )
    assert lines[3] == "| resnet50_an | 25,755,420 | 4.089 | 0.064 |  |  |  | timm's contract |"


def test_what_is_counted_and_found():
    """Against reference 8 and the file that is there."""
    row = models_table.describe("mobilenetv2_100_an", None)
    assert row["parameters"] == 3_672_760
    assert round(row["macs"] / 1e9, 4) == 0.3010
    assert row["published"][0]["top1"] == 73.33
    assert "configs/imagenet/mobilenetv2_100_an.yaml" in row["recipes"]
    assert row["verified"] == []


def test_verified_against_the_original():
    reference = shared_file("reference")
    if not reference.exists():
        pytest.skip(f"{reference} is not there; ATTNORM_SHARED names the folder that holds it")
    found = models_table.verified("mobilenetv2_100_an", reference)
    assert [entry["original"] for entry in found] == ["mobilenetv2-an-imagenet", "mobilenetv2_an_imagenet"]
    assert all(entry["logit_error"] < 1e-8 for entry in found)


def test_the_published_page_is_up_to_date(capsys):
    assert models_table.main(["--check"]) == 0, capsys.readouterr().err


def test_the_committed_figures_are_of_all_models_and_within_the_bound():
    record = json.loads((models_table.RESULTS / "models.json").read_text(encoding="utf-8"))
    assert [row["model"] for row in record["rows"]] == models_table.names()
    errors = [found["logit_error"] for row in record["rows"] for found in row["verified"]]
    known = [error for error in errors if error is not None]
    assert len(known) == 35
    assert max(known) < 1e-8
