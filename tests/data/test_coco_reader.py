"""COCO files: what they become, and everything that is refused, left out or counted."""

import json
import os

import pytest
import torch
from PIL import Image

from attnorm.data import Category, DataConfig, coco, load_data, load_detection
from attnorm.data.augment import SampleKey
from attnorm.errors import ConfigError, DataError
from tests.data.coco_sets import SQUARE, annotation, config, content, write

POLYGON_3 = [[0, 0, 4, 0, 4, 4]]


def test_boxes_labels_and_masks(tmp_path):
    crowd = annotation(5, 1, iscrowd=1, segmentation={"size": [16, 20], "counts": [300, 20]}, area=20)
    annotations = [annotation(3, 2, category_id=7), annotation(9, 1), annotation(4, 1, 7, bbox=[0, 1, 4, 2]), crowd]
    data = load_detection(config(write(tmp_path, content(annotations)), augment="none"))
    assert data.categories == (Category(3, "cat"), Category(7, "dog"))
    assert data.has_masks
    images, (first, second) = data.train.__getitems__([SampleKey(0, 0, 0), SampleKey(1, 0, 0)])
    assert [image[:, 3, 4].tolist() for image in images] == [[10, 0, 0], [20, 0, 0]]
    assert first["boxes"].tolist() == [[2, 3, 12, 9], [0, 1, 4, 3]]  # in the order of the file, the crowd left out
    assert first["labels"].tolist() == [1, 2]
    assert first["area"].tolist() == [60, 60]
    assert (int(first["image_id"]), int(second["image_id"])) == (1, 2)
    assert second["labels"].tolist() == [2]
    square = torch.zeros(16, 20, dtype=torch.uint8)
    square[3:9, 2:12] = 1
    assert torch.equal(second["masks"], square[None])
    assert data.notes == (
        "coco train: 1 of 4 annotations are crowds: not learnt from, and no error where they are detected",
    )


def test_ground_truth_is_the_file_without_what_cannot_be_used(tmp_path):
    runs = {"size": [16, 20], "counts": [300, 20]}
    annotations = [annotation(0, 2), annotation(8, 1, iscrowd=1, segmentation=runs, bbox=[-3.5, 0, 30, 9])]
    data = load_detection(config(write(tmp_path, val=content(annotations, images=3))), ("val",))
    truth = data.val.ground_truth()
    assert truth["categories"] == [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]
    assert [image["id"] for image in truth["images"]] == [1, 2, 3]  # those without annotations can be wrong too
    crowd, plain = truth["annotations"]
    assert crowd == {**annotations[1], "id": 1, "segmentation": crowd["segmentation"]}  # a box as it is in the file
    assert plain == {**annotations[0], "id": 2}
    assert json.loads(json.dumps(truth)) == truth
    only = data.val.ground_truth({2, 3})
    assert [image["id"] for image in only["images"]] == [2, 3]
    assert only["annotations"] == [{**plain, "id": 1}]


def test_images_of_one_file_are_counted(tmp_path):
    """Two ids for one picture are its right, such as two annotators', but may be an accident."""
    truth = content([annotation(1, 1), annotation(2, 2)])
    root = write(tmp_path, truth)
    path = root / "annotations" / "instances_train2017.json"
    truth["images"][1]["file_name"] = truth["images"][0]["file_name"]
    path.write_text(json.dumps(truth))
    assert "coco train: 1 images have the file of another image" in load_detection(config(root)).notes


def test_boxes_that_reach_beyond_the_image_are_cut(tmp_path):
    boxes = [[-0.5, 0, 10, 5], [15, 10, 5.9, 6], [-4, -4, 30, 30], [0, 0, 20, 16]]
    data = load_detection(config(write(tmp_path, content([annotation(i, 1, bbox=b) for i, b in enumerate(boxes, 1)]))))
    expected = [[0, 0, 9.5, 5], [15, 10, 20, 16], [0, 0, 20, 16], [0, 0, 20, 16]]
    torch.testing.assert_close(data.train[0][1]["boxes"], torch.tensor(expected))
    assert data.notes[0] == "coco train: 1 of 4 boxes reach beyond their image and are cut"  # by more than a pixel


