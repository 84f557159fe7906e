"""`attnorm swap`: equal outputs, a header that the other commands understand, and what is refused."""

import hashlib
import json
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file, save_file

from attnorm.cli import main
from attnorm.layers.attentive import AttentiveNorm
from attnorm.models import create_model, shipped
from attnorm.training import swap as swap_file
from attnorm.training.checkpoint import load_checkpoint, read_meta
from attnorm.training.config import TrainConfig
from attnorm.training.loop import fit


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A finished run of a network with BN on the digits."""
    config = TrainConfig(
        model="resnet8_cifar", dataset="digits", output=str(tmp_path_factory.mktemp("plain")), epochs=3, lr=0.1
    )
    return Path(config.output) / "last.safetensors", fit(config, quiet=True)


def randomised(model, seed=0):
    """With statistics, scales and shifts that are not those of a new network."""
    torch.manual_seed(seed)
    for name, value in model.state_dict().items():
        if value.is_floating_point() and value.ndim == 1:
            value.copy_(torch.rand_like(value) + 0.5 if "var" in name or "weight" in name else torch.randn_like(value))
    return model


def outputs(model, images, *, training):
    with torch.no_grad():
        return model.double().train(training)(images)


def assert_same_outputs(checkpoint, source, size):
    """In both modes, in float64, against the network of the other library itself."""
    images = torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    for training in (False, True):
        swapped, _ = load_checkpoint(checkpoint)
        expected = outputs(source, images, training=training)
        found = outputs(swapped, images, training=training)
        assert ((found - expected).abs().max() / expected.abs().max()).item() < 1e-5, training
    assert any(isinstance(layer, AttentiveNorm) for layer in swapped.modules())


def failed(capsys, *arguments):
    """The exit code and the one line of a command that fails."""
    code = main(["swap", *map(str, arguments)])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return code, lines[0]


def test_the_whole_way(plain, tmp_path, capsys):
    """From a run with BN: swap, eval with the same accuracy, predict, fine-tune."""
    checkpoint, record = plain
    output, facts = tmp_path / "an.safetensors", tmp_path / "swap.json"
    assert main(["swap", "--weights", str(checkpoint), "--output", str(output), "--json", str(facts)]) == 0
    assert "AN in place of 3 of 9 norms" in capsys.readouterr().out
    written = json.loads(facts.read_text())
    assert written["model"] == "resnet8_cifar:norm=an"
    assert written["replaced"] == 3
    assert written["norms"] == 9
    assert written["largest_difference"] == max(written["differences"].values()) <= written["tolerance"]

    before, meta = read_meta(checkpoint), read_meta(output)
    kept = ("classes", "dataset", "image_size", "mean", "std", "crop_pct", "interpolation", "num_classes", "epoch")
    assert {name: getattr(meta, name) for name in kept} == {name: getattr(before, name) for name in kept}
    assert meta.provenance["swapped_from"] == "resnet8_cifar"
    assert meta.provenance["size"] == checkpoint.stat().st_size
    source, _ = load_checkpoint(checkpoint)
    assert_same_outputs(output, source, (8, 1, 8, 8))

    result = tmp_path / "eval.json"
    assert main(["eval", "--checkpoint", str(output), "--json", str(result)]) == 0
    assert json.loads(result.read_text())["top1"] == record.top1
    picture = tmp_path / "grey.png"
    Image.new("L", (8, 8), 90).save(picture)
    assert main(["predict", "--checkpoint", str(output), "--input", str(picture), "--output", str(tmp_path / "p")]) == 0
    tuned = tmp_path / "tuned"
    flags = ["--dataset", "digits", "--epochs", "1", "--lr", "0.001", "--progress", "none", "--output", str(tuned)]
    assert main(["train", "--model", meta.model, "--initial-checkpoint", str(output), *flags]) == 0
    content = json.loads((tuned / "record.json").read_text())
    assert content["initial"]["missing"] == []
    assert content["initial"]["other_shape"] == {}
    assert abs(content["top1"] - record.top1) < 5  # from random weights one epoch at this rate gives some 10 percent


def test_settings_of_an_are_in_the_name(plain, tmp_path):
    checkpoint, _ = plain
    output = tmp_path / "an.safetensors"
    flags = ["--placement", "resnet_bn12", "--num-components", "3-4-5", "--gate", "softmax"]
    assert main(["swap", "--weights", str(checkpoint), "--output", str(output), *flags]) == 0
    model, meta = load_checkpoint(output)
    assert meta.model == "resnet8_cifar:norm=an:placement=resnet_bn12:num_components=3-4-5:gate=softmax"
    layers = [layer for layer in model.modules() if isinstance(layer, AttentiveNorm)]
    assert [layer.num_components for layer in layers] == [3, 3, 4, 4, 5, 5]
    assert {layer.attention.gate for layer in layers} == {"softmax"}
    source, _ = load_checkpoint(checkpoint)
    assert_same_outputs(output, source, (8, 1, 8, 8))


def test_the_same_seed_gives_the_same_file(plain, tmp_path):
    files = [tmp_path / f"{i}.safetensors" for i in range(3)]
    for file, seed in zip(files, ("0", "0", "1"), strict=True):
        assert main(["swap", "--weights", str(plain[0]), "--output", str(file), "--seed", seed]) == 0
    first, again, other = (load_file(file) for file in files)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
    assert read_meta(files[0]) == read_meta(files[1])


@pytest.mark.parametrize("holder", ["", "state_dict", "model"])
def test_a_plain_file_of_a_timm_network(tmp_path, holder):
    """The network of timm itself, five classes, one channel; with a wrapper's prefix, without counters."""
    source = randomised(timm.create_model("resnet10t", num_classes=5, in_chans=1))
    state = {name: value for name, value in source.state_dict().items() if "num_batches" not in name}
    if holder:
        state = {holder: {f"module.{name}": value for name, value in state.items()}, "epoch": 3}
    torch.save(state, tmp_path / "source.pth")
    output = tmp_path / "an.safetensors"
    command = ["swap", "--model", "resnet10t", "--weights", str(tmp_path / "source.pth"), "--output", str(output)]
    assert main(command) == 0
    meta = read_meta(output)
    known = timm.get_pretrained_cfg("resnet10t")
    assert (meta.model, meta.num_classes, meta.in_chans) == ("resnet10t:norm=an", 5, 1)
    assert (meta.image_size, meta.crop_pct, meta.interpolation) == (176, known.crop_pct, known.interpolation)
    assert meta.mean == (0.5,)
    assert meta.classes == tuple(f"class {i}" for i in range(5))
    assert_same_outputs(output, source, (4, 1, 64, 64))


