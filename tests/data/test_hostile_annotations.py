"""Damaged and malicious annotation files: read as pycocotools reads them, or refused in one line."""

import contextlib
import io
import json
import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as pycoco
from pycocotools.coco import COCO

from attnorm.data import load_detection
from attnorm.data.annotations import Annotations
from attnorm.data.coco_masks import run_lengths
from attnorm.data.problems import Problems
from attnorm.errors import DataError
from tests.data.apart import apart
from tests.data.coco_sets import SQUARE, annotation, config, content, write
from tests.data.json_mutations import RAW, WRONG, places, replaced, without
from tests.data.reading import annotations_or_message
from tests.fuzz import fuzzed

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own

COMPRESSED = pycoco.encode(np.asfortranarray(np.tri(16, 20, dtype=np.uint8)))
COMPRESSED = {"size": [16, 20], "counts": COMPRESSED["counts"].decode()}
SOUND = content(
    [
        annotation(1, 1),
        annotation(2, 1, segmentation=[[1.5, 2, 9, 3.25, 5, 12], *SQUARE]),
        annotation(3, 2, 7, segmentation={"size": [16, 20], "counts": [35, 6, 279]}, iscrowd=1),
        annotation(4, 2, 7, bbox=[0, 0, 20, 16], segmentation={"size": [16, 20], "counts": [0, 320]}),
        annotation(5, 2, segmentation=COMPRESSED),
    ]
)


def assert_message(text: Any, file: str) -> None:
    assert isinstance(text, str)
    assert text.replace("\ufeff", "").isprintable()
    assert file in text
    assert len(text) < 1000


def assert_as_the_file_says(annotations: Annotations, said: dict[str, Any]) -> None:
    """All that was read, against the file's own numbers and pycocotools' masks."""
    truth = COCO()
    truth.dataset = said
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    labels = {id: label for label, id in enumerate(sorted(category["id"] for category in said["categories"]), 1)}
    assert len(annotations.files) == len(said["images"])
    for index, image in enumerate(said["images"]):
        height, width = image["height"], image["width"]
        assert (annotations.files[index], annotations.size(index)) == (image["file_name"], (height, width))
        entries = [entry for entry in said["annotations"] if entry["image_id"] == image["id"]]
        assert annotations.crowd[slice(*annotations.starts[index : index + 2])].tolist() == [
            entry.get("iscrowd", 0) == 1 for entry in entries
        ]
        entries = [entry for entry in entries if not entry.get("iscrowd", 0)]
        with_masks = annotations.segmentations is not None and height * width < 10**6
        target = annotations.target(index, masks=with_masks)
        boxes = np.array([entry["bbox"] for entry in entries], dtype=np.float64).reshape(-1, 4)
        assert np.isfinite(boxes).all()
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1).clip(0, [width, height] * 2)
        np.testing.assert_array_equal(target["boxes"], corners.astype(np.float32))
        assert (corners[:, :2] < corners[:, 2:]).all()
        assert target["labels"].tolist() == [labels[entry["category_id"]] for entry in entries]
        assert target["area"].isfinite().all()
        for mask, entry in zip(target.get("masks", ()), entries, strict=with_masks):
            np.testing.assert_array_equal(mask, truth.annToMask(entry))


def numbers_are_numbers(said: dict[str, Any]) -> bool:
    """Whether the file has, where numbers must stand, such numbers only."""
    finite = [number for entry in said["annotations"] for number in entry["bbox"]]
    finite += [entry["area"] for entry in said["annotations"] if entry.get("area") is not None]
    whole = [entry[key] for entry in said["images"] for key in ("id", "width", "height")]
    whole += [entry[key] for entry in said["annotations"] for key in ("id", "image_id", "category_id")]
    whole += [entry["id"] for entry in said["categories"]]
    return all(type(n) in (int, float) and math.isfinite(n) for n in finite) and {*map(type, whole)} == {int}