@pytest.mark.parametrize(("empty_images", "count"), [("skip", 1), ("keep", 3)])
def test_images_without_annotations(tmp_path, empty_images, count):
    runs = {"size": [16, 20], "counts": [300, 20]}
    annotations = [annotation(1, 2), annotation(2, 3, iscrowd=1, segmentation=runs)]
    part = content(annotations, images=3)
    data = load_detection(config(write(tmp_path, part, part), empty_images=empty_images))
    assert (len(data.train), len(data.val)) == (count, 3)
    left_out = " and are left out (coco.empty_images keep keeps them)" if empty_images == "skip" else ""
    assert f"coco train: 2 of 3 images have no annotations to learn from{left_out}" in data.notes
    assert "coco val: 2 of 3 images have no annotations to learn from" in data.notes
    empty = data.val.annotations.target(0)
    assert empty["boxes"].shape == (0, 4)
    assert empty["masks"].shape == (0, 16, 20)
    assert empty["masks"].dtype == torch.uint8


def test_boxes_without_masks(tmp_path):
    bare = content([annotation(1, 1, segmentation=[]), {**annotation(2, 2), "segmentation": None, "area": None}])
    del bare["annotations"][0]["segmentation"], bare["annotations"][1]["area"]
    data = load_detection(config(write(tmp_path, bare, bare)))
    assert not data.has_masks
    assert not data.notes
    assert "masks" not in data.train[SampleKey(0, 0, 0)][1]
    assert data.train[1][1]["area"].tolist() == [60]  # the box's, where the file has none
    assert "segmentation" not in data.val.ground_truth()["annotations"][0]
    # of one part only: left out of both, and said
    data = load_detection(config(write(tmp_path, content(), bare)))
    assert not data.has_masks
    assert data.notes == ("coco val: there are no masks, so those of the other part are left out too",)
    assert not load_detection(config(write(tmp_path)), masks=False).has_masks
    triangle = {**annotation(1, 1, segmentation=POLYGON_3), "area": None}
    data = load_detection(config(write(tmp_path, content([triangle]))))
    assert data.train[0][1]["area"].tolist() == [int(data.train[SampleKey(0, 0, 0)][1]["masks"].sum())]


def test_masks_that_could_fill_the_memory_are_announced(tmp_path, monkeypatch):
    """Of three objects in 320 pixels and one in as many: a byte each. Evaluation decodes none."""
    part = content([annotation(i, 1) for i in range(1, 4)] + [annotation(4, 2)])
    write(tmp_path, part, part)
    assert load_detection(config(tmp_path)).notes == ()
    monkeypatch.setattr(coco, "LARGE", 640)
    expected = "coco train: the masks of 1 images take more than 1 GiB each in training, those of 1.png 0 GiB: "
    assert load_detection(config(tmp_path)).notes == (f"{expected}cut such images into parts",)
    assert load_detection(config(tmp_path), masks=False).notes == ()


def test_without_masks_segmentations_do_not_matter(tmp_path):
    """A detector of boxes learns from every box, whatever is known of its mask."""
    runs = {"size": [16, 20], "counts": [300, 20]}
    kinds = [[[1, 2, 3, 4]], [], None, "damaged", runs]
    annotations = [annotation(i, 1, segmentation=kind, area=7) for i, kind in enumerate(kinds, 1)]
    annotations.append({**annotation(6, 1, segmentation=runs), "area": None})
    part = content(annotations, images=1)
    data = load_detection(config(write(tmp_path, part, part)), masks=False)
    assert data.notes == ()
    assert data.train[SampleKey(0, 0, 0)][1]["area"].tolist() == [7, 7, 7, 7, 7, 20]  # the mask's, where none is given
    assert not any("segmentation" in entry for entry in data.val.ground_truth()["annotations"])
    with pytest.raises(DataError, match="1 polygons with fewer than 6 numbers or an odd number of them"):
        load_detection(config(tmp_path))


