"""`attnorm convert`: authors' files become checkpoints that eval and predict take, and the way back."""

import json
from dataclasses import fields

import numpy as np
import pytest
import torch
from PIL import Image

from attnorm.cli import main
from attnorm.errors import CheckpointError, ConfigError
from attnorm.models import create_model
from attnorm.models.released import read_released, to_released
from attnorm.training.checkpoint import load_checkpoint
from attnorm.training.convert import convert
from attnorm.training.use_config import ConvertConfig

NAME = "mobilenetv2_100_an"


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return create_model(NAME).eval()


@pytest.fixture(scope="module")
def authors(network, tmp_path_factory):
    """A file as the first release's training wrote it."""
    path = tmp_path_factory.mktemp("authors") / "model_best.pth.tar"
    state = {"module.network." + key: value for key, value in to_released(network, "aognet-v2").items()}
    content = {"epoch": 150, "arch": "mobilenet_v2", "state_dict": state, "best_prec1": 73.28, "optimizer": {}}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    return path


def same(state, expected):
    return state.keys() == expected.keys() and all(torch.equal(state[key], expected[key]) for key in expected)


def test_flags_are_frozen():
    assert sorted(f.name for f in fields(ConvertConfig)) == [
        "backbone_only",
        "dataset",
        "input",
        "json",
        "output",
        "to",
    ]


def test_an_authors_file_becomes_a_checkpoint(authors, network, tmp_path, capsys):
    """Weights bit by bit, ImageNet's classes and preparation, and where it all comes from."""
    output, report = tmp_path / "x.safetensors", tmp_path / "report.json"
    assert main(["convert", "--input", str(authors), "--output", str(output), "--json", str(report)]) == 0
    loaded, meta = load_checkpoint(output)
    assert same(loaded.state_dict(), network.state_dict())
    assert (meta.model, meta.dataset, meta.epoch, meta.image_size) == (NAME, "imagenet", 150, 224)
    assert (meta.crop_pct, meta.interpolation) == (0.875, "bilinear")
    assert (meta.mean, meta.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    # The tench's, the electric ray's and the toilet tissue's ids: ImageNet's folders in their order.
    assert (len(meta.classes), meta.classes[0], meta.classes[5], meta.classes[999]) == (
        1000,
        "n01440764",
        "n01496331",
        "n15075141",
    )
    assert meta.provenance is not None
    assert meta.provenance["file"] == authors.name
    assert meta.provenance["released_as"] == ["mobilenetv2-an-imagenet"]
    assert [(row["top1"], row["top5"]) for row in meta.provenance["published"]] == [(73.33, 91.44)]
    assert meta.provenance["best_top1"] == 73.28
    assert "research only" in meta.provenance["licence"]
    content = json.loads(report.read_text())
    assert (content["sha256"], content["size"]) == (meta.provenance["sha256"], authors.stat().st_size)
    assert content["left_out"] == {"optimizer": "the optimizer's state"}
    text = capsys.readouterr().out
    assert "mapped       416 entries" in text
    assert f"written      {output} (attnorm)" in text


def test_predict_takes_the_result(authors, network, tmp_path):
    """The probabilities are the network's for the image as the authors prepared it: the central 224 pixels of 256."""
    convert(ConvertConfig(input=str(authors), output=str(tmp_path / "x.safetensors")))
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    arguments = ["--checkpoint", str(tmp_path / "x.safetensors"), "--input", str(tmp_path / "image.png")]
    assert main(["predict", *arguments, "--output", str(tmp_path / "out"), "--device", "cpu"]) == 0
    top = json.loads((tmp_path / "out" / "predictions.json").read_text())["predictions"][0]["top"]
    mean, std = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
    central = torch.from_numpy(pixels[16:240, 16:240]) / 255
    with torch.no_grad():
        expected = network(((central - mean) / std).permute(2, 0, 1)[None]).softmax(1)[0]
    for item in top:
        # A fresh network makes 0.02 in the logits from 2e-7 in the pixels, the rounding of 1/255.
        assert item["probability"] == pytest.approx(expected[item["class"]].item(), rel=0.05)


def test_eval_takes_a_fine_tuned_network(tmp_path):
    """A network of other classes has no ImageNet names, and no published numbers."""
    network = create_model(NAME, num_classes=2)
    torch.save({"state_dict": to_released(network, "ivmcl-release")}, tmp_path / "current.pth")
    convert(
        ConvertConfig(input=str(tmp_path / "current.pth"), output=str(tmp_path / "x.safetensors"), dataset="folder")
    )
    _, meta = load_checkpoint(tmp_path / "x.safetensors")
    assert meta.classes == ("class 0", "class 1")
    assert meta.provenance is not None
    assert meta.provenance["published"] == []
    for label in ("red", "blue"):
        (tmp_path / "val" / label).mkdir(parents=True)
        Image.new("RGB", (64, 64), label).save(tmp_path / "val" / label / "x.png")
    arguments = ["--checkpoint", str(tmp_path / "x.safetensors"), "--data-dir", str(tmp_path), "--image-size", "64"]
    assert main(["eval", *arguments, "--device", "cpu", "--json", str(tmp_path / "eval.json")]) == 0
    assert json.loads((tmp_path / "eval.json").read_text())["count"] == 2


def test_to_the_authors_keys(authors, network, tmp_path):
    """From release to release, and from our checkpoint back: keys in their order, readable by torch's safe loader."""
    first, second = to_released(network, "aognet-v2"), to_released(network, "ivmcl-release")
    convert(ConvertConfig(input=str(authors), output=str(tmp_path / "r.pth"), to="ivmcl-release"))
    state = torch.load(tmp_path / "r.pth", weights_only=True)["state_dict"]
    assert list(state) == list(second)
    assert same(state, second)
    convert(ConvertConfig(input=str(authors), output=str(tmp_path / "x.safetensors")))
    arguments = ["--input", str(tmp_path / "x.safetensors"), "--output", str(tmp_path / "a.pth"), "--to", "aognet-v2"]
    assert main(["convert", *arguments, "--json", str(tmp_path / "a.json")]) == 0
    content = torch.load(tmp_path / "a.pth", weights_only=True)
    assert same(content["state_dict"], first)
    assert content["provenance"]["released_as"] == ["mobilenetv2-an-imagenet"]
    assert json.loads((tmp_path / "a.json").read_text())["entries"] == 416
    assert same(read_released(tmp_path / "a.pth").state, network.state_dict())


def test_the_interpolation_that_keys_cannot_tell(tmp_path):
    """AOGNet-12M's 120-epoch BN weights alone were made with bicubic resizing."""
    network = create_model("aognet_12m")
    state = to_released(network, "aognet-v2")
    for content, told in (({"state_dict": state}, False), ({"state_dict": state, "epoch": 198}, True)):
        torch.save(content, tmp_path / "x.pth")
        text = convert(ConvertConfig(input=str(tmp_path / "x.pth"), output=str(tmp_path / "x.safetensors")))
        assert ("--interpolation bicubic" in text) is not told


def test_a_backbone(authors, tmp_path):
    config = ConvertConfig(input=str(authors), output=str(tmp_path / "x.safetensors"), backbone_only=True)
    assert "without classifier" in convert(config)
    network, meta = load_checkpoint(tmp_path / "x.safetensors")
    assert (meta.num_classes, meta.classes) == (0, ())
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 1280)


