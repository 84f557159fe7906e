"""ImageNet and its variants: which image gets which label, which outputs may answer, and what is refused."""

import json
import logging
from importlib.resources import files

import pytest
import torch
from timm.data import ImageNetInfo

from attnorm.data import DataConfig, load_data, make_loader
from attnorm.data.config import IMAGENET
from attnorm.errors import ConfigError, DataError
from attnorm.models.published import rows
from tests.imagenet import numbers, write_classes, write_image

WNIDS = ImageNetInfo().label_names()
LISTS = files("timm.data") / "_info"
A_INDICES, R_INDICES = ([int(i) for i in (LISTS / f"imagenet_{x}_indices.txt").read_text().split()] for x in "ar")


@pytest.fixture(autouse=True)
def quiet_sizes(caplog):
    caplog.set_level(logging.ERROR, "attnorm.data")


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """Folders train and val, one image per class; class c has image c."""
    root = tmp_path_factory.mktemp("imagenet")
    write_classes(root / "train", WNIDS)
    write_classes(root / "val", WNIDS)
    return root


def config(dataset, root, **more):
    return DataConfig(dataset=dataset, data_dir=str(root), **{"image_size": 8, "crop_pct": 1.0, **more})


def read(dataset, root, classes=None, id_dir=None, **more):
    """The data set and all its images and labels, as the loader gives them."""
    data = load_data(config(dataset, root, **more), ("val",), classes, id_dir=id_dir)
    batches = list(make_loader(data.val, batch_size=300, train=False))
    images, labels = (torch.cat(column) for column in zip(*batches, strict=True))
    return data, numbers(images), labels.tolist()


def refusal(dataset, root, parts=("val",), id_dir=None, **more):
    with pytest.raises(DataError) as caught:
        load_data(config(dataset, root, **more), parts, id_dir=id_dir)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_published_numbers_are_of_data_sets_that_exist():
    """The one list is looked up by the names of the other."""
    assert {name for row in rows() for name in row.accuracy} == set(IMAGENET) - {"imagenet_r", "imagenet_o"}


def test_labels_are_imagenets_order(imagenet):
    data, images, labels = read("imagenet", imagenet)
    assert images == labels == list(range(1000))
    assert list(data.classes) == WNIDS
    assert (data.classes[0], data.classes[999]) == ("n01440764", "n15075141")  # tench and toilet tissue
    assert (data.outputs, data.measure, data.left_out) == (None, "accuracy", 0)
    both = load_data(config("imagenet", imagenet))
    assert both.train.labels.tolist() == list(range(1000))
    # the folder of the validation images itself does too
    assert read("imagenet", imagenet / "val")[2] == labels


def test_labels_by_a_networks_own_order(imagenet, tmp_path):
    """A network whose outputs are in another order gets labels, and outputs that may answer, in that order."""
    write_classes(tmp_path, [WNIDS[i] for i in A_INDICES])
    backwards = WNIDS[::-1]
    assert read("imagenet", imagenet, backwards)[2] == list(range(999, -1, -1))
    data, _, labels = read("imagenet_a", tmp_path, backwards)
    assert labels == [999 - i for i in A_INDICES]
    assert data.outputs == tuple(sorted(labels))
    with pytest.raises(DataError, match="must be ImageNet's 1000 wnids; got cat, dog"):
        load_data(config("imagenet", imagenet), ("val",), ("cat", "dog"))