BAD_ANNOTATIONS = [
    ({"bbox": [2, 3, 0, 6]}, "boxes without area"),
    ({"bbox": [2, 3, 6, -6]}, "boxes without area"),
    ({"bbox": [20, 3, 6, 6]}, "boxes outside their image"),
    ({"bbox": [-9, 3, 9, 6]}, "boxes outside their image"),
    ({"bbox": [2, 3, float("nan"), 6]}, "boxes that are not four finite numbers"),
    ({"bbox": [2, 3, float("inf"), 6]}, "boxes that are not four finite numbers"),
    ({"bbox": [2, 3, 4]}, "boxes that are not four finite numbers"),
    ({"bbox": [2, 3, 4, "5"]}, "boxes that are not four finite numbers"),
    ({"bbox": None}, "boxes that are not four finite numbers"),
    ({"image_id": 9}, "annotations of unknown images"),
    ({"image_id": [1]}, "annotations of unknown images"),
    ({"category_id": 4}, "annotations of unknown categories"),
    ({"iscrowd": 2}, "annotations with iscrowd other than 0 and 1"),
    ({"area": "60"}, "areas that are not a finite number from 0"),
    ({"area": -1}, "areas that are not a finite number from 0"),
    ({"segmentation": []}, "annotations without a segmentation, which others have"),
    ({"segmentation": [[1, 2, 3, 4]]}, "polygons with fewer than 6 numbers or an odd number of them"),
    ({"segmentation": {"size": [20, 16], "counts": [320]}}, "RLEs of another size than the image"),
    ({"segmentation": {"size": [16, 20], "counts": [319]}}, "RLEs whose runs do not make up the image"),
    ({"segmentation": {"size": [16, 20], "counts": [320]}}, "RLEs without a pixel of the object"),
    ({"segmentation": {"size": [16, 20], "counts": [20, 0, 300]}}, "RLEs without a pixel of the object"),
    ({"id": 1}, "annotations with the id of another"),
]


@pytest.mark.parametrize(("change", "kind"), BAD_ANNOTATIONS)
def test_bad_annotations_are_refused_or_left_out(tmp_path, change, kind):
    id = change.get("id", 77)
    write(tmp_path, content([annotation(1, 1), annotation(2, 2), {**annotation(77, 1), **change}]))
    with pytest.raises(DataError, match=rf"it has 1 {kind} \(annotation {id}\).*coco\.bad_annotations skip"):
        load_detection(config(tmp_path))
    data = load_detection(config(tmp_path, bad_annotations="skip"))
    assert [len(data.train[i][1]["labels"]) for i in range(2)] == [1, 1]
    assert data.notes == (f"coco train: left out are 1 {kind} (annotation {id}) (coco.bad_annotations skip)",)


def test_all_problems_are_said_at_once_and_only_the_first_ten_by_name(tmp_path):
    bad = [annotation(i, 1, bbox=[0, 0, 0, 4]) for i in range(100, 112)]
    train = content([annotation(1), annotation(2, 9), *bad], images=3)
    train["images"] += [{"id": 1, "file_name": "1.png", "width": 20, "height": 16}, {"id": "x", "file_name": "y.png"}]
    train["images"].append({"id": 8, "file_name": "8.png", "width": 0, "height": 16})
    train["categories"] += [{"id": 3, "name": "ape"}, {"name": "bear"}]
    write(tmp_path, train, content([annotation(1, segmentation=5)]))
    for name in ("2.png", "3.png"):
        (tmp_path / "images" / "train" / name).unlink()
    with pytest.raises(DataError) as caught:
        load_detection(config(tmp_path, bad_annotations="skip"))  # forgives annotations only
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "1 categories with the id of another (3)",
        "1 categories without a number below 2^53 as id and a text as name (number 4)",
        "1 images with the id of another (1)",
        "1 images without a number below 2^53 as id and a text as file_name (number 5)",
        "1 images without width and height from 1 to 65535 (image 8)",
        f"2 images that are not in {tmp_path}/images/train (2.png, 3.png)",
        "1 annotations of unknown images (annotation 2)",
        "12 boxes without area (annotation 100, ",
        "annotation 109 and 2 more)",
    ):
        assert part in message
    with pytest.raises(DataError, match=r"coco train: .*; coco val: .* 1 segmentations that are neither polygons nor"):
        load_detection(config(tmp_path))


