"""The published numbers are those of the reference, and belong to networks that exist."""

import json

import pytest
import timm

import attnorm.models  # noqa: F401  # registers them
from attnorm.models.published import results, rows
from tests.shared import shared_file


def test_rows_of_both_releases():
    """Read off the two tables: AN's gain on ResNet-50 is 1.42 points by the first, 1.5 by the second."""
    first, second = results("resnet50_an")
    assert (first.release, first.recipe, first.accuracy) == ("aognet-v2", "normal", {"imagenet": (78.41, 94.12)})
    assert second.source == "docs/classification of iVMCL-Release"
    assert second.accuracy["imagenet"] == (78.4, 94.1)
    assert second.accuracy["imagenet_a"] == (8.2, 34.9)
    assert results("resnet50")[0].accuracy["imagenet"] == (76.99, 93.32)
    assert {row.recipe for row in results("resnetv1d101_an")} == {"advanced"}
    assert {row.recipe for row in results("aognet_40m")} == {"normal", "advanced"}
    assert results("resnet18_an") == ()
    assert not any("imagenet_o" in row.accuracy for row in rows())


def test_every_row_belongs_to_a_network():
    assert {row.model for row in rows()} <= set(timm.list_models())


def test_nothing_published_is_missing():
    """Every row that the authors trained themselves, with its numbers."""
    path = shared_file("reference/published_results.json")
    if not path.exists():
        pytest.skip(f"{path} is not there; ATTNORM_SHARED names the folder that holds it")
    published = [r for r in json.loads(path.read_text()) if r["source"] == "authors" and r["task"] != "coco-val2017"]
    first = [(r["top1"], r["top5"], r["params_m"]) for r in published if r["task"] == "imagenet-1k"]
    ours = [(*row.accuracy["imagenet"], row.params_m) for row in rows() if row.release == "aognet-v2"]
    assert ours == first
    second = {r["model"]: r for r in published if r["task"] == "imagenet-x"}
    converted = {row.name: row for row in rows() if row.release == "ivmcl-release"}
    assert converted.keys() == second.keys()
    for name, row in converted.items():
        theirs = [v for k, v in second[name]["accuracy"].items() if k != "imagenet-o"]
        assert [*row.accuracy.values()] == [
            (pytest.approx(100 * v["top1"]), pytest.approx(100 * v["top5"])) for v in theirs
        ]