def check(path, tally) -> None:
    """Read the file; if it is accepted, it must be sound."""
    found = annotations_or_message(str(path))
    tally["inputs"] += 1
    if isinstance(found, str):
        assert_message(found, str(path))
        return
    tally["read"] += 1
    said = json.loads(path.read_bytes())
    assert numbers_are_numbers(said)
    assert_as_the_file_says(found, said)


def test_the_sound_file_is_read(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps(SOUND))
    assert_as_the_file_says(annotations_or_message(str(tmp_path / "x.json")), SOUND)


def test_every_value_in_turn_is_replaced(tmp_path, tally):
    """By each of the wrong values, and left out, and given twice."""
    path = tmp_path / "instances.json"
    for place in places(SOUND):
        for value in WRONG:
            path.write_text(json.dumps(replaced(SOUND, place, value)))
            check(path, tally)
        if place:
            path.write_text(json.dumps(without(SOUND, place)))
            check(path, tally)
    for name in ("images", "annotations", "categories"):
        path.write_text(json.dumps({**SOUND, name: SOUND[name] + SOUND[name][-1:]}))
        assert isinstance(annotations_or_message(str(path)), str)  # ids that collide
    assert tally["read"] < tally["inputs"] / 4


@pytest.mark.parametrize("raw", RAW, ids=lambda raw: f"{raw[:12]!r}x{len(raw)}")
def test_json_bombs_and_files_that_are_no_json(tmp_path, raw, tally):
    path = tmp_path / "instances.json"
    path.write_bytes(raw)
    outcome = apart(annotations_or_message, str(path), seconds=20, memory=2**31)
    assert_message(outcome.value, str(path))
    assert outcome.peak < 2**25 + 40 * len(raw)
    tally["bombs"] += 1


def test_a_key_that_stands_twice_is_refused(tmp_path):
    """Readers take either: here, half of the annotations would be lost without a word."""
    (tmp_path / "x.json").write_text(
        json.dumps(SOUND)[:-1] + f', "annotations": {json.dumps(SOUND["annotations"][:1])}}}'
    )
    assert "the key 'annotations' stands in an object twice" in annotations_or_message(str(tmp_path / "x.json"))


def test_many_problems_take_no_memory():
    problems = Problems()
    tracemalloc.start()
    for number in range(10**5):
        problems.add("bad entries", f"number {number}")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10**4
    assert str(problems).startswith("100000 bad entries (number 0, number 1, ")
    assert str(problems).endswith("number 9 and 99990 more)")


def test_a_file_in_utf_16_or_with_a_byte_order_mark_is_read(tmp_path):
    for encoding in ("utf-16", "utf-8-sig", "utf-32"):
        (tmp_path / "x.json").write_text(json.dumps(SOUND), encoding=encoding)
        assert len(annotations_or_message(str(tmp_path / "x.json")).labels) == 5


ZIGZAG = [value for number in range(10_000) for value in (-900.0 if number % 2 else 1900.0, number % 1000)]
HEAVY = {
    "a polygon that crosses the image ten thousand times": ([ZIGZAG], "outlines above"),
    "four thousand polygons of three long edges": (
        [[0.0, 0, 1000, 1, 0, 2000 - i % 999] for i in range(4000)],
        "outlines",
    ),
    "runs whose sum passes through 64 bits": (
        {"size": [1000, 1000], "counts": [2**62] * 4 + [10**6]},
        "do not make up",
    ),
    "differences beyond 32 bits": ({"size": [1000, 1000], "counts": "ooooooN" * 10**5}, "do not make up"),
    "runs of an image of 10^9 by 10^9": ({"size": [10**9, 10**9], "counts": [10**18]}, "of another size"),
    "a million runs of nothing": ({"size": [1000, 1000], "counts": [0] * 10**6}, "do not make up"),
}


@pytest.mark.parametrize("kind", HEAVY)
def test_masks_that_would_fill_the_memory(tmp_path, kind, tally):
    image = {"id": 1, "file_name": "1.png", "width": 1000, "height": 1000}
    segmentation, message = HEAVY[kind]
    heavy = annotation(1, segmentation=segmentation)
    del heavy["area"]  # so that it would be counted
    (tmp_path / "x.json").write_text(json.dumps({**SOUND, "images": [image], "annotations": [heavy]}))
    size = (tmp_path / "x.json").stat().st_size
    outcome = apart(annotations_or_message, str(tmp_path / "x.json"), seconds=20, memory=2**31)
    assert_message(outcome.value, str(tmp_path / "x.json"))
    assert message in outcome.value
    assert "annotation 1" in outcome.value
    assert outcome.peak < 2**25 + 40 * size
    tally["masks"] += 1