@pytest.mark.parametrize("skip", ["refuse", "skip"])
@pytest.mark.parametrize("name", ["../val/1.png", "sub/../../val/1.png", "/etc/hostname", "link.png", "links/1.png"])
def test_file_names_that_lead_out_of_the_image_folder(tmp_path, name, skip):
    train = content()
    train["images"][1]["file_name"] = name
    write(tmp_path, train)
    folder = tmp_path / "images" / "train"
    (folder / "link.png").unlink(missing_ok=True)
    os.symlink(tmp_path / "images" / "val" / "1.png", folder / "link.png")
    os.symlink(tmp_path / "images" / "val", folder / "links")
    with pytest.raises(DataError, match=rf"1 file names that lead out of .*/train \({name}\)"):
        load_detection(config(tmp_path, bad_annotations=skip))


def test_file_names_in_subfolders_and_links_within(tmp_path):
    train = content(images=3)
    for entry, name in zip(train["images"], ("a/1.png", "./2.png", "a/../3.png"), strict=True):
        entry["file_name"] = name
    train["images"][2]["file_name"] = "3.png"
    folder = tmp_path / "images" / "train"
    (folder / "a").mkdir(parents=True)
    Image.new("RGB", (20, 16), (99, 0, 0)).save(folder / "a" / "1.png")
    os.symlink(folder / "a" / "1.png", folder / "3.png")
    write(tmp_path, train)
    data = load_detection(config(tmp_path), ("train",)).train
    assert [int(data[i][0][0, 0, 0]) for i in range(3)] == [99, 20, 99]


@pytest.mark.parametrize("name", ["a\0b.png", "x" * 300, "\ud800.png", "new\nline.png", "."])
def test_file_names_that_no_file_can_have(tmp_path, name):
    write(tmp_path)
    train = content(images=1)
    train["images"][0]["file_name"] = name
    (tmp_path / "annotations" / "instances_train.json").write_text(json.dumps(train))
    with pytest.raises(DataError, match="1 images that are not in") as caught:
        load_detection(config(tmp_path))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "must be JSON; it is not"),
        ("[" * 100_000, "must be JSON; it is not"),
        ("\x80", "must be JSON; it is not"),
        ("[]", "wrong or missing: images, annotations, categories"),
        ('{"images": [1], "annotations": {}, "categories": []}', "wrong or missing: images, annotations"),
        ('{"images": [], "annotations": [], "categories": []}', "must list images; it has none"),
        ('{"images": [{}], "annotations": [], "categories": []}', "it has 1 images without a number below"),
    ],
)
def test_files_that_are_no_coco_files(tmp_path, text, message):
    write(tmp_path)
    (tmp_path / "annotations" / "instances_train.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=rf"coco train: .*instances_train\.json .*{message}"):
        load_detection(config(tmp_path))


def test_a_part_without_annotations(tmp_path):
    write(tmp_path, val=content([]))
    with pytest.raises(DataError, match="must have images with annotations; it has 2 images and 0 usable annotations"):
        load_detection(config(tmp_path))


def test_both_parts_must_have_the_same_categories(tmp_path):
    write(tmp_path, val=content(categories=[{"id": 7, "name": "dog"}, {"id": 3, "name": "cow"}]))
    with pytest.raises(
        DataError, match=r"coco train and val must have the same .* has 3 'cat', 3 'cow'|'cow', 3 'cat'"
    ):
        load_detection(config(tmp_path))
    data = load_detection(config(tmp_path), ("val",))
    assert load_detection(config(tmp_path), ("val",), data.categories).categories == data.categories
    with pytest.raises(DataError, match=r"coco and the detector must have the same categories"):
        load_detection(config(tmp_path), ("val",), data.categories[:1])


def test_each_task_refuses_the_data_of_the_other(tmp_path):
    with pytest.raises(ConfigError, match="a detector needs boxes, from dataset coco or shapes; got digits"):
        load_detection(DataConfig())
    for dataset in ("coco", "shapes"):
        with pytest.raises(ConfigError, match=f"dataset {dataset} has boxes, which a detector learns"):
            load_data(DataConfig(dataset=dataset))


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("annotations/instances_{}2017.json", "{}2017"),
        ("annotations/instances_{}2017.json", "images/{}2017"),
        ("annotations/instances_{}.json", "{}"),
        ("annotations/{}.json", "images"),
        ("{}/_annotations.coco.json", "{}"),
    ],
)
def test_the_files_are_found(tmp_path, annotations, images):
    write(tmp_path)
    names = {"train": "train", "val": "valid" if "_annotations" in annotations else "val"}
    data = tmp_path / "data"
    for part, name in names.items():
        (data / images.format(name)).parent.mkdir(parents=True, exist_ok=True)
        if not (data / images.format(name)).exists():
            (tmp_path / "images" / part).rename(data / images.format(name))
        (data / annotations.format(name)).parent.mkdir(exist_ok=True)
        (tmp_path / f"annotations/instances_{part}.json").rename(data / annotations.format(name))
    found = load_detection(config(data))
    assert [part[1][0][0, 0, 0].item() for part in (found.train, found.val)] == [20, 20]


