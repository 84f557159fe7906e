"""Networks that come with the package: what is there is whole, and timm and the commands take it by name.

What is shipped is checked as it is. That a shipped network works everywhere is checked in a copy of the package with
one more, which a run of seconds gives.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

import attnorm
from attnorm.cli import main
from attnorm.detection.config import DetectorConfig
from attnorm.models import create_model, shipped
from attnorm.training.catalogue import list_detectors
from attnorm.training.checkpoint import load_checkpoint, read_meta
from attnorm.training.config import TrainConfig
from attnorm.training.loop import fit
from benchmarks import shipped as making
from tests.data import coco_sets
from tests.shared import shared_file

CARDS = shipped.cards()
CLASSIFIERS = [name for name, card in CARDS.items() if card["task"] == "classification"]


def write_idx(path, values):
    header = bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    path.write_bytes(header + values.tobytes())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Pictures in Fashion-MNIST's format: a bright bar whose place is the class, 300 to train and 1,200 to test."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for part, count in (("train", 300), ("t10k", 1200)):
        labels = rng.integers(0, 10, count).astype(np.uint8)
        images = rng.integers(0, 60, (count, 28, 28)).astype(np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[2 * label + 4 : 2 * label + 7] += 150
        write_idx(folder / f"{part}-images-idx3-ubyte", images)
        write_idx(folder / f"{part}-labels-idx1-ubyte", labels)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory, data):
    """A copy of the package that ships one more network; and the run that it is from."""
    root = tmp_path_factory.mktemp("package")
    config = TrainConfig(
        model="resnet8_cifar_an", dataset="fashion_mnist", data_dir=str(data), output=str(root / "run"),
        epochs=4, batch_size=20, lr=0.05, warmup_epochs=1, seed=4,
    )  # fmt: skip
    record = fit(config, quiet=True)
    package = root / "copy" / "attnorm"
    shutil.copytree(Path(attnorm.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    card = making.add(root / "run", "resnet8_cifar_an.fashion_mnist", data, package / "models" / "weights")
    return package, card, record, root / "run"


def in_copy(package, code):
    """What a fresh interpreter prints that imports the copy."""
    environment = {**os.environ, "PYTHONPATH": str(package.parent), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_the_card(made, data):
    _, card, record, run = made
    assert card["measured"]["top1"] == record.top1 > 15
    assert card["measured"]["images"] == 1200
    assert card["measured"]["subset"]["images"] == 1000
    low, high = card["measured"]["interval"]
    assert low < record.top1 < high
    content = (run / "last.safetensors").read_bytes()
    assert (card["size"], card["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert card["command"] == (
        "attnorm train --config configs/quickstart/fashion_mnist.yaml --data-dir DIR --model resnet8_cifar_an "
        "--epochs 4 --batch-size 20 --lr 0.05 --seed 4 --output OUTPUT"
    )
    assert str(data) not in json.dumps(card)
    page = making.page([card])
    assert "resnet8_cifar_an.fashion_mnist" in page
    assert f"{record.top1:.2f} % [{low:.2f}, {high:.2f}] of 1,200 images" in page


def test_a_number_that_is_not_the_runs_is_refused(made, data, tmp_path):
    _, _, _, run = made
    changed = tmp_path / "run"
    shutil.copytree(run, changed)
    record = json.loads((changed / "record.json").read_text())
    (changed / "record.json").write_text(json.dumps({**record, "top1": record["top1"] + 0.5}))
    with pytest.raises(SystemExit, match="and its record says"):
        making.add(changed, "resnet8_cifar_an.fashion_mnist", data, tmp_path)
    with pytest.raises(SystemExit, match=r"must be resnet8_cifar_an\.TAG"):
        making.add(run, "resnet8_cifar.fashion_mnist", data, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_timm_takes_it_by_name(made):
    """By name and tag, by bare name, with other classes and channels, as features; and it is listed."""
    package, _, _, run = made
    code = f"""