def test_a_plain_safetensors_file_of_torchvision(tmp_path):
    source = randomised(torchvision.models.resnet18(num_classes=6))
    save_file(source.state_dict(), tmp_path / "source.safetensors")
    output = tmp_path / "an.safetensors"
    flags = ["--model", "torchvision:resnet18", "--weights", str(tmp_path / "source.safetensors")]
    assert main(["swap", *flags, "--output", str(output)]) == 0
    meta = read_meta(output)
    assert (meta.model, meta.num_classes, meta.interpolation) == ("torchvision:resnet18:norm=an", 6, "bilinear")
    assert (meta.image_size, meta.crop_pct) == (224, 224 / 256)
    assert_same_outputs(output, source, (4, 3, 64, 64))


@pytest.mark.parametrize("name", ["resnet10t", "resnet10t.c3_in1k"])
def test_published_weights_of_timm(monkeypatch, tmp_path, name):
    """As if they were in the cache: timm's configuration of the network names the file."""
    source = randomised(timm.create_model("resnet10t"))
    file = tmp_path / "published.pth"
    torch.save(source.state_dict(), file)
    monkeypatch.setattr(timm.models._builder, "load_state_dict_from_hf", lambda *_, **__: torch.load(file))
    output = tmp_path / "an.safetensors"
    assert main(["swap", "--model", name, "--output", str(output)]) == 0
    meta = read_meta(output)
    assert meta.model == "resnet10t:norm=an"
    assert meta.provenance == {
        "swapped_from": "resnet10t",
        "source": "timm resnet10t.c3_in1k",
        "licence": "apache-2.0",
        "hf_hub_id": "timm/resnet10t.c3_in1k",
        "url": timm.get_pretrained_cfg("resnet10t").url,
    }
    assert meta.dataset == "imagenet"
    assert meta.classes[0] == "n01440764"
    assert_same_outputs(output, source, (4, 3, 64, 64))