def test_files_that_are_named(tmp_path):
    write(tmp_path)
    (tmp_path / "images" / "train").rename(tmp_path / "pictures")
    (tmp_path / "annotations" / "instances_train.json").rename(tmp_path / "mine.json")
    names = {"train_annotations": "mine.json", "train_images": "pictures"}
    names |= {"val_annotations": "mine.json", "val_images": "pictures"}
    data = load_detection(config(tmp_path, **names))
    assert data.val[1][0][0, 0, 0] == 20
    for name in names:
        with pytest.raises(DataError, match=rf"coco\.{name} must name a .*, seen from .*; there is no nothing"):
            load_detection(config(tmp_path, **{**names, name: "nothing"}))


def test_what_was_looked_for_is_named(tmp_path):
    write(tmp_path)
    (tmp_path / "images").rename(tmp_path / "pictures")
    with pytest.raises(
        DataError,
        match=r"must hold the images of annotations/instances_train\.json, such as 1\.png; "
        r"looked in train, images/train, images, annotations: name the folder by coco\.train_images",
    ):
        load_detection(config(tmp_path))  # fmt: skip
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "annotations" / "instances_train.json").rename(elsewhere / "a.json")
    with pytest.raises(DataError, match=r"must hold the images of elsewhere/a\.json"):
        load_detection(config(tmp_path, train_annotations=str(elsewhere / "a.json")), ("train",))
    (tmp_path / "annotations").rename(tmp_path / "labels")
    with pytest.raises(
        DataError,
        match=r"must hold the annotations of train; looked for annotations/instances_train"
        r"2017\.json, .*: name the file by coco\.train_annotations",
    ):
        load_detection(config(tmp_path))  # fmt: skip
    with pytest.raises(ConfigError, match="data_dir must name the folder"):
        load_detection(DataConfig(dataset="coco"))


def test_the_training_part_can_be_evaluated_on(tmp_path):
    write(tmp_path, val=content(images=1))
    data = load_detection(config(tmp_path, val_annotations="annotations/instances_train.json"))
    assert len(data.val) == 2  # its images are found beside it
    assert data.val[1][0][0, 0, 0] == 20


def test_polygons_are_those_of_the_file(tmp_path):
    write(tmp_path)
    assert load_detection(config(tmp_path)).val.ground_truth()["annotations"][0]["segmentation"] == SQUARE
