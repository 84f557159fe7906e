"""A network that goes into a folder comes out again: by timm's own road, by ours, and through every command."""

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from packaging.version import Version
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

import attnorm
from attnorm.cli import main
from attnorm.errors import CheckpointError, ConfigError
from attnorm.layers.attentive import AttentiveNorm
from attnorm.models import create_model, shipped
from attnorm.models.hub import fetch
from attnorm.models.transfer import take_weights
from attnorm.training.checkpoint import CheckpointMeta, load_checkpoint, save_checkpoint
from attnorm.training.config import TrainConfig
from attnorm.training.loop import fit
from tests.training.saved_detector import save_tiny_detector
from tests.training.test_checkpoint import META

SPECS = (
    "resnet8_cifar_an",
    "resnet8_cifar:norm=an:gate=softmax:num_components=3-4-5",
    "resnet8_cifar:norm=an_gn:logit_norm=none",
)


def trained(model: nn.Module, meta: CheckpointMeta) -> nn.Module:
    """With running statistics and weights of its own in every entry."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(2):
        model(torch.randn(4, meta.in_chans, meta.image_size, meta.image_size, generator=generator))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def assert_same(one: nn.Module, other: nn.Module, meta: CheckpointMeta) -> None:
    expected, state = one.state_dict(), other.state_dict()
    assert state.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(state[name], expected[name])] == []
    images = torch.randn(2, meta.in_chans, meta.image_size, meta.image_size)
    with torch.inference_mode():
        assert torch.equal(other.eval()(images), one(images))


@pytest.fixture(params=SPECS)
def saved(request, tmp_path):
    torch.manual_seed(0)
    meta = replace(META, model=request.param, image_size=32)
    model = trained(create_model(meta.model, num_classes=3, in_chans=1), meta)
    attnorm.save_pretrained(model, tmp_path / "net", licence="mit", meta=meta)
    return model, meta, tmp_path / "net"


def test_timm_builds_what_was_saved(saved):
    """With its classes and channels, normalisation and names; with other classes; as features; without weights."""
    model, meta, folder = saved
    place = f"local-dir:{folder}"
    built = timm.create_model(place, pretrained=True)
    assert_same(model, built, meta)
    cfg = built.pretrained_cfg
    assert (tuple(cfg["mean"]), tuple(cfg["std"]), cfg["crop_pct"]) == ((0.25,), (0.5,), 0.9)
    assert list(cfg["label_names"]) == ["cat", "dog", "été"]
    assert tuple(timm.data.resolve_model_data_config(built)["input_size"]) == (1, 32, 32)
    other = timm.create_model(place, pretrained=True, num_classes=7)
    assert other.get_classifier().out_features == 7
    assert torch.equal(other.conv1.weight, model.conv1.weight)
    features = timm.create_model(place, pretrained=True, features_only=True, out_indices=(1, 2)).eval()
    images = torch.randn(2, 1, 32, 32)
    with torch.inference_mode():
        deep = features(images)
        whole = model.forward_intermediates(images, indices=(1, 2), intermediates_only=True)
    assert all(torch.equal(one, other) for one, other in zip(deep, whole, strict=True))
    assert not torch.equal(timm.create_model(place).conv1.weight, model.conv1.weight)


def test_what_timm_saves_again_is_read(saved, tmp_path):
    """What `save_for_hf` writes has no header of ours: config.json alone says what it is, options included."""
    model, meta, folder = saved
    built = timm.create_model(f"local-dir:{folder}", pretrained=True)
    told = {"model_config": {"label_names": list(meta.classes)}}
    if Version(timm.__version__) < Version("1.0.30"):  # which leaves it to who saves to say what it was built with
        told["model_args"] = {"in_chans": 1, **({"spec": meta.model} if ":" in meta.model else {})}
    timm.models.save_for_hf(built, tmp_path / "again", safe_serialization=True, **told)
    loaded, again = load_checkpoint(tmp_path / "again")
    assert_same(model, loaded, meta)
    unknown = {"dataset": "folder", "epoch": 0, "metrics": None, "attnorm_version": "unknown"}
    assert again == replace(meta, **unknown)
    assert_same(model, timm.create_model(f"local-dir:{tmp_path / 'again'}", pretrained=True), meta)


def test_attnorm_loads_it_by_any_name(saved, monkeypatch):
    model, meta, folder = saved
    for place in (folder, str(folder), f"local-dir:{folder}", folder / "model.safetensors"):
        loaded, read = load_checkpoint(place)
        assert read == meta
        assert_same(model, loaded, meta)
    monkeypatch.chdir(folder)
    own = attnorm.load("local-dir:.")
    assert not own.training
    assert own.pretrained_cfg["label_names"] == meta.classes
    assert json.loads((folder / "config.json").read_text())["attnorm"]["model"] == meta.model


def test_a_run_that_starts_from_it_records_its_name(tmp_path):
    """By which the checkpoint is built later, without the folder; options included."""
    spec = "resnet8_cifar:norm=an:num_components=3"
    source = attnorm.save_pretrained(create_model(spec), tmp_path / "net", licence="mit", model_name=spec)
    config = TrainConfig(
        model=f"local-dir:{source}", dataset="digits", epochs=1, batch_size=500, output=str(tmp_path / "run"),
        device="cpu",
    )  # fmt: skip
    fit(config, quiet=True)
    shutil.rmtree(source)
    assert load_checkpoint(tmp_path / "run" / "last.safetensors")[1].model == spec


def test_from_the_hub(saved, hub):
    """By branch, by commit, by timm's road; one state of both files; and later from the cache, without the hub."""
    model, meta, folder = saved
    first = hub.put("me/net", folder)
    assert_same(model, attnorm.load("hf-hub:me/net"), meta)
    assert_same(model, timm.create_model("hf-hub:me/net", pretrained=True), meta)
    changed = {name: value + 1 if value.is_floating_point() else value for name, value in model.state_dict().items()}
    save_file(changed, folder / "model.safetensors")
    hub.put("me/net", folder, "next")
    assert torch.equal(attnorm.load("hf-hub:me/net@next").conv1.weight, model.conv1.weight + 1)
    assert torch.equal(attnorm.load(f"hf-hub:me/net@{first}").conv1.weight, model.conv1.weight)
    assert {line.rpartition("/")[2] for line in hub.requests} == {"config.json", "model.safetensors"}
    fetch.cache_clear()
    hub.is_down = True
    assert_same(model, attnorm.load("hf-hub:me/net"), meta)


