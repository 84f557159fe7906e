"""COCO's numbers against those that COCO's own code gave, and what is said to damaged files."""

import copy
import json

import pytest

from attnorm.detection.average_precision import METRICS, average_precision
from attnorm.errors import ConfigError, DataError
from tests.shared import shared_file

BACKENDS = ("faster-coco-eval", "pycocotools")
SQUARE = [10, 10, 30, 10, 30, 30, 10, 30]


@pytest.fixture(scope="module")
def check():
    """The folder with ground truth, results and expected numbers."""
    folder = shared_file("data/coco_eval_check")
    if not folder.exists():
        pytest.skip(f"{folder} is not there; ATTNORM_SHARED names the folder that holds it")
    return folder


@pytest.fixture
def truth():
    """Two images of 100 x 80; one 20 x 20 instance of category 7 on the first, none of category 3."""
    return {
        "images": [{"id": 5, "height": 100, "width": 80}, {"id": 9, "height": 100, "width": 80}],
        "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
        "annotations": [
            {"id": 0, "image_id": 5, "category_id": 7, "bbox": [10, 10, 20, 20], "area": 400, "iscrowd": 0,
             "segmentation": [SQUARE]},
        ],
    }  # fmt: skip


def result(**changes):
    return {"image_id": 5, "category_id": 7, "bbox": [10, 10, 20, 20], "score": 0.9, "segmentation": [SQUARE]} | changes


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_published_numbers(check, iou_type, backend, capfd):
    found = average_precision(
        check / "instances_val2014_100.json",
        check / f"instances_val2014_fake{iou_type}100_results.json",
        iou_type,
        backend=backend,
    )
    expected = json.loads((check / "expected_stats.json").read_text())
    assert [found[name] for name in METRICS] == pytest.approx(expected["published"][iou_type], abs=1e-9, rel=0)
    categories = expected["per_category_AP"][iou_type]
    assert {row["name"]: row["AP"] for row in found["per_category"]} == {
        name: None if value is None else pytest.approx(value, abs=1e-9, rel=0) for name, value in categories.items()
    }
    assert (found["images"], found["detections"], found["instances"]) == (100, 734, 839 - 9)  # 9 are crowds
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_by_hand(truth, iou_type, backend):
    """A box of 19 x 17 pixels in one of 20 x 20 overlaps it by 0.8075: right at 7 of the 10 thresholds, up to 0.8.

    The only instance has 400 pixels: small. Its annotation's id is 0, which pycocotools by itself takes for no match.
    """
    before = copy.deepcopy(truth)
    shape = [10, 10, 29, 10, 29, 27, 10, 27]
    good = result(bbox=[10, 10, 19, 17], segmentation=[shape])
    wrong = result(image_id=9, score=0.8)
    found = average_precision(truth, [good, wrong], iou_type, backend=backend)
    assert [found[name] for name in ("AP50", "AP75")] == pytest.approx([1, 1])
    assert [found[name] for name in ("AP", "APs", "AR1", "AR100", "ARs")] == pytest.approx([0.7] * 5)
    assert found["APm"] is found["APl"] is found["ARm"] is found["ARl"] is None
    assert [(row["name"], row["AP"]) for row in found["per_category"]] == [("dog", None), ("cat", pytest.approx(0.7))]
    # the wrong one first: half of the answers up to the right one are wrong
    found = average_precision(truth, [good, wrong | {"score": 0.95}], iou_type, backend=backend)
    assert found["AP"] == pytest.approx(0.35)
    assert truth == before


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_found_and_nothing_there(truth, backend):
    nothing = average_precision(truth, [], "segm", backend=backend)
    assert nothing["AP"] == nothing["AP50"] == nothing["APs"] == nothing["AR100"] == 0
    assert nothing["APl"] is None
    truth["annotations"] = []
    empty = average_precision(truth, [result()], "bbox", backend=backend)
    assert {empty[name] for name in METRICS} == {None}
    assert [row["AP"] for row in empty["per_category"]] == [None, None]


