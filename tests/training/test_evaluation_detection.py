"""COCO's numbers of a detector: over a data set, over two processes, and of its checkpoint by the command line."""

import json

import pytest
import torch

from attnorm.cli import main
from attnorm.detection.average_precision import METRICS, average_precision
from attnorm.detection.published import Published
from attnorm.errors import ConfigError, DataError
from attnorm.training import inference_detection
from attnorm.training.checkpoint import load_checkpoint
from attnorm.training.evaluation_detection import evaluate_detector
from attnorm.training.inference import evaluate_checkpoint
from attnorm.training.inference_detection import describe
from attnorm.training.use_config import EvalConfig
from tests.training.detecting_by_rule import CATEGORIES, IMAGES, ground_truth, process, results
from tests.training.saved_detector import save_tiny_detector, write_three_images


def test_evaluation(tmp_path):
    """What is saved is measured alike from the file, by pycocotools; and the counts are right."""
    path = tmp_path / "predictions.json"
    found = results(range(IMAGES), str(path))
    assert (found["count"], found["missing"], found["detections"]) == (11, 0, 33)
    for kind, iou_type in (("box", "bbox"), ("mask", "segm")):
        again = average_precision(ground_truth(), path, iou_type, backend="pycocotools")
        assert {name: found[f"{kind}_{name}"] for name in METRICS} == {
            name: None if again[name] is None else pytest.approx(again[name], abs=1e-12) for name in METRICS
        }
        assert [row[f"{kind}_AP"] for row in found["per_category"]] == [
            pytest.approx(row["AP"]) for row in again["per_category"]
        ]
    assert 0.3 < found["box_AP"] < found["box_AP50"] < 1
    assert found["box_APl"] is None
    assert [(row["id"], row["name"]) for row in found["per_category"]] == [(3, "dog"), (7, "cat")]


def test_images_that_were_not_seen_count_as_empty():
    some, whole = results(range(IMAGES - 2)), results(range(IMAGES))
    assert (some["count"], some["missing"]) == (9, 2)
    assert some["box_AR100"] < whole["box_AR100"]


def test_without_images():
    with pytest.raises(DataError, match="the evaluation part of the data has no images"):
        results(range(0))


def test_two_processes_evaluate_as_one(tmp_path):
    """Equal to the last bit although scores are equal between images."""
    alone = results(range(IMAGES), str(tmp_path / "predictions.json"))
    output = tmp_path / "output"
    output.mkdir()
    torch.multiprocessing.spawn(process, (2, str(tmp_path / "meeting"), str(output)), nprocs=2)
    first, second = (json.loads((output / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second == alone
    assert (output / "predictions.json").read_bytes() == (tmp_path / "predictions.json").read_bytes()


def test_batches_leave_what_is_found_as_it_is(tmp_path):
    """In one batch the lower and right border of the smaller images is beside padding, which the features show."""
    detector, _ = load_checkpoint(save_tiny_detector(tmp_path / "detector.safetensors"))
    generator = torch.Generator().manual_seed(0)
    sizes = ((60, 80), (90, 50), (60, 80), (40, 96))
    images = [torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8) for size in sizes]
    targets = [{"image_id": torch.tensor(n)} for n in range(len(images))]
    truth = {
        "images": [{"id": n, "height": height, "width": width} for n, (height, width) in enumerate(sizes)],
        "annotations": [],
        "categories": [{"id": category.id, "name": category.name} for category in CATEGORIES],
    }
    files = []
    for size in (1, 2, 4):
        loader = [(images[n : n + size], targets[n : n + size]) for n in range(0, len(images), size)]
        files.append(tmp_path / f"{size}.json")
        evaluate_detector(detector, loader, truth, device="cpu", categories=CATEGORIES, save_predictions=str(files[-1]))
    assert len(json.loads(files[0].read_text())) == 20
    assert files[0].read_bytes() == files[1].read_bytes() == files[2].read_bytes()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_tiny_detector(tmp_path_factory.mktemp("detector") / "detector.safetensors")


def test_a_checkpoint_and_its_predictions_are_measured_alike(checkpoint, tmp_path, capsys):
    """The checkpoint's numbers, and those of the file that it saves, in JSON and as printed in percent."""
    root = write_three_images(tmp_path / "coco")
    measured, saved = tmp_path / "measured.json", tmp_path / "saved.json"
    flags = ["--data-dir", str(root), "--json", str(measured), "--save-predictions", str(saved)]
    assert main(["eval", "--checkpoint", str(checkpoint), *flags]) == 0
    result = json.loads(measured.read_text())
    assert (result["count"], result["detections"], result["missing"]) == (3, 15, 0)
    assert result["published"] == []
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "mask_rcnn_resnet10t_fpn on coco: 3 images, 15 detections"
    for kind, iou_type, name in (("box", "bbox", "boxes"), ("mask", "segm", "masks")):
        answer = tmp_path / f"{kind}.json"
        flags = ["--annotations", str(root / "annotations" / "instances_val2017.json"), "--predictions", str(saved)]
        assert main(["eval", *flags, "--iou-type", iou_type, "--json", str(answer)]) == 0
        again = json.loads(answer.read_text())
        assert {name: again[name] for name in METRICS} == {name: result[f"{kind}_{name}"] for name in METRICS}
        printed = next(line for line in lines if line.startswith(name)).split()
        assert printed[1:] == ["-" if again[m] is None else f"{100 * again[m]:.1f}" for m in METRICS]
        assert next(line for line in capsys.readouterr().out.splitlines() if line.startswith(name)).split() == printed


def test_annotations_and_images_can_be_named(checkpoint, tmp_path):
    root = write_three_images(tmp_path / "coco")
    first = evaluate_checkpoint(EvalConfig(checkpoint=str(checkpoint), data_dir=str(root)))
    (root / "val2017").rename(root / "pictures")
    (root / "annotations" / "instances_val2017.json").rename(root / "truth.json")
    named = {"data_dir": str(root), "annotations": "truth.json", "images": "pictures"}
    assert evaluate_checkpoint(EvalConfig(checkpoint=str(checkpoint), **named)) == first


def test_categories_must_be_the_detectors(checkpoint, tmp_path):
    root = write_three_images(tmp_path / "coco")
    path = root / "annotations" / "instances_val2017.json"
    path.write_text(path.read_text().replace('"cat"', '"lynx"'))
    with pytest.raises(DataError, match="same categories"):
        evaluate_checkpoint(EvalConfig(checkpoint=str(checkpoint), data_dir=str(root)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "a checkpoint, or annotations and predictions, must be given; got neither"),
        ({"predictions": "r"}, "must be given; got predictions"),
        ({"checkpoint": "c", "predictions": "r", "annotations": "a"}, "exclude each other"),
        ({"checkpoint": "c", "iou_type": "segm"}, "iou_type belongs to predictions"),
        ({"predictions": "r", "annotations": "a", "dataset": "coco"}, "dataset does nothing for predictions"),
        ({"predictions": "r", "annotations": "a", "batch_size": 4}, "batch_size does nothing for predictions"),
    ],
)
def test_settings_that_contradict_each_other(settings, message):
    with pytest.raises(ConfigError, match=message):
        EvalConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop_pct": 0.9}, "crop_pct does nothing for mask_rcnn_resnet10t_fpn"),
        ({"dataset": "coco,shapes"}, "one data set at a time"),
        ({"dataset": "coco", "image_size": 64}, "image_size is for shapes"),
        ({"dataset": "digits"}, "a detector needs boxes"),
        ({"batch_size": 2}, "batch_size does nothing for mask_rcnn_resnet10t_fpn"),
        ({"val_split": "train"}, "val_split is for classification, and mask_rcnn_resnet10t_fpn detects"),
        ({"dataset": "shapes", "data_dir": "/nowhere"}, "data_dir does nothing for dataset shapes"),
        ({"dataset": "shapes", "annotations": "a.json"}, "annotations does nothing for dataset shapes"),
        ({"dataset": "shapes", "images": "x"}, "images does nothing for dataset shapes"),
    ],
)
def test_settings_that_mean_nothing_for_a_detector(checkpoint, settings, message):
    with pytest.raises(ConfigError, match=message):
        evaluate_checkpoint(EvalConfig(checkpoint=str(checkpoint), **settings))