def test_a_detector(tmp_path):
    """Same boxes, labels and masks; timm's layout knows none, so its config.json is our header."""
    path = save_tiny_detector(tmp_path / "net.safetensors", fpn_channels=16, box_hidden=32)
    detector, meta = load_checkpoint(path)
    folder = attnorm.save_pretrained(path, tmp_path / "net", licence="cc0-1.0")
    loaded = attnorm.load(folder)
    image = torch.rand(3, 60, 80, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        (expected,), (found,) = detector([image]), loaded([image])
    assert len(expected["boxes"]) == 5
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert loaded.pretrained_cfg["label_names"] == ("dog", "cat")
    assert load_checkpoint(folder)[1] == meta
    # Without the header in the weights, that of config.json serves.
    save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors")
    assert load_checkpoint(folder)[1] == meta


@pytest.mark.parametrize("name", shipped.cards())
def test_the_shipped_ones(name, tmp_path):
    folder = attnorm.save_pretrained(name, tmp_path / "net", licence="apache-2.0")
    expected, state = attnorm.load(name).state_dict(), attnorm.load(folder).state_dict()
    assert [key for key in expected if not torch.equal(state[key], expected[key])] == []
    if shipped.cards()[name]["task"] == "classification":
        built = timm.create_model(f"local-dir:{folder}", pretrained=True).state_dict()
        assert [key for key in expected if not torch.equal(built[key], expected[key])] == []


@pytest.fixture
def timms(tmp_path):
    """A network of timm's in a folder that timm alone has written."""
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=3, drop_path_rate=0.1)
    timm.models.save_for_hf(
        model, tmp_path / "timms", model_config={"label_names": ["a", "b", "c"]}, safe_serialization=True
    )
    return model, tmp_path / "timms"


