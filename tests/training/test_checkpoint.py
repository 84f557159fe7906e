"""Weights files: what goes in comes out, and everything else is one clear line."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from attnorm.errors import CheckpointError
from attnorm.models import create_model
from attnorm.training.checkpoint import KEY, CheckpointMeta, load_checkpoint, save_checkpoint

META = CheckpointMeta(
    model="resnet8_cifar_an",
    num_classes=3,
    in_chans=1,
    classes=("cat", "dog", "été"),
    dataset="folder",
    image_size=28,
    mean=(0.25,),
    std=(0.5,),
    crop_pct=0.9,
    interpolation="bicubic",
    epoch=7,
    metrics={"top1": 91.25},
    attnorm_version="0.1.0",
)


@pytest.fixture
def saved(tmp_path):
    """A network with running statistics of its own, and its file."""
    model = create_model(META.model, num_classes=3, in_chans=1)
    model(torch.randn(4, 1, 28, 28))
    path = tmp_path / "net.safetensors"
    save_checkpoint(path, model, META)
    return model, path


def refusal(path):
    """The message with which a file is refused: one line that names the file."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    return message


def test_round_trip(saved):
    model, path = saved
    loaded, meta = load_checkpoint(path)
    assert meta == META
    assert not loaded.training
    state, expected = loaded.state_dict(), model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_any_program_reads_the_file(saved):
    model, path = saved
    assert load_file(path).keys() == model.state_dict().keys()
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()[KEY])["classes"] == ["cat", "dog", "été"]


def test_channels_last_weights_are_saved_in_order(tmp_path):
    model = create_model(META.model, num_classes=3, in_chans=1).to(memory_format=torch.channels_last)
    save_checkpoint(tmp_path / "x.safetensors", model, META)
    loaded, _ = load_checkpoint(tmp_path / "x.safetensors")
    assert torch.equal(loaded.state_dict()["conv1.weight"], model.state_dict()["conv1.weight"])


def test_a_missing_file(tmp_path):
    assert "there is no file" in refusal(tmp_path / "nothing.safetensors")


def test_a_truncated_file(saved):
    _, path = saved
    path.write_bytes(path.read_bytes()[:-1000])
    assert "damaged, cut short" in refusal(path)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04" + bytes(100)])
def test_a_file_of_another_kind(tmp_path, content):
    path = tmp_path / "net.safetensors"
    path.write_bytes(content)
    assert "must be a whole .safetensors file" in refusal(path)


def test_an_old_pickle_is_not_opened(tmp_path):
    path = tmp_path / "net.pth.tar"
    torch.save({"state_dict": {}}, path)
    assert "of another format" in refusal(path)


def test_weights_of_another_program(tmp_path):
    path = tmp_path / "net.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    assert "has no attnorm header" in refusal(path)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("resnet8_cifar", ["unexpected (first:", "of another shape (first:", "(10, 16) for (16,)"]),
        ("resnet20_cifar_an", ["missing (first:"]),
        ("resnet18", ["missing", "unexpected", "of another shape"]),
    ],
)
def test_weights_of_another_architecture(saved, name, parts):
    model, path = saved
    save_checkpoint(path, model, replace(META, model=name))
    message = refusal(path)
    assert "belongs to another architecture" in message
    assert [part for part in parts if part not in message] == []
    assert len(message) < 500


def test_an_unknown_architecture(saved):
    model, path = saved
    save_checkpoint(path, model, replace(META, model="resnet9_cifar"))
    assert "names a network that cannot be built" in refusal(path)


@pytest.mark.parametrize(
    ("header", "part"),
    [
        ("{", "is damaged"),
        ('{"format_version": 1}', "is damaged"),
        ('{"format_version": 99}', "header version 99"),
        ("[]", "is damaged"),
    ],
)
def test_a_damaged_header(tmp_path, header, part):
    path = tmp_path / "net.safetensors"
    save_file({"weight": torch.zeros(2)}, path, metadata={KEY: header})
    assert part in refusal(path)
