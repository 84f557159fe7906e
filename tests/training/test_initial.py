"""Weights that a run starts from: which are taken, what is said of it, and that nothing else changes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from attnorm.errors import CheckpointError, ConfigError
from attnorm.training.checkpoint import load_checkpoint
from attnorm.training.config import resolve
from attnorm.training.loop import fit

from .narrow_detectors import shrink, tiny_config
from .runs import weights


@pytest.fixture
def backbone(tmp_path):
    """A file of timm's names, and its weights."""
    torch.manual_seed(5)
    state = timm.create_model("test_resnet", num_classes=7).state_dict()
    save_file(state, tmp_path / "backbone.safetensors")
    return str(tmp_path / "backbone.safetensors"), state


def test_fine_tuning_with_other_classes(trained, tiny, tmp_path, capfd):
    """Of a network for ten classes everything but the classifier, at a rate that leaves it as it was."""
    before, _ = trained
    source = Path(before.output) / "last.safetensors"
    config = replace(
        tiny, num_classes=12, initial_checkpoint=str(source), epochs=1, lr=1e-12, weight_decay=0.0, progress="plain"
    )
    record = fit(config)
    ours, theirs = weights(config), load_file(source)
    learnt = [name for name in ours if "running" not in name and "num_batches" not in name and name[:2] != "fc"]
    for name in learnt:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-6, msg=name)
    assert record.initial["source"] == str(source)
    assert set(record.initial["other_shape"]) == {"fc.weight", "fc.bias"}
    assert sorted(record.initial["taken"]) == sorted(name for name in theirs if name[:2] != "fc")
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == f"{source}: {len(theirs) - 2} of the network's {len(theirs)} entries taken"
    assert lines[1] == "  2 of another shape: fc.weight (10, 64) for (12, 64), fc.bias (10,) for (12,)"


def test_a_detector_starts_from_a_classification_network(backbone, tmp_path, monkeypatch):
    """The stem and stage 1 are frozen and statistics stay, as is right for weights from elsewhere."""
    shrink(monkeypatch)
    path, state = backbone
    config = tiny_config(tmp_path / "run", initial_checkpoint=path, epochs=1)
    detector = resolve(config).detector
    assert (detector.frozen_stages, detector.norm_policy) == (1, "eval")
    record = fit(config, quiet=True)
    ours = weights(config)
    assert {name.removeprefix("backbone.body.") for name in record.initial["taken"]} == {
        name for name in state if name.removeprefix("fc.") == name
    }
    assert set(record.initial["left_out"]) == {"fc.weight", "fc.bias"}
    for name, value in state.items():
        key = f"backbone.body.{name}"
        if name.startswith(("conv1", "bn1", "layer1")) or "running" in name:
            assert torch.equal(ours[key], value), name
    assert not torch.equal(ours["backbone.body.layer2.0.conv1.weight"], state["layer2.0.conv1.weight"])
    _, meta = load_checkpoint(Path(config.output) / "last.safetensors")
    assert meta.mean == (0.5, 0.5, 0.5), "the backbone's own, not that of the shapes"
    assert json.loads((Path(config.output) / "record.json").read_text())["initial"]["source"] == path


def test_a_detector_starts_from_a_whole_detector(tmp_path, monkeypatch):
    shrink(monkeypatch)
    first = tiny_config(tmp_path / "first", epochs=1)
    fit(first, quiet=True)
    source = Path(first.output) / "last.safetensors"
    second = tiny_config(
        tmp_path / "second", initial_checkpoint=str(source), epochs=1, lr=1e-12, detector={"frozen_stages": 0}
    )
    record = fit(second, quiet=True)
    before, after = load_file(source), weights(second)
    assert (record.initial["missing"], record.initial["other_shape"], record.initial["left_out"]) == ([], {}, [])
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=1e-6, msg=name)


def test_weights_of_another_network_are_refused_before_anything_is_written(backbone, tmp_path, monkeypatch):
    shrink(monkeypatch)
    path, _ = backbone
    config = tiny_config(tmp_path / "run", model="mask_rcnn_resnet10t_fpn", initial_checkpoint=path)
    with pytest.raises(CheckpointError, match=r"backbone\.safetensors must have the weights of the whole backbone"):
        fit(config, quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("model", ["resnet8_cifar_an", "mask_rcnn_resnet18_an_fpn"])
def test_there_are_no_pretrained_weights_of_an(tiny, tmp_path, monkeypatch, model):
    if "rcnn" in model:
        shrink(monkeypatch)
    config = tiny_config(tmp_path / "run") if "rcnn" in model else tiny
    with pytest.raises(ConfigError, match="pretrained needs weights that timm publishes; it has none of resnet"):
        fit(replace(config, model=model, pretrained=True), quiet=True)
