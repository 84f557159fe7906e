"""A folder with damaged, malicious and oddly named image files: `attnorm train`, `eval` and `predict` all through."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from attnorm.cli import main
from attnorm.training.checkpoint import load_checkpoint
from attnorm.training.predict import ClassPredictor
from tests.data.image_bombs import bmp_header, gif_header, webp
from tests.data.image_corpus import UPRIGHT, saved, scene

BAD = {
    "bomb.webp": lambda: webp(16_383),
    "bomb.bmp": bmp_header,
    "bomb.gif": gif_header,
    "cut.jpg": lambda: saved(Image.fromarray(scene(0)), "JPEG")[:-100],
    "empty.png": bytes,
    "a\nline\x1b[31m.png": lambda: b"no image",
}
SHOWN = [name.replace("\n", r"\n").replace("\x1b", r"\x1b") for name in BAD]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes with 12 sound images each, and BAD in the first."""
    root = tmp_path_factory.mktemp("bad_images")
    for part in ("train", "val"):
        for number in range(24):
            place = root / part / ("cat", "dog")[number % 2]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(scene(number, 32, 32)).save(place / f"{number}.png")
        for name, content in BAD.items():
            (root / part / "cat" / name).write_bytes(content())
    return root


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """A checkpoint of a run over the folder."""
    output = tmp_path_factory.mktemp("run")
    given = ("--dataset", "folder", "--data-dir", str(folder), "--image-size", "32", "--output", str(output))
    steps = ("--model", "resnet8_cifar_an", "--epochs", "1", "--batch-size", "8", "--device", "cpu")
    assert main(["train", *given, *steps]) == 0
    return output / "last.safetensors"


def test_training_leaves_them_out(trained):
    assert trained.is_file()
    assert load_checkpoint(trained)[1].classes == ("cat", "dog")


@pytest.mark.parametrize(("allowed", "code"), [(6, 0), (5, 1)])
def test_evaluation_counts_them(folder, trained, tmp_path, capsys, caplog, allowed, code, tally):
    result = tmp_path / "result.json"
    given = ("--checkpoint", str(trained), "--data-dir", str(folder), "--device", "cpu", "--json", str(result))
    assert main(["eval", *given, "--max-bad-images", str(allowed)]) == code
    error = capsys.readouterr().err
    if code:
        line = error.strip().splitlines()[-1]
        assert line.startswith("attnorm: error: ")
        assert "at most 5 images may be unreadable (max_bad_images); found 6" in line
        assert all(name in line for name in SHOWN)
        assert not result.exists()
    else:
        assert json.loads(result.read_text())["count"] == 24
        assert all(name in caplog.text + error for name in SHOWN)
    tally["bad files"] += len(BAD)


def test_prediction_names_them_and_answers_for_the_others(folder, trained, tmp_path, capsys):
    given = ("--checkpoint", str(trained), "--input", str(folder / "val"), "--output", str(tmp_path), "--device", "cpu")
    assert main(["predict", *given]) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "6 of 30 images could not be read" in line
    assert all(name in line for name in SHOWN)
    answers = json.loads((tmp_path / "predictions.json").read_text())
    assert len(answers["predictions"]) == 24
    assert sorted(answers["unreadable"]) == sorted(str(folder / "val" / "cat" / name) for name in BAD)


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_prediction_turns_photographs_as_evaluation_does(trained, tmp_path, orientation):
    model, meta = load_checkpoint(trained)
    stored = scene(3, 32, 32)
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(stored).save(tmp_path / "stored.png", exif=exif)
    shown, pixels = ClassPredictor(model, meta).read(tmp_path / "stored.png")
    upright = np.ascontiguousarray(UPRIGHT[orientation](stored))
    np.testing.assert_array_equal(np.asarray(shown), upright)
    Image.fromarray(upright).save(tmp_path / "upright.png")
    assert torch.equal(pixels, ClassPredictor(model, meta).read(tmp_path / "upright.png")[1])