def test_settings_that_mean_nothing_for_a_classification_network(trained):
    with pytest.raises(ConfigError, match="save_predictions does nothing for resnet8_cifar_an"):
        evaluate_checkpoint(EvalConfig(checkpoint=f"{trained[0].output}/best.safetensors", save_predictions="x"))


def test_what_is_printed():
    numbers = dict.fromkeys(METRICS, 0.12345)
    result = {
        "predictions": "found.json",
        "iou_type": "segm",
        "images": 5,
        "detections": 7,
        **numbers,
        "APl": None,
        "per_category": [{"id": n, "name": f"class {n}", "AP": n / 100} for n in range(21)],
    }
    lines = describe(result)
    assert lines[0] == "found.json: 5 images, 7 detections"
    assert lines[1].split() == ["percent", *METRICS]
    assert lines[2].split() == ["masks", *["12.3"] * 5, "-", *["12.3"] * 6]
    assert len(lines) == 3  # of more than 20 categories the table is long
    assert [line.split() for line in describe(result, per_category=True)[4:]] == [
        ["AP", "by", "category", "masks"],
        *(["class", str(n), f"{n}.0"] for n in range(21)),
    ]


def test_categories_of_every_name_have_their_line():
    """Of the same name, too; and a name is no way to write to the terminal what is not printable."""
    names = ["same", "same", "two\nlines", "\ud800", "\x1b[2J", ""]
    categories = [{"id": n, "name": name, "AP": n / 10} for n, name in enumerate(names)]
    result = {"predictions": "p", "iou_type": "bbox", "images": 1, "detections": 0, **dict.fromkeys(METRICS, None)}
    lines = describe({**result, "per_category": categories})
    assert [line.split() for line in lines[5:]] == [
        ["same", "0.0"], ["same", "10.0"], [r"'two\nlines'", "20.0"], [r"'\ud800'", "30.0"], [r"'\x1b[2J'", "40.0"],
        ["50.0"],
    ]  # fmt: skip


def test_what_was_published_stands_below(checkpoint, tmp_path, monkeypatch):
    """For COCO's val2017 only, which is told by its counts; here they are those of the three images."""
    root = write_three_images(tmp_path / "coco")
    row = Published(model="m", settings={}, release="ivmcl-release", name="n", params_m=None, box_AP=41.5, mask_AP=36.8)
    monkeypatch.setattr(inference_detection.published, "results", lambda model, config: (row,))
    config = EvalConfig(checkpoint=str(checkpoint), data_dir=str(root))
    assert evaluate_checkpoint(config)["published"] == []
    monkeypatch.setattr(inference_detection, "COCO_VAL2017", (3, 2))
    lines = describe(evaluate_checkpoint(config))
    assert "  published: box AP 41.5, mask AP 36.8 (docs/detection of iVMCL-Release)" in lines
