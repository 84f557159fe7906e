"""The published numbers of detectors are those of the reference, and belong to the heads they were measured with."""

import json

import pytest

from attnorm.detection.config import DetectorConfig, split_name
from attnorm.detection.published import results, rows
from tests.shared import shared_file

NORMS = {"none": "-", "an_gn": "AN (w/ GN)"}
BACKBONES = {"resnet50": "ResNet-50", "resnet101": "ResNet-101", "aognet_12m": "AOGNet-12m", "aognet_40m": "AOGNet-40m"}


def test_heads_tell_rows_apart():
    plain = DetectorConfig(box_head="4conv1fc")
    an = DetectorConfig(box_head="4conv1fc", fpn_norm="gn", box_norm="an_gn", mask_norm="gn")
    first, second = results("mask_rcnn_resnet50_an_fpn", plain)
    assert (first.box_AP, first.mask_AP, first.params_m, first.source) == (
        *(40.8, 36.4, 45.91),
        "README of AttentiveNorm_Detection",
    )
    assert (second.box_AP, second.mask_AP, second.source) == (41.5, 36.8, "docs/detection of iVMCL-Release")
    assert [row.box_AP for row in results("mask_rcnn_resnet50_an_fpn", an)] == [41.6]
    assert results("mask_rcnn_resnet50_an_fpn", DetectorConfig()) == ()
    assert [row.mask_AP for row in results("cascade_mask_rcnn_aognet_40m_an_fpn", DetectorConfig())] == [40.0]


def test_nothing_published_is_missing():
    """Every row of the first release that the authors trained themselves, and the two trained for the second."""
    path = shared_file("reference/published_results.json")
    if not path.exists():
        pytest.skip(f"{path} is not there; ATTNORM_SHARED names the folder that holds it")
    published = [r for r in json.loads(path.read_text()) if r["source"] == "authors" and r["task"] == "coco-val2017"]
    expected = [
        (r["detector"], r["backbone"], r["backbone_norm"], r["head_norm"], r["params_m"], r["box_ap"], r["mask_ap"])
        for r in published
        if "trained_with" not in r
    ]
    ours = []
    for row in rows():
        kind, backbone = split_name(row.model)
        if row.release == "attentivenorm-detection":
            ours.append(
                (
                    {"mask_rcnn": "Mask R-CNN", "cascade_mask_rcnn": "Cascade Mask R-CNN"}[kind],
                    BACKBONES[backbone.removesuffix("_an")],
                    "AN (w/ BN)" if backbone.endswith("_an") else "BN",
                    NORMS[row.settings["box_norm"]],
                    *(row.params_m, row.box_AP, row.mask_AP),
                )
            )
    assert sorted(ours) == sorted(expected)
    anew = [(r["box_ap"], r["mask_ap"]) for r in published if r.get("trained_with") in ("This repo", "MMDet trained")]
    assert [(row.box_AP, row.mask_AP) for row in rows() if row.release == "ivmcl-release"] == anew


def test_every_row_has_its_state_dict():
    path = shared_file("reference/state_dicts")
    if not path.exists():
        pytest.skip(f"{path} is not there; ATTNORM_SHARED names the folder that holds it")
    assert [row.name for row in rows() if not (path / row.release / f"{row.name}.json").exists()] == []