import json, logging, timm, torch, attnorm.models
from safetensors.torch import load_file
state = load_file({str(run / "last.safetensors")!r})
name = "resnet8_cifar_an.fashion_mnist"
model = timm.create_model(name, pretrained=True)
assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
cfg = model.pretrained_cfg
assert (cfg["input_size"], cfg["num_classes"], cfg["mean"]) == ((1, 28, 28), 10, (0.286,)), cfg
assert cfg["label_names"][1] == "Trouser" and cfg["license"] == "apache-2.0"
bare = timm.create_model("resnet8_cifar_an", pretrained=True)
assert torch.equal(bare.conv1.weight, state["conv1.weight"])
other = timm.create_model(name, pretrained=True, num_classes=3, in_chans=3)
assert other.fc.out_features == 3 and other.conv1.in_channels == 3
assert torch.equal(other.layer3[0].conv1.weight, state["layer3.0.conv1.weight"])
grey = torch.randn(2, 1, 28, 28)
model.eval(), other.eval()
a, b = model.forward_features(grey), other.forward_features(grey.expand(-1, 3, -1, -1))
assert torch.allclose(a, b, rtol=1e-3, atol=1e-4), (a - b).abs().max()
features = timm.create_model(name, pretrained=True, features_only=True)
assert [f.shape[1] for f in features.eval()(grey)] == [16, 16, 32, 64]
assert torch.equal(features.layer1[0].conv1.weight, state["layer1.0.conv1.weight"])
assert timm.create_model(name, pretrained=True, num_classes=0).eval()(grey).shape == (2, 64)
plain = timm.create_model("resnet8_cifar_an")
assert plain.conv1.in_channels == 3 and plain.pretrained_cfg["input_size"] == (3, 32, 32)
assert not torch.equal(plain.layer1[0].conv1.weight, state["layer1.0.conv1.weight"])
assert name in timm.list_pretrained("resnet8_cifar_an*")
assert name in timm.list_models("resnet8*", pretrained=True)
"""
    _, errors = in_copy(package, code)
    assert errors == ""  # timm warns where weights do not fit


def test_the_commands_take_it_by_name(made, data, tmp_path):
    package, card, record, _ = made
    name, result = card["name"], tmp_path / "eval.json"
    listed = tmp_path / "models.json"
    commands = [
        ["eval", "--checkpoint", name, "--data-dir", str(data), "--json", str(result)],
        ["models", "--filter", "resnet8*", "--json", str(listed)],
        ["models", "--filter", "resnet8*"],
        ["train", "--model", "resnet8_cifar_an", "--initial-checkpoint", name, "--dataset", "fashion_mnist", "--lr",
         "0.001", "--epochs", "1", "--progress", "none", "--data-dir", str(data), "--output", str(tmp_path / "run")],
    ]  # fmt: skip
    out, _ = in_copy(package, f"from attnorm.cli import main\nprint([main(c) for c in {commands!r}])")
    assert out.splitlines()[-1] == "[0, 0, 0, 0]"
    assert json.loads(result.read_text())["top1"] == record.top1
    (row,) = [row for row in json.loads(listed.read_text()) if row["name"] == "resnet8_cifar_an"]
    assert row["weights"] == [
        {"name": name, "data": "Fashion-MNIST", "measured": card["measured"], "size": card["size"]}
    ]
    lines = [line.split() for line in out.splitlines()]
    assert [name, "Fashion-MNIST", f"{record.top1:.2f}", "%", f"{card['size'] / 1e6:.2f}", "MB"] in lines
    assert json.loads((tmp_path / "run" / "record.json").read_text())["initial"]["missing"] == []


def test_a_detector(tmp_path, monkeypatch):
    """Into the package, and by its name through eval and predict."""
    (tmp_path / "data").mkdir()
    coco_sets.write(tmp_path / "data")
    config = TrainConfig(
        model="mask_rcnn_resnet10_small_fpn", dataset="coco", data_dir=str(tmp_path / "data"),
        output=str(tmp_path / "run"), epochs=1, lr=1e-3, batch_size=2,
        detector=DetectorConfig(fpn_channels=16, box_hidden=8, min_size=64, max_size=96, score_threshold=0.0),
    )  # fmt: skip
    fit(config, quiet=True)
    folder = tmp_path / "weights"
    card = making.add(tmp_path / "run", "mask_rcnn_resnet10_small_fpn.nuclei", tmp_path / "data", folder)
    assert card["task"] == "detection"
    assert card["input"]["classes"] == ["cat", "dog"]
    assert "mask AP" in making.page([card])
    assert "--channels-last" not in card["command"]
    monkeypatch.setattr(shipped, "FOLDER", folder)
    monkeypatch.setattr(shipped, "cards", lambda: {card["name"]: card})
    result = tmp_path / "eval.json"
    command = ["eval", "--checkpoint", card["name"], "--data-dir", str(tmp_path / "data"), "--json", str(result)]
    assert main(command) == 0
    assert 100 * json.loads(result.read_text())["mask_AP"] == card["measured"]["mask_AP"]
    picture = str(tmp_path / "data" / "images" / "val" / "1.png")
    found = str(tmp_path / "found")
    assert main(["predict", "--checkpoint", card["name"], "--input", picture, "--output", found]) == 0
    assert (tmp_path / "found" / "predictions.json").is_file()
    (row,) = list_detectors("mask_*")
    assert (row["parameters"], row["weights"][0]["name"]) == (card["parameters"], card["name"])
    assert list_detectors("cascade_*") == []


def test_a_file_of_that_name_goes_before(made, monkeypatch, tmp_path):
    _, card, _, _ = made
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shipped, "cards", lambda: {"a.b": card})
    assert shipped.resolve("a.b") == shipped.FOLDER / card["file"]
    Path("a.b").touch()
    assert shipped.resolve("a.b") == Path("a.b")
    assert shipped.resolve("c.d") == Path("c.d")


def test_an_unknown_name_names_those_there_are(monkeypatch, capsys):
    monkeypatch.setattr(shipped, "cards", lambda: {"resnet8_cifar_an.digits": {"file": "x"}})
    assert main(["eval", "--checkpoint", "resnet8_cifar_an.didgits"]) == 1
    assert "nor a network of that name in the package: there are resnet8_cifar_an.digits" in capsys.readouterr().err


def test_every_file_has_a_card_and_they_are_small():
    files = sorted(path.name for path in shipped.FOLDER.glob("*.safetensors"))
    assert files == sorted(card["file"] for card in CARDS.values())
    assert {path.stem for path in shipped.FOLDER.glob("*.json")} == set(CARDS)
    assert sum((shipped.FOLDER / file).stat().st_size for file in files) <= shipped.LIMIT == 20_000_000


@pytest.mark.parametrize("name", CARDS)
def test_card_file_and_header_agree(name):
    card = CARDS[name]
    content = (shipped.FOLDER / card["file"]).read_bytes()
    assert (len(content), hashlib.sha256(content).hexdigest()) == (card["size"], card["sha256"])
    meta = read_meta(name)
    assert (meta.model, list(meta.classes)) == (card["model"], card["input"]["classes"])
    assert name == f"{card['model']}.{card['tag']}"
    model, _ = load_checkpoint(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == card["parameters"]
    assert card["licence"] == "Apache-2.0"
    assert card["data"]["licence"] in ("MIT", "CC0 1.0")
    assert (making.ROOT / card["recipe"]).is_file()


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_timm_gives_what_the_file_holds(name):
    model = timm.create_model(name, pretrained=True)
    own, _ = load_checkpoint(name)
    assert all(torch.equal(value, own.state_dict()[key]) for key, value in model.state_dict().items())
    assert timm.is_model_pretrained(name)
    # Options of AN would leave the trained weights behind, and are refused.
    assert create_model(name, pretrained=True).pretrained_cfg["tag"] == CARDS[name]["tag"]


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_cards_number_is_reached_again(name, tmp_path):
    """On the first 1,000 test images; one image may fall the other way in another machine's arithmetic."""
    folder = shared_file("data/fashion_mnist")
    if not folder.is_dir():
        pytest.skip(f"Fashion-MNIST is not in {folder}")
    making.first_images(folder, making.SUBSET, tmp_path / "part")
    result = tmp_path / "eval.json"
    assert main(["eval", "--checkpoint", name, "--data-dir", str(tmp_path / "part"), "--json", str(result)]) == 0
    assert abs(json.loads(result.read_text())["top1"] - CARDS[name]["measured"]["subset"]["top1"]) < 0.11


@pytest.mark.parametrize("name", [name for name in CARDS if name not in CLASSIFIERS])
def test_the_detectors_number_is_reached_again(name, tmp_path):
    folder = shared_file("data/nuclei")
    if not folder.is_dir():
        pytest.skip(f"the nuclei are not in {folder}")
    result = tmp_path / "eval.json"
    assert main(["eval", "--checkpoint", name, "--data-dir", str(folder), "--json", str(result)]) == 0
    found = json.loads(result.read_text())
    for key in ("mask_AP", "box_AP"):
        assert abs(100 * found[key] - CARDS[name]["measured"][key]) < 0.1


def test_the_page_is_that_of_the_cards():
    assert making.main(["check"]) == 0