def test_missing_and_foreign_class_folders_are_named(tmp_path):
    write_classes(tmp_path / "val", [*WNIDS[2:], "n99999999"])
    write_classes(tmp_path / "train", WNIDS[:-12])
    message = refusal("imagenet", tmp_path, ("train", "val"))
    assert f"must hold the 1000 class folders of imagenet; 12 are missing: {WNIDS[-12]}, " in message
    assert "and 2 more" in message
    assert "2 are missing: n01440764, n01443537; 1 are none of them: n99999999" in message
    assert "there is no such folder" in refusal("imagenet", tmp_path, val_split="validation")


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("val_map.txt", "{image}.JPEG {wnid}\n"),
        ("val_map.txt", "{image}\t{wnid}\n"),
        ("LOC_val_solution.csv", "{image},{wnid} 85 1 499 272 {wnid} 1 2 3 4 \n"),
    ],
)
@pytest.mark.parametrize("beside", [True, False])
def test_flat_validation_images_with_answers(tmp_path, file, line, beside):
    """Image n (from 1) is of class 7 n mod 1000, which differs for all."""
    answers = {f"ILSVRC2012_val_{n:08d}": 7 * n % 1000 for n in range(1, 1001)}
    for image, label in answers.items():
        write_image(tmp_path / "val" / f"{image}.JPEG", label)
    assert "sort them into folders" in refusal("imagenet", tmp_path)
    text = "ImageId,PredictionString\n" + "".join(
        line.format(image=image, wnid=WNIDS[label]) for image, label in answers.items()
    )
    place = tmp_path / "val" / file if beside else tmp_path / file
    place.write_text(text)
    _, images, labels = read("imagenet", tmp_path)
    assert images == labels == list(answers.values())
    place.write_text(text.replace("val_00000017", "val_00001017"))
    assert "must name the class of every image; not of " in (message := refusal("imagenet", tmp_path))
    assert "ILSVRC2012_val_00000017.JPEG" in message
    place.write_text(text.replace(WNIDS[3], WNIDS[4]))
    assert f"there are none of {WNIDS[3]}" in refusal("imagenet", tmp_path)


@pytest.mark.parametrize("width", [1, 4])
def test_numbered_folders_count_as_numbers(tmp_path, width):
    """Sorted as text 1, 10, 100, 101, ... come first: image n would get another label than n."""
    write_classes(tmp_path, [f"{n:0{width}d}" for n in range(1000)])
    _, images, labels = read("imagenet_v2_matched_frequency", tmp_path)
    assert sorted(images) == list(range(1000))
    assert images == labels


@pytest.mark.parametrize(
    ("dataset", "folder"),
    [
        ("imagenet_v2_matched_frequency", "imagenetv2-matched-frequency-format-val"),
        ("imagenet_v2_threshold0.7", "imagenetv2-threshold0.7-format-val"),
        ("imagenet_v2_topimages", "imagenetv2-top-images-format-val"),
        ("imagenet_sketch", "sketch"),
        ("imagenet_a", "imagenet-a"),
        ("imagenet_r", "imagenet-r"),
        ("imagenet_o", "imagenet-o"),
    ],
)
def test_published_folders_are_found_in_the_folder_that_holds_them(tmp_path, dataset, folder):
    """The message about what is missing says which folder was looked at."""
    (tmp_path / folder / "n01440764").mkdir(parents=True)
    assert f"{tmp_path / folder} must hold the " in refusal(dataset, tmp_path)
    (tmp_path / folder / "n01440764").rmdir()
    (tmp_path / folder).rmdir()
    (tmp_path / "mine").mkdir()
    assert f"{tmp_path} must hold the " in refusal(dataset, tmp_path)
    assert f"{tmp_path / 'mine'} must hold the " in refusal(dataset, tmp_path, val_split="mine")


@pytest.mark.parametrize(
    ("dataset", "indices", "ends"),
    # by their authors' lists: from stingray to acorn, and from goldfish to acorn
    [("imagenet_a", A_INDICES, (6, 988)), ("imagenet_r", R_INDICES, (1, 988))],
)
def test_two_hundred_classes_may_answer(tmp_path, dataset, indices, ends):
    """Labels count in the 1000 classes; a README in the folder, as published, is no class."""
    root = tmp_path / dataset.replace("_", "-")
    write_classes(root, [WNIDS[i] for i in indices])
    (root / "README.txt").write_text("read me")
    data, images, labels = read(dataset, tmp_path)
    assert images == list(range(200))
    assert labels == indices
    assert data.outputs == tuple(indices)
    assert (len(data.outputs), data.outputs[0], data.outputs[-1]) == (200, *ends)
    assert list(data.classes) == WNIDS
    # ImageNet's own val by mistake: all 200 classes are there, and 800 others
    write_classes(root, WNIDS)
    assert "800 are none of them: n01440764" in refusal(dataset, tmp_path)


def test_sketch_has_all_classes(tmp_path):
    write_classes(tmp_path / "sketch", WNIDS)
    data, images, labels = read("imagenet_sketch", tmp_path)
    assert images == labels == list(range(1000))
    assert data.outputs is None