@pytest.mark.parametrize("backend", BACKENDS)
def test_all_forms_of_masks_are_one(truth, backend):
    """The square as polygon, as run lengths and compressed, in ground truth and in results."""
    from pycocotools import mask

    lengths = [10 * 100 + 10] + [20, 80] * 19 + [20, 100 * 80 - 1010 - 19 * 100 - 20]
    plain = {"size": [100, 80], "counts": lengths}
    packed = mask.frPyObjects(plain, 100, 80)
    text = {"size": [100, 80], "counts": packed["counts"].decode()}
    for form in ([SQUARE], plain, text):
        truth["annotations"][0]["segmentation"] = form
        for other in ([SQUARE], plain, text):
            assert average_precision(truth, [result(segmentation=other)], "segm", backend=backend)[
                "AP"
            ] == pytest.approx(1)


def test_the_size_of_a_mask_is_its_own(truth):
    """Where an entry has box and mask, the box is of 100 x 80 pixels (medium) and the mask of 20 x 20 (small)."""
    truth["annotations"][0] |= {"area": 2000, "bbox": [0, 0, 80, 100]}
    false = result(image_id=9, bbox=[0, 0, 80, 100], score=1.0)
    with_box = average_precision(truth, [result(), false], "segm")
    del false["bbox"]
    assert with_box == average_precision(truth, [result(), false], "segm")
    # out of the size asked for, a wrong detection counts in no way: 1, not 1/2
    assert with_box["APm"] == 1
    assert average_precision(truth, [result(bbox=[0, 0, 80, 100]), false | {"bbox": [0, 0, 80, 100]}], "bbox")[
        "APm"
    ] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("iou_type", "change", "message"),
    [
        ("bbox", {"image_id": 6}, r"1 entries of unknown images \(entry 1\)"),
        ("bbox", {"image_id": "5"}, "of unknown images"),
        ("bbox", {"category_id": 1}, r"1 entries of unknown categories \(entry 1\)"),
        ("bbox", {"category_id": [7]}, "of unknown categories"),
        ("bbox", {"bbox": None}, "without bbox"),
        ("bbox", {"bbox": [1, 2, 3]}, "boxes that are not"),
        ("bbox", {"bbox": [1, 2, 3, -1]}, "boxes that are not"),
        ("bbox", {"bbox": [1, 2, float("nan"), 4]}, "boxes that are not"),
        ("bbox", {"score": float("inf")}, r"1 entries without a finite score \(entry 1\)"),
        ("bbox", {"score": 10**400}, "without a finite score"),
        ("bbox", {"score": "0.5"}, "without a finite score"),
        ("segm", {"segmentation": {"size": [80, 100], "counts": "5"}}, "RLEs of another size than the image"),
        ("segm", {"segmentation": {"size": [100, 80], "counts": "5"}}, "RLEs whose runs do not make up the image"),
        ("segm", {"segmentation": {"size": [100, 80], "counts": "PPP\x7f"}}, "do not make up"),
        ("segm", {"segmentation": {"size": [100, 80], "counts": "o" * 50}}, "do not make up"),
        ("segm", {"segmentation": {"size": [100, 80], "counts": "ä"}}, "do not make up"),
        ("segm", {"segmentation": {"size": [100, 80], "counts": ""}}, "do not make up"),
        ("segm", {"segmentation": {"size": [100, 80], "counts": [-1, 8001]}}, "do not make up"),
        ("segm", {"segmentation": {"size": [100, 80], "counts": [10**30]}}, "do not make up"),
        ("segm", {"segmentation": {"size": [100, 80]}}, "do not make up"),
        ("segm", {"segmentation": []}, "without segmentation"),
        ("segm", {"segmentation": [[1, 1, 2, 2]]}, "polygons with fewer than 6 numbers"),
        ("segm", {"segmentation": [[1, 1, 2, 2, 1e9, 0]]}, "polygons that leave the image"),
        ("segm", {"segmentation": "polygon"}, "neither polygons nor RLE"),
    ],
)  # fmt: skip
def test_damaged_results_are_refused(truth, iou_type, change, message):
    with pytest.raises(DataError, match=message) as caught:
        average_precision(truth, [result(), result(**change), result()], iou_type)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"the list of results must be COCO results ({iou_type})")


