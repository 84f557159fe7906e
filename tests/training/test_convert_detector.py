"""`attnorm convert` of a detector: from the authors' file to a checkpoint that detects, and back."""

import json

import pytest
import torch

from attnorm.cli import main
from attnorm.detection import create_detector
from attnorm.detection.released import read_released, to_released
from attnorm.detection.released_names import head_names
from attnorm.errors import CheckpointError
from attnorm.training.checkpoint import load_checkpoint
from attnorm.training.convert import convert
from attnorm.training.convert_detector import coco_categories
from attnorm.training.use_config import ConvertConfig


def authors_file(path, num_classes):
    """As their framework writes it, of a small backbone whose names are torchvision's; returns the detector."""
    torch.manual_seed(0)
    detector = create_detector("mask_rcnn_resnet18_fpn", num_classes, conventions="v1").eval()
    state = detector.state_dict()
    names = head_names({key: tuple(value.shape) for key, value in state.items()}, "attentivenorm-detection")
    heads = {theirs: state[ours].reshape(shape) for theirs, (ours, shape) in names.items()}
    body = {f"backbone.{key}": value for key, value in detector.backbone.body.state_dict().items()}
    torch.save({"meta": {"epoch": 24}, "state_dict": body | heads, "optimizer": {}}, path)
    return detector


def test_an_authors_detector_becomes_a_checkpoint(tmp_path, capsys):
    """Weights bit by bit, their conventions, COCO's categories; and detections are the same."""
    detector = authors_file(tmp_path / "epoch_24.pth", 81)
    output, report = tmp_path / "x.safetensors", tmp_path / "report.json"
    arguments = ["--input", str(tmp_path / "epoch_24.pth"), "--output", str(output), "--json", str(report)]
    assert main(["convert", *arguments]) == 0
    loaded, meta = load_checkpoint(output)
    for key, value in detector.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    assert (meta.model, meta.num_classes, meta.dataset, meta.epoch) == ("mask_rcnn_resnet18_fpn", 81, "coco", 24)
    assert (loaded.config.conventions, loaded.config.box_head) == ("v1", "2fc")
    # COCO's first, its first after a gap in the ids, and its last.
    names = dict(zip(meta.category_ids, meta.classes, strict=True))
    assert (len(names), names[1], names[13], names[90]) == (80, "person", "stop sign", "toothbrush")
    assert 12 not in names
    assert meta.provenance["published"] == []
    text = capsys.readouterr().out
    assert "mask_rcnn_resnet18_fpn, 81 classes" in text
    assert "research only" in text
    content = json.loads(report.read_text())
    assert content["mapped"]["FPN"] == 16
    assert content["left_out"] == {"optimizer": "the optimizer's state"}
    with pytest.raises(CheckpointError, match="to attentivenorm-detection alone; got aognet-v2"):
        convert(ConvertConfig(input=str(output), output=str(tmp_path / "y.pth"), to="aognet-v2"))


def test_categories_of_other_data():
    assert coco_categories(2) == {1: "class 1", 2: "class 2"}
    assert list(coco_categories(80))[10:13] == [11, 13, 14]


def test_a_fine_tuned_detector_has_no_names(tmp_path):
    authors_file(tmp_path / "a.pth", 4)
    convert(ConvertConfig(input=str(tmp_path / "a.pth"), output=str(tmp_path / "x.safetensors")))
    _, meta = load_checkpoint(tmp_path / "x.safetensors")
    assert (meta.classes, meta.category_ids) == (("class 1", "class 2", "class 3"), (1, 2, 3))


@pytest.mark.slow
def test_a_detector_goes_back(tmp_path):
    """A released architecture under the authors' keys, in their order, which are read again."""
    torch.manual_seed(0)
    detector = create_detector("mask_rcnn_resnet50_an_fpn", 81, conventions="v1", box_head="4conv1fc").eval()
    theirs = to_released(detector, "attentivenorm-detection")
    torch.save({"state_dict": theirs}, tmp_path / "a.pth")
    convert(ConvertConfig(input=str(tmp_path / "a.pth"), output=str(tmp_path / "x.safetensors")))
    _, meta = load_checkpoint(tmp_path / "x.safetensors")
    assert [(row["box_AP"], row["mask_AP"]) for row in meta.provenance["published"]] == [(40.8, 36.4)]
    config = ConvertConfig(
        input=str(tmp_path / "x.safetensors"), output=str(tmp_path / "b.pth"), to="attentivenorm-detection"
    )
    convert(config)
    back = torch.load(tmp_path / "b.pth", weights_only=True)["state_dict"]
    assert list(back) == list(theirs)
    assert all(torch.equal(back[key], value) for key, value in theirs.items())
    assert read_released(tmp_path / "b.pth").name == "mask_rcnn_resnet50_an_fpn"