def test_a_polygon_of_a_million_points_is_drawn(tmp_path):
    outline = [
        value for turn in np.linspace(0, 2 * np.pi, 10**6) for value in (8 + 6 * np.cos(turn), 8 + 6 * np.sin(turn))
    ]
    one = content([annotation(1, segmentation=[outline])], images=1)
    (tmp_path / "x.json").write_text(json.dumps(one))
    outcome = apart(annotations_or_message, str(tmp_path / "x.json"), seconds=60, memory=2**31)
    assert_as_the_file_says(outcome.value, one)


def test_a_link_in_a_circle_beside_the_images_is_no_image(tmp_path):
    write(tmp_path)
    circle = tmp_path / "images" / "train" / "circle.png"
    circle.symlink_to(circle)
    assert len(load_detection(config(tmp_path)).train) == 2
    named = content()
    named["images"][0]["file_name"] = "circle.png"
    (tmp_path / "annotations" / "instances_train.json").write_text(json.dumps(named))
    with pytest.raises(DataError, match=r"1 images that are not in .*circle\.png"):
        load_detection(config(tmp_path))


PLACES = list(places(SOUND))
CHANGE = st.tuples(st.integers(0, len(PLACES) - 1), st.integers(0, len(WRONG) + 1))
EDIT = st.tuples(st.sampled_from(("flip", "cut", "double", "drop")), st.integers(0, 5000), st.integers(0, 255))


def changed(changes: list[tuple[int, int]], edits: list[tuple[str, int, int]]) -> bytes:
    """The sound file with values replaced, left out or taken from elsewhere in it, and then its bytes edited."""
    made = SOUND
    for place, kind in changes:
        path = PLACES[place]
        with contextlib.suppress(KeyError, IndexError, TypeError):  # an earlier change has removed the place
            if kind < len(WRONG):
                made = replaced(made, path, WRONG[kind])
            elif kind == len(WRONG) and path:
                made = without(made, path)
            else:
                value = SOUND
                for key in PLACES[(7 * place + len(changes)) % len(PLACES)]:
                    value = value[key]
                made = replaced(made, path, value)
    raw = bytearray(json.dumps(made).encode())
    for kind, place, value in edits:
        at = place % max(len(raw), 1)
        if kind == "flip" and raw:
            raw[at] ^= 1 << value % 8
        elif kind == "cut":
            del raw[at:]
        elif kind == "double":
            raw[at:at] = raw[at : at + value]
        else:
            del raw[at : at + value % 8]
    return bytes(raw)


@fuzzed(300)
@given(changes=st.lists(CHANGE, max_size=3), edits=st.lists(EDIT, max_size=2))
def test_changed_files_are_read_or_refused(tmp_path, tally, changes, edits):
    path = tmp_path / "instances.json"
    path.write_bytes(changed(changes, edits))
    check(path, tally)


@fuzzed(300)
@given(text=st.one_of(st.binary(max_size=40), st.text("0123OPQPo_`~MNn", max_size=60).map(str.encode)))
def test_compressed_runs_are_those_of_pycocotools(text, tally):
    """Whatever the text: the runs that pycocotools draws, or a ValueError."""
    tally["inputs"] += 1
    try:
        runs = run_lengths(text)
    except ValueError:
        return
    if runs.min() < 0 or runs.sum() > 10**6 or runs.max() > 10**6:
        return
    size = (int(runs.sum()), 1)
    if not size[0]:
        return
    drawn = pycoco.decode({"size": size, "counts": text})[:, 0]
    np.testing.assert_array_equal(drawn, np.repeat(np.arange(len(runs)) % 2, runs))
    tally["drawn"] += 1