def test_all_that_is_wrong_is_said_at_once(truth):
    results = [result(image_id=n) for n in range(3)] + [{"image_id": 5}, 3, result(score=None)]
    with pytest.raises(DataError) as caught:
        average_precision(truth, results, "bbox")
    text = str(caught.value)
    assert "3 entries of unknown images (entry 0, entry 1, entry 2); 1 entries of unknown categories (entry 3)" in text
    assert "1 entries that are no objects (entry 4); 1 entries without a finite score (entry 5)" in text


def test_boxes_given_for_masks(truth):
    boxes = result()
    del boxes["segmentation"]
    with pytest.raises(DataError, match=r"COCO results \(segm\).*1 entries without segmentation \(entry 0\)"):
        average_precision(truth, [boxes], "segm")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": None}, "lists images, annotations, categories"),
        ({"images": []}, "empty list"),
        ({"categories": []}, "empty list"),
        (
            {"images": [{"id": 5, "height": 100, "width": 80}] * 2},
            r"images without an id of their own.* \(images\[1\]\)",
        ),
        (
            {"images": [{"id": -5, "height": 100, "width": 80}]},
            r"images without an id of their own, a whole number below",
        ),
        ({"categories": [{"id": 2**53, "name": "cat"}]}, "1 categories without an id of their own"),
        ({"images": [{"id": 5, "height": 100}, {"id": 9}]}, "2 images without height and width"),
        ({"annotations": [result(area="large")]}, "without a finite area"),
        ({"annotations": [result(iscrowd="no")]}, "an iscrowd other than 0 and 1"),
        ({"annotations": [{"image_id": 1}]}, "1 entries of unknown images"),
    ],
)
def test_damaged_ground_truth_is_refused(truth, change, message):
    with pytest.raises(DataError, match=message):
        average_precision(truth | change, [], "segm")


def test_masks_of_images_too_large_for_the_libraries_are_refused(truth):
    """There pycocotools ends the process, and faster-coco-eval counts pixels anew from 2^32 on."""
    truth["images"][0] |= {"height": 10**9, "width": 10**9}
    runs = {"size": [10**9, 10**9], "counts": [0, 100, 10**18 - 100]}
    with pytest.raises(DataError, match="1 masks of images with a side above 65535 pixels"):
        average_precision(truth, [result(segmentation=runs)], "segm")
    assert average_precision(truth, [result(bbox=[10, 10, 20, 20])], "bbox")["AP"] == 1


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_an_area_that_is_not_given_is_the_masks(truth, iou_type):
    """An L of 60 x 60 less 50 x 50 pixels, 1100 in all, is of medium size, and so is its box; less 55 x 55 is small."""
    del truth["annotations"][0]["area"]
    for side, size, other in ((50, "APm", "APs"), (55, "APs", "APm")):
        corner = 70 - side
        shape = [[10, 10, 70, 10, 70, corner, corner, corner, corner, 70, 10, 70]]
        truth["annotations"][0] |= {"bbox": [10, 10, 60, 60], "segmentation": shape}
        found = average_precision(truth, [result(bbox=[10, 10, 60, 60], segmentation=shape)], iou_type)
        assert (found[size], found[other]) == (pytest.approx(1), None)
    del truth["annotations"][0]["segmentation"]
    assert average_precision(truth, [], "bbox")["APm"] == 0


def test_files_are_named(truth, tmp_path):
    path = tmp_path / "results.json"
    path.write_text("[{")
    with pytest.raises(DataError, match=r"results\.json must be JSON"):
        average_precision(truth, path, "bbox")
    path.write_text(json.dumps({"annotations": []}))
    with pytest.raises(DataError, match=r"results\.json must be a list of COCO results; got dict"):
        average_precision(truth, path, "bbox")
    with pytest.raises(DataError, match=r"absent\.json must be a JSON file, and it cannot be read: No such file"):
        average_precision(tmp_path / "absent.json", path, "bbox")


def test_without_pycocotools(truth, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pycocotools", None)
    with pytest.raises(ConfigError, match=r"pip install 'attnorm\[cocoapi\]'"):
        average_precision(truth, [], "bbox", backend="pycocotools")
    with pytest.raises(ConfigError, match="backend must be faster-coco-eval or pycocotools; got 'coco'"):
        average_precision(truth, [], "bbox", backend="coco")
