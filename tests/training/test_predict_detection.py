"""`attnorm predict` with a detector: pictures and COCO's results of images of every kind."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as oracle

from attnorm.cli import main
from attnorm.data.image_files import read_image
from attnorm.data.images import to_tensor
from attnorm.errors import ConfigError
from attnorm.training.checkpoint import load_checkpoint
from attnorm.training.predict import predict
from attnorm.training.use_config import PredictConfig
from tests.training.saved_detector import save_tiny_detector, write_three_images

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # within pycocotools


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_tiny_detector(tmp_path_factory.mktemp("detector") / "detector.safetensors")


@pytest.fixture
def images(tmp_path):
    """Colour, one channel of 16 bits, CMYK, turned by EXIF, smaller than a stride, and one that is broken."""
    folder = tmp_path / "images"
    (folder / "deeper").mkdir(parents=True)
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 255, (70, 90, 3), dtype=np.uint8)).save(folder / "colour.png")
    Image.fromarray(random.integers(0, 65535, (64, 64)).astype(np.uint16)).save(folder / "grey16.png")
    Image.new("CMYK", (80, 60), (30, 60, 90, 0)).save(folder / "press.jpg")
    turned = Image.new("RGB", (90, 50), (200, 30, 30))
    exif = turned.getexif()
    exif[0x0112] = 6  # to be turned by a quarter: 50 wide, 90 high
    turned.save(folder / "deeper" / "turned.jpg", exif=exif)
    Image.new("RGB", (3, 2), (10, 200, 10)).save(folder / "tiny.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    return folder


def test_folder(checkpoint, images, tmp_path, capsys):
    output = tmp_path / "output"
    flags = ["--checkpoint", str(checkpoint), "--input", str(images), "--output", str(output)]
    assert main(["predict", *flags, "--score-threshold", "0.1"]) == 1
    out, err = capsys.readouterr()
    assert out == f"5 images: results in {output}\n"
    assert err.startswith("attnorm: error: 1 of 6 images could not be read: ")
    assert "broken.png" in err
    result = json.loads((output / "predictions.json").read_text())
    assert result["unreadable"] == [str(images / "broken.png")]
    assert result["categories"] == [{"id": 3, "name": "dog"}, {"id": 7, "name": "cat"}]
    sizes = {item["image"].rpartition("/")[2]: (item["width"], item["height"]) for item in result["predictions"]}
    assert sizes == {
        "colour.png": (90, 70),
        "turned.jpg": (50, 90),
        "grey16.png": (64, 64),
        "press.jpg": (80, 60),
        "tiny.png": (3, 2),
    }
    results = json.loads((output / "results.json").read_text())
    for item in result["predictions"]:
        found = [entry for entry in results if entry["image_id"] == item["image_id"]]
        assert len(found) == item["objects"] > 0
        assert all(entry["score"] > 0.1 and entry["category_id"] in (3, 7) for entry in found)
        assert all(entry["segmentation"]["size"] == [item["height"], item["width"]] for entry in found)
        with Image.open(output / item["picture"]) as picture:
            assert picture.width % item["width"] == 0
            assert picture.width * item["height"] == picture.height * item["width"]
    assert (output / "deeper" / "turned.jpg.objects.png").exists()


def found_by(config):
    """What `predict` writes for COCO's tools."""
    predict(config)
    return json.loads((Path(config.output) / "results.json").read_text())


