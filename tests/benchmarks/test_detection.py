"""The interval of a difference in average precision, and the table of the detection path."""

import json

import pytest

from benchmarks import detection
from benchmarks.detection import difference

BOXES = ([0, 0, 10, 10], [20, 20, 10, 10])


def truth(images: int) -> dict:
    return {
        "images": [{"id": 10 * i, "width": 40, "height": 40, "file_name": f"{i}.png"} for i in range(images)],
        "categories": [{"id": 7, "name": "thing"}],
        "annotations": [
            {"id": 2 * i + j, "image_id": 10 * i, "category_id": 7, "bbox": box, "area": 100, "iscrowd": 0}
            for i in range(images)
            for j, box in enumerate(BOXES)
        ],
    }


def results(path, images, found):
    entries = [
        {"image_id": 10 * i, "category_id": 7, "bbox": box, "score": 0.9} for i in range(images) for box in found(i)
    ]
    path.write_text(json.dumps(entries))
    return path


def test_equal_networks_have_no_difference(tmp_path, monkeypatch):
    monkeypatch.setattr(detection, "RESAMPLES", 5)
    same = results(tmp_path / "a.json", 4, lambda i: BOXES)
    assert difference(truth(4), same, same, "bbox") == {
        "points": 0.0, "interval": [0.0, 0.0], "resamples": 5, "images": 4,
    }  # fmt: skip


def test_half_of_the_objects_are_half_of_the_precision(tmp_path, monkeypatch):
    """Every image is alike, so that every resample gives the same: AP 1 and 51 of the 101 points of recall."""
    monkeypatch.setattr(detection, "RESAMPLES", 5)
    one, both = (results(tmp_path / f"{n}.json", 4, lambda i, n=n: BOXES[:n]) for n in (1, 2))
    found = difference(truth(4), one, both, "bbox")
    assert found["points"] == pytest.approx(100 * (1 - 51 / 101))
    assert found["interval"] == pytest.approx([found["points"]] * 2)


def test_the_interval_is_over_images(tmp_path, monkeypatch):
    """Only one image of four has its objects found: a resample holds it 0 to 4 times, and AP goes with that."""
    monkeypatch.setattr(detection, "RESAMPLES", 50)
    none = results(tmp_path / "none.json", 4, lambda i: ())
    some = results(tmp_path / "some.json", 4, lambda i: BOXES if i == 0 else ())
    low, high = difference(truth(4), none, some, "bbox")["interval"]
    assert low == 0
    assert high >= 100 * 51 / 101


def test_the_table_by_hand():
    numbers = {f"{kind}_{metric}": 0.125 for kind in ("box", "mask") for metric in ("AP", "AP50", "AP75")}
    network = {**numbers, "mask_AP": 0.3456, "epochs": 6, "params": 44_123_456, "backbone": {"top1": 57.9}}
    found = {"points": 1.25, "interval": [-0.5, 3.0], "resamples": 200, "images": 67}
    record = {"steps": [{"case": "nuclei", "networks": {"a": network}, "differences": {"mask": found}}]}
    lines = detection.table(record, "nuclei").splitlines()
    assert lines[2] == "| a | 12.5 | 12.5 | 12.5 | 34.6 | 12.5 | 12.5 | 6 | 44.12 | 57.9 |"
    assert "mask AP: +1.2 points, 95% interval over the 67 images [-0.5, +3.0]" in lines[-1]
    assert detection.table(record, "coco_free") == "Not measured yet.\n"