def test_a_network_of_timms_through_the_commands(timms, tmp_path):
    """Evaluated, used, swapped, and taken to fine-tune from."""
    model, folder = timms
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for name in "abc":
            (tmp_path / "data" / part / name).mkdir(parents=True)
            for number in range(2):
                pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / part / name / f"{number}.png")
    place, data, out = f"local-dir:{folder}", str(tmp_path / "data"), tmp_path / "out"
    result = tmp_path / "eval.json"
    evaluate = ["eval", "--checkpoint", place, "--dataset", "folder", "--data-dir", data, "--image-size", "32"]
    assert main([*evaluate, "--json", str(result)]) == 0
    assert json.loads(result.read_text())["count"] == 6
    picture = str(tmp_path / "data" / "val" / "a" / "0.png")
    assert main(["predict", "--checkpoint", str(folder), "--input", picture, "--output", str(out)]) == 0
    swapped = str(out / "swapped.safetensors")
    assert main(["swap", "--weights", place, "--output", swapped]) == 0
    an = attnorm.load(swapped)
    assert any(isinstance(module, AttentiveNorm) for module in an.modules())
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(an(images), model.eval()(images), atol=1e-4)
    assert take_weights(create_model("resnet10t", num_classes=3), place).missing == ()


@pytest.mark.slow
def test_a_network_of_timms_is_measured(timms):
    profile = [
        "profile",
        "--models",
        f"local-dir:{timms[1]}",
        "--image-size",
        "32",
        "--batch-size",
        "1",
        "--mode",
        "inference",
    ]
    assert main([*profile, "--seconds", "0"]) == 0


def test_a_network_that_is_given_itself(tmp_path):
    """As timm made it, or with its name; what it cannot be, or what nobody said, is refused and nothing is left."""
    model = timm.create_model("resnet8_cifar_an", num_classes=5)
    folder = attnorm.save_pretrained(model, tmp_path / "plain", licence="mit")
    assert load_checkpoint(folder)[1].num_classes == 5
    spec = "resnet8_cifar:norm=an:num_components=3"
    attnorm.save_pretrained(create_model(spec), tmp_path / "named", licence="mit", model_name=spec)
    assert load_checkpoint(tmp_path / "named")[1].model == spec
    with pytest.raises(CheckpointError, match="does not fit the network"):
        attnorm.save_pretrained(create_model(spec), tmp_path / "wrong", licence="mit")
    with pytest.raises(ConfigError, match="must say what it is"):
        attnorm.save_pretrained(nn.Linear(2, 2), tmp_path / "wrong", licence="mit")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["named", "plain"]


def test_a_folder_is_not_written_over(tmp_path):
    path = tmp_path / "net.safetensors"
    save_checkpoint(path, create_model(META.model, num_classes=3, in_chans=1), META)
    (tmp_path / "empty").mkdir()
    attnorm.save_pretrained(path, tmp_path / "empty", licence="mit")
    assert sorted(file.name for file in (tmp_path / "empty").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    assert (tmp_path / "empty").stat().st_mode & 0o777 == 0o777 & ~umask()
    before = (tmp_path / "empty" / "README.md").read_bytes()
    with pytest.raises(ConfigError, match="new or empty folder"):
        attnorm.save_pretrained(path, tmp_path / "empty", licence="apache-2.0")
    assert (tmp_path / "empty" / "README.md").read_bytes() == before


def umask() -> int:
    value = os.umask(0)
    os.umask(value)
    return value
