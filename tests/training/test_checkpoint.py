"""Weights files: what goes in comes out, and everything else is one clear line."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from attnorm.detection.config import DetectorConfig
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


DETECTOR = {
    **asdict(META),
    "model": "mask_rcnn_resnet18_fpn",
    "num_classes": 4,
    "detector": asdict(DetectorConfig()),
    "category_ids": (3, 5, 9),
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": "3"}, "num_classes must be int; got '3'"),
        ({"num_classes": True}, "num_classes must be int; got True"),
        ({"num_classes": 10**12}, "classes and category_ids must be 999999999999 of each"),
        ({"in_chans": 0}, "must be at least 1"),
        ({"in_chans": 10**9}, "mean and std must have a value for each of 1000000000 channels"),
        ({"classes": "abc"}, "classes must be tuple[str, ...]; got 'abc'"),
        ({"classes": ["a", "b"]}, "there are 2 and 3"),
        ({"mean": [float("nan")]}, "mean and std must be finite numbers"),
        ({"std": [0]}, "std above 0"),
        ({"category_ids": None}, "there are 3 and 0"),
        ({"category_ids": [3, 3, 5]}, "no id twice"),
        ({"category_ids": ["3", "5", "9"]}, "category_ids must be tuple[int, ...] | None"),
        ({"dataset": 5}, "dataset must be str; got 5"),
        ({"detector": [1]}, "detector must be dict"),
        ({"detector": {"test_proposals": 1.5}}, "detector.test_proposals must be int; got 1.5"),
        ({"detector": {"min_size": [64, 72.5]}}, "detector.min_size must be int | tuple[int, ...]; got (64, 72.5)"),
        ({"detector": {"conventions": "v9"}}, "detector.conventions must be Literal['modern', 'v1']; got 'v9'"),
        ({"detector": {"norm_policy": 7}}, "detector.norm_policy must be "),
        ({"detector": {"score_threshold": "x" * 999}}, "detector.score_threshold must be float; got 'xxx"),
    ],
)
def test_a_header_with_wrong_values(tmp_path, change, message):
    path = tmp_path / "net.safetensors"
    save_file({"weight": torch.zeros(2)}, path, metadata={KEY: json.dumps({**DETECTOR, **change})})
    refused = refusal(path)
    assert f"the attnorm header of {path} is damaged: " in refused
    assert message in refused
    assert len(refused) < 400


def test_more_classes_than_the_weights_have(saved):
    """Refused before the network is built, which would take all of the memory."""
    _, path = saved
    save_file(load_file(path), path, metadata={KEY: json.dumps({**asdict(META), "num_classes": 10**12})})
    assert "says num_classes 1000000000000, and none of its weights are of as many" in refusal(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unknown": 1}, "unexpected keyword argument 'unknown'"),
        ({"min_size": 900, "max_size": 800}, "min_size must be at least 1 and at most max_size"),
    ],
)
def test_a_detector_that_cannot_be_built(tmp_path, change, message):
    path = tmp_path / "net.safetensors"
    header = {**DETECTOR, "detector": {**DETECTOR["detector"], **change}}
    save_file({"weight": torch.zeros(4)}, path, metadata={KEY: json.dumps(header)})
    refused = refusal(path)
    assert "names a network that cannot be built: " in refused
    assert message in refused