@pytest.mark.parametrize(("name", "cache"), [("resnet10t", "timm"), ("torchvision:resnet18", "torchvision")])
def test_the_hub_cannot_be_reached(monkeypatch, tmp_path, capsys, name, cache):
    def offline(*_, **__):
        raise OSError("no route to host\nmore")

    monkeypatch.setattr(timm.models._builder, "load_state_dict_from_hf", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    output = tmp_path / "an.safetensors"
    code, line = failed(capsys, "--model", name, "--output", output)
    assert code == 1
    assert f"the weights of {name} must be in {cache}'s cache or on the network" in line
    assert "no route to host): go online once, or give a checkpoint file" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flag", ["--model", "--weights"])
def test_a_network_that_comes_with_the_package(plain, tmp_path, monkeypatch, flag):
    """By its name as model or as weights; the tag is not part of the new name, which other versions must know too."""
    card = {"name": "resnet8_cifar.digits", "model": "resnet8_cifar", "file": plain[0].name}
    monkeypatch.setattr(shipped, "FOLDER", plain[0].parent)
    monkeypatch.setattr(shipped, "cards", lambda: {card["name"]: card})
    output = tmp_path / "an.safetensors"
    assert main(["swap", flag, card["name"], "--output", str(output)]) == 0
    meta = read_meta(output)
    assert (meta.model, meta.dataset) == ("resnet8_cifar:norm=an", "digits")
    assert meta.provenance["sha256"] == hashlib.sha256(plain[0].read_bytes()).hexdigest()


def test_group_norm_becomes_an_on_group_norm(tmp_path):
    config = TrainConfig(
        model="resnet8_cifar:norm=gn", dataset="digits", output=str(tmp_path / "run"), epochs=1, lr=0.1
    )
    fit(config, quiet=True)
    output = tmp_path / "an.safetensors"
    assert main(["swap", "--weights", f"{config.output}/last.safetensors", "--output", str(output)]) == 0
    assert read_meta(output).model == "resnet8_cifar:norm=an_gn"
    source, _ = load_checkpoint(f"{config.output}/last.safetensors")
    assert_same_outputs(output, source, (4, 1, 8, 8))


def test_a_result_that_differs_is_not_written(plain, tmp_path, capsys, monkeypatch):
    """The comparison is of what will be read again: one entry off, and nothing is written."""
    original = swap_file._swapped

    def wrong(*arguments):
        model = original(*arguments)
        model.layer2[0].bn1.weight.data[3] += 1
        return model

    monkeypatch.setattr(swap_file, "_swapped", wrong)
    output = tmp_path / "an.safetensors"
    code, line = failed(capsys, "--weights", plain[0], "--output", output, "--json", tmp_path / "swap.json")
    assert code == 1
    assert "nothing was written" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--model", "resnet10t", "--output", "an.pth"], 2, "output must end in .safetensors"),
        (["--output", "an.safetensors"], 2, "model must name a network, or weights a checkpoint"),
        (["--model", "resnet10z", "--output", "an.safetensors"], 2, "got 'resnet10z'"),
        (["--model", "resnet18_an", "--output", "an.safetensors"], 2, "it has none of resnet18_an"),
        (["--model", "mask_rcnn_resnet50_fpn", "--output", "an.safetensors"], 2, "swap its backbone, `attnorm swap"),
        (["--weights", "BN", "--num-classes", "3", "--output", "an.safetensors"], 2, "num_classes stands in the chec"),
        (["--weights", "BN", "--model", "resnet18", "--output", "an.safetensors"], 2, "model stands in the checkpoint"),
        (["--weights", "BN", "--placement", "nowhere", "--output", "an.safetensors"], 2, "placement must be 'auto'"),
        (["--weights", "none.pth", "--model", "resnet10t", "--output", "a.safetensors"], 1, "there is nothing at"),
        (["--weights", "PLAIN", "--output", "an.safetensors"], 2, "model must name the network of"),
        (["--weights", "PLAIN", "--model", "resnet10t", "--output", "an.safetensors"], 1, "another architecture"),
        (["--weights", "CUT", "--model", "resnet8_cifar", "--output", "an.safetensors"], 1, "damaged or cut short"),
        (["--weights", "AN", "--output", "an.safetensors"], 2, "has AN already, and swap puts it in"),
    ],
)
def test_refused(plain, tmp_path, capsys, monkeypatch, flags, code, message):
    monkeypatch.chdir(tmp_path)
    state = create_model("resnet8_cifar", in_chans=1).state_dict()
    torch.save(state, "plain.pth")
    Path("cut.pth").write_bytes(Path("plain.pth").read_bytes()[:50_000])
    assert main(["swap", "--weights", str(plain[0]), "--output", "first.safetensors"]) == 0
    capsys.readouterr()
    before = sorted(tmp_path.iterdir())
    names = {"BN": plain[0], "PLAIN": "plain.pth", "CUT": "cut.pth", "AN": "first.safetensors"}
    found = failed(capsys, *(names.get(flag, flag) for flag in flags))
    assert found[0] == code, found
    assert message in found[1]
    assert sorted(tmp_path.iterdir()) == before