def test_the_results_file_can_be_measured(checkpoint, tmp_path, capsys):
    """The ids of the images are their places in the order of names, as predictions.json says."""
    root = write_three_images(tmp_path / "coco")
    config = {"checkpoint": str(checkpoint), "input": str(root / "val2017"), "output": str(tmp_path / "output")}
    result = predict(PredictConfig(**config, score_threshold=0.0))
    truth = json.loads((root / "annotations" / "instances_val2017.json").read_text())
    places = {int(Path(item["image"]).stem): item["image_id"] for item in result["predictions"]}
    assert sorted(places.values()) == [1, 2, 3]
    for image in truth["images"]:
        image["id"] = places[image["id"]]
    for entry in truth["annotations"]:
        entry["image_id"] = places[entry["image_id"]]
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    flags = ["--annotations", str(tmp_path / "truth.json"), "--predictions", str(tmp_path / "output" / "results.json")]
    assert main(["eval", *flags, "--json", str(tmp_path / "measured.json")]) == 0
    measured = json.loads((tmp_path / "measured.json").read_text())
    flags = ["--checkpoint", str(checkpoint), "--data-dir", str(root), "--json", str(tmp_path / "evaluated.json")]
    assert main(["eval", *flags]) == 0
    assert measured["AP"] == json.loads((tmp_path / "evaluated.json").read_text())["box_AP"]


def test_results_are_the_detectors(checkpoint, images, tmp_path):
    """Against what the detector's forward pass gives for the image, masks pasted whole."""
    config = PredictConfig(
        checkpoint=str(checkpoint),
        input=str(images / "colour.png"),
        output=str(tmp_path / "output"),
        score_threshold=0.0,
    )
    results = found_by(config)
    detector, _ = load_checkpoint(checkpoint)
    with torch.no_grad():
        found = detector([to_tensor(read_image(str(images / "colour.png")))])[0]
    assert len(results) == len(found["scores"]) == 5
    parts = [found[name] for name in ("boxes", "labels", "scores", "masks")]
    for entry, box, label, score, mask in zip(results, *parts, strict=True):
        x, y, width, height = entry["bbox"]
        assert [x, y, x + width, y + height] == pytest.approx(box.tolist(), rel=1e-6)
        assert entry["category_id"] == (3, 7)[int(label) - 1]
        assert entry["score"] == float(score)
        np.testing.assert_array_equal(oracle.decode(entry["segmentation"]), mask[0].numpy() > 0.5)


def test_score_threshold(checkpoint, images, tmp_path):
    """What is above the threshold, and no more: of the same objects as without one."""
    config = {"checkpoint": str(checkpoint), "input": str(images / "colour.png"), "output": str(tmp_path / "output")}
    everything = found_by(PredictConfig(**config, score_threshold=0.0))
    scores = [entry["score"] for entry in everything]
    middle = scores[2]
    assert found_by(PredictConfig(**config, score_threshold=middle)) == everything[:2]
    assert predict(PredictConfig(**config))["score_threshold"] == 0.5
    with pytest.raises(ConfigError, match="score_threshold must be from 0 to 1"):
        PredictConfig(**config, score_threshold=1.5)


def test_below_the_threshold_of_training(images, tmp_path):
    """A detector that was told to keep to objects above 0.99 shows others when they are asked for."""
    strict = save_tiny_detector(tmp_path / "strict.safetensors", score_threshold=0.99)
    config = {"checkpoint": str(strict), "input": str(images / "colour.png"), "output": str(tmp_path / "output")}
    assert len(found_by(PredictConfig(**config, score_threshold=0.0))) == 5


def test_boxes_alone(images, tmp_path):
    faster = save_tiny_detector(tmp_path / "faster.safetensors", kind="faster_rcnn")
    config = PredictConfig(
        checkpoint=str(faster),
        input=str(images / "tiny.png"),
        output=str(tmp_path / "output"),
        score_threshold=0.0,
    )
    results = found_by(config)
    assert len(results) > 0
    assert all(sorted(entry) == ["bbox", "category_id", "image_id", "score"] for entry in results)


def test_score_threshold_is_for_detectors(trained, images, tmp_path):
    config = PredictConfig(
        checkpoint=f"{trained[0].output}/best.safetensors",
        input=str(images),
        output=str(tmp_path / "output"),
        score_threshold=0.5,
    )
    with pytest.raises(ConfigError, match="score_threshold is for detectors"):
        predict(config)