@pytest.mark.parametrize("flat", [True, False])
def test_reassessed_labels(tmp_path, flat):
    """Image 2 has no right label and is left out; the others have one, three and two."""
    for number in (1, 2, 3, 4):
        folder = "." if flat else WNIDS[number % 2]
        write_image(tmp_path / "val" / folder / f"ILSVRC2012_val_{number:08d}.JPEG", number)
    (tmp_path / "real.json").write_text(json.dumps([[65], [], [5, 6, 7], [999, 0], [1]]))
    data, images, labels = read("imagenet_real", tmp_path)
    assert (images, data.left_out, len(data.val)) == ([1, 3, 4], 1, 3)
    assert labels == [[65, -1, -1], [5, 6, 7], [999, 0, -1]]
    assert (data.val[1][1].tolist(), numbers(data.val[1][0][None])) == ([5, 6, 7], [3])
    _, _, labels = read("imagenet_real", tmp_path, classes=WNIDS[::-1])
    assert labels == [[934, -1, -1], [994, 993, 992], [0, 999, -1]]
    broken = next((tmp_path / "val").rglob("*3.JPEG"))
    broken.write_bytes(b"")  # an unreadable image is left out together with its own set
    assert read("imagenet_real", tmp_path)[1:] == ([1, 4], [[65, -1, -1], [999, 0, -1]])
    (tmp_path / "real.json").write_text("[[1], [1000]]")
    assert "real.json must be a JSON list with a list of class numbers" in refusal("imagenet_real", tmp_path)
    (tmp_path / "real.json").write_text("[[1], [], [2]]")
    assert "must have labels for every image; it has 3, not for " in refusal("imagenet_real", tmp_path)
    (tmp_path / "real.json").write_text("[[], [], [], []]")
    assert "all 4 sets are empty" in refusal("imagenet_real", tmp_path)


def test_reassessed_labels_that_timm_carries(tmp_path):
    """Without real.json. Published: nothing for the first image, alp (970) or ski (795) for the second."""
    for number in (1, 2):
        write_image(tmp_path / f"ILSVRC2012_val_{number:08d}.JPEG", number)
    data, images, labels = read("imagenet_real", tmp_path)
    assert (images, data.left_out) == ([2], 1)
    assert sorted(labels[0]) == [795, 970]
    write_image(tmp_path / "another.png", 1)
    assert "others are " in refusal("imagenet_real", tmp_path)


@pytest.mark.parametrize("flat", [True, False])
def test_outliers_and_the_images_that_they_are_told_from(tmp_path, imagenet, flat):
    """200 of ImageNet-O, labelled 1, after the validation images of the same classes, labelled 0."""
    ours = WNIDS[300:500]
    write_classes(tmp_path / "imagenet-o", ours, start=2000)
    assert "in data_dir or id_dir: " in refusal("imagenet_o", tmp_path)
    inside = imagenet
    if flat:
        inside = tmp_path / "flat"
        for i in range(1000):
            write_image(inside / f"ILSVRC2012_val_{i + 1:08d}.JPEG", i)
        lines = [f"ILSVRC2012_val_{i + 1:08d} {wnid}\n" for i, wnid in enumerate(WNIDS)]
        (inside / "val_map.txt").write_text("".join(lines))
    data, images, labels = read("imagenet_o", tmp_path, id_dir=str(inside))
    assert (data.measure, data.outputs) == ("outliers", tuple(range(300, 500)))
    assert images == [*range(300, 500), *range(2000, 2200)]
    assert labels == [0] * 200 + [1] * 200
    write_classes(tmp_path / "imagenet-o", [WNIDS[0]])
    assert "holds 201 such folders" in refusal("imagenet_o", tmp_path, id_dir=str(inside))


def test_what_is_asked_for_must_make_sense(imagenet):
    with pytest.raises(ConfigError, match="imagenet_a is made to be evaluated on"):
        load_data(config("imagenet_a", imagenet))
    with pytest.raises(ConfigError, match="id_dir belongs to dataset imagenet_o; got it with imagenet"):
        load_data(config("imagenet", imagenet), id_dir="x")


def test_a_part_of_a_data_set_is_said_to_be_one(imagenet, caplog):
    """With images missing, a result must not be held against published ones unnoticed."""
    caplog.set_level(logging.WARNING, "attnorm.data")
    load_data(config("imagenet", imagenet), ("val",))
    assert [r.getMessage() for r in caplog.records] == [
        "imagenet has 1000 images here and 50000 as it is published: results are not comparable with published ones"
    ]
