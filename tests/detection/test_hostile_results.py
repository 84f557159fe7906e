"""Damaged and malicious results and ground truth of `attnorm eval --annotations --predictions`."""

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnorm.detection import coco_entries
from attnorm.detection.average_precision import METRICS, average_precision
from tests.data.apart import apart
from tests.data.json_mutations import RAW, WRONG, places, replaced, without
from tests.data.reading import measured_or_message
from tests.fuzz import fuzzed

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own

SQUARE = [[10, 10, 30, 10, 30, 30, 10, 30]]
RUNS = {"size": [100, 80], "counts": [1010, 20, 6970]}
TRUTH = {
    "images": [{"id": 5, "height": 100, "width": 80}, {"id": 9, "height": 100, "width": 80}],
    "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
    "annotations": [
        {"id": 1, "image_id": 5, "category_id": 7, "bbox": [10, 10, 20, 20], "area": 400, "segmentation": SQUARE},
        {"id": 2, "image_id": 9, "category_id": 3, "bbox": [9.5, 9, 20, 20], "iscrowd": 1, "segmentation": RUNS},
    ],
}
RESULTS = [
    {"image_id": 5, "category_id": 7, "bbox": [10, 10, 20, 19.5], "score": 0.9, "segmentation": SQUARE},
    {"image_id": 9, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.3, "segmentation": RUNS},
]
TYPES = ("bbox", "segm")


def check(truth, results, iou_type, tally, *, twice: bool = False) -> None:
    """Measure the files; if they are accepted, the numbers must be shares, and `twice` also those of pycocotools."""
    found = measured_or_message(str(truth), str(results), iou_type)
    tally["inputs"] += 1
    if isinstance(found, str):
        assert found.replace("\ufeff", "").isprintable()
        assert str(truth) in found or str(results) in found
        assert len(found) < 1000
        return
    tally["read"] += 1
    numbers = shares(found)
    assert all(number == -1 or 0 <= number <= 1 for number in numbers)
    if twice:
        theirs = average_precision(truth, results, iou_type, backend="pycocotools")
        assert numbers == pytest.approx(shares(theirs), rel=1e-12)


def shares(measured) -> list[float]:
    """All numbers, -1 where there is none; NaN is no share, and fails whoever compares."""
    numbers = [measured[name] for name in METRICS] + [row["AP"] for row in measured["per_category"]]
    return [-1 if number is None else number for number in numbers]


@pytest.fixture
def files(tmp_path):
    paths = (tmp_path / "truth.json", tmp_path / "results.json")
    for path, value in zip(paths, (TRUTH, RESULTS), strict=True):
        path.write_text(json.dumps(value))
    return paths


@pytest.mark.parametrize("iou_type", TYPES)
def test_every_value_in_turn_is_replaced(files, iou_type, tally):
    """By each of the wrong values, and left out: refused, or measured as pycocotools measures it."""
    for path, sound in zip(files, (TRUTH, RESULTS), strict=True):
        for number, place in enumerate(places(sound)):
            for kind, value in enumerate(WRONG):
                path.write_text(json.dumps(replaced(sound, place, value)))
                check(*files, iou_type, tally, twice=(number + kind) % 5 == 0)
            if place:
                path.write_text(json.dumps(without(sound, place)))
                check(*files, iou_type, tally)
        path.write_text(json.dumps(sound))
    assert 0 < tally["read"] < tally["inputs"] / 2


@pytest.mark.parametrize("raw", RAW, ids=lambda raw: f"{raw[:12]!r}x{len(raw)}")
def test_json_bombs_and_files_that_are_no_json(files, raw, tally):
    for path in files:
        sound = path.read_bytes()
        path.write_bytes(raw)
        outcome = apart(measured_or_message, *map(str, files), "bbox", seconds=20, memory=2**31)
        path.write_bytes(sound)
        if isinstance(outcome.value, str):
            assert outcome.value.replace("\ufeff", "").isprintable()
            assert str(path) in outcome.value
        else:
            assert (path, json.loads(raw)) == (files[1], [])  # no results are results
        assert outcome.peak < 2**26 + 40 * len(raw)
        tally["bombs"] += 1


def test_masks_that_together_would_fill_the_memory(files, monkeypatch):
    """A polygon across an image of 65,535 pixels takes 150,000 bytes as run lengths, in 70 of JSON."""
    large = copy.deepcopy(TRUTH)
    large["images"][0] |= {"height": 65_535, "width": 65_535}
    files[0].write_text(json.dumps(large))
    thin = [[0, 0, 65_535, 30_000, 0, 10]]
    files[1].write_text(json.dumps([RESULTS[0] | {"segmentation": thin}] * 50))
    monkeypatch.setattr(coco_entries, "MASKS", 2**20)
    found = measured_or_message(*map(str, files), "segm")
    assert f"the masks of {files[1]} take more than" in found


PLACES = [(which, place) for which, sound in enumerate((TRUTH, RESULTS)) for place in places(sound)]
CHANGE = st.tuples(st.sampled_from(PLACES), st.integers(0, len(WRONG)))
EDIT = st.tuples(
    st.integers(0, 1), st.sampled_from(("flip", "cut", "double")), st.integers(0, 5000), st.integers(1, 255)
)


@fuzzed(300)
@given(changes=st.lists(CHANGE, max_size=3), edits=st.lists(EDIT, max_size=1), iou_type=st.sampled_from(TYPES))
def test_changed_files_are_measured_or_refused(files, tally, changes, edits, iou_type):
    contents = [TRUTH, RESULTS]
    for (which, place), kind in changes:
        try:
            change = (
                replaced(contents[which], place, WRONG[kind]) if kind < len(WRONG) else without(contents[which], place)
            )
        except (KeyError, IndexError, TypeError):  # an earlier change has removed the place, or it is the whole
            continue
        contents[which] = change
    raws = [bytearray(json.dumps(value).encode()) for value in contents]
    for which, kind, place, value in edits:
        at = place % len(raws[which])
        if kind == "flip":
            raws[which][at] ^= 1 << value % 8
        elif kind == "cut":
            del raws[which][at:]
        else:
            raws[which][at:at] = raws[which][at : at + value]
    for path, raw in zip(files, raws, strict=True):
        path.write_bytes(raw)
    check(*files, iou_type, tally)