def test_a_backbone_gives_no_classes(authors, tmp_path, capsys):
    path = tmp_path / "x.safetensors"
    convert(ConvertConfig(input=str(authors), output=str(path), backbone_only=True))
    data = ["--dataset", "digits"]
    inputs = ["--input", str(authors.parent), "--output", str(tmp_path / "found")]
    Image.new("RGB", (32, 32)).save(authors.parent / "x.png")
    for arguments in (["eval", *data], ["predict", *inputs]):
        assert main([*arguments, "--checkpoint", str(path)]) == 1
        assert "is a backbone without one; train from it with --initial-checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (None, "there is nothing at"),
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html>Google Drive", "a web page, such as Google Drive's question"),
        (b"PK\x03\x04 half a zip", "damaged or cut short"),
        (b"\x80\x02}q\x00.", "a pickle that torch.save did not write"),
    ],
)
def test_failures_are_one_line_and_leave_nothing(tmp_path, capsys, content, part):
    path, output = tmp_path / "in.pth", tmp_path / "out" / "x.safetensors"
    output.parent.mkdir()
    if content is not None:
        path.write_bytes(content)
    assert main(["convert", "--input", str(path), "--output", str(output), "--json", f"{output}.json"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("attnorm: error: ")
    assert part in err
    assert err.count("\n") == 1
    assert list(output.parent.iterdir()) == []


def test_what_the_release_lacks(tmp_path):
    torch.save(to_released(create_model("resnet34_an"), "ivmcl-release"), tmp_path / "x.pth")
    config = ConvertConfig(input=str(tmp_path / "x.pth"), output=str(tmp_path / "y.pth"), to="aognet-v2")
    with pytest.raises(CheckpointError, match=r"x\.pth.*aognet-v2 has no basic blocks"):
        convert(config)
    assert not (tmp_path / "y.pth").exists()


@pytest.mark.parametrize(
    ("output", "to", "part"),
    [
        ("x.pth", "attnorm", "must end in .safetensors"),
        ("x.safetensors", "aognet-v2", "must end in .pth or .pt or .tar"),
    ],
)
def test_outputs_that_do_not_fit(capsys, output, to, part):
    assert main(["convert", "--input", "a", "--output", output, "--to", to]) == 2
    assert part in capsys.readouterr().err


def test_an_attnorm_checkpoint_is_one_already(authors, tmp_path):
    path = tmp_path / "x.safetensors"
    convert(ConvertConfig(input=str(authors), output=str(path)))
    with pytest.raises(CheckpointError, match="is attnorm's already"):
        convert(ConvertConfig(input=str(path), output=str(tmp_path / "y.safetensors")))
    with pytest.raises(ConfigError, match="another file than input"):
        convert(ConvertConfig(input=str(path), output=str(path)))
