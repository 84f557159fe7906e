"""The authors' detectors through the whole road: a file as they wrote it, read, mapped and built.

The truth is independent: state dicts listed from the original networks, filled by a published rule, and the places of
single entries written out here.
"""

import json

import pytest
import torch
from torch.testing import assert_close

import attnorm
from attnorm.detection import create_detector
from attnorm.detection.config import DetectorConfig
from attnorm.detection.detector import Detector
from attnorm.detection.released import read_released, to_released
from attnorm.detection.released_names import head_names, recognise_heads, to_ours
from attnorm.errors import CheckpointError
from tests.parity.filling import entry
from tests.shared import shared_file

D, R = "attentivenorm-detection", "ivmcl-release"
INDEX = shared_file("reference/state_dicts/index.json")
needs_reference = pytest.mark.skipif(not INDEX.is_file(), reason="the reference facts are not here")

PLAIN = {"fpn_norm": "none", "box_norm": "none", "mask_norm": "none", "box_head": "4conv1fc", "class_agnostic": False}
NORMED = {**PLAIN, "fpn_norm": "gn", "box_norm": "an_gn", "mask_norm": "gn", "num_components": (10, 10, 20, 20)}
CASCADE = {**PLAIN, "box_head": "2fc", "class_agnostic": True}
BACKBONES = {"r50": "resnet50", "r101": "resnet101", "aognet_12m": "aognet_12m", "aognet_40m": "aognet_40m"}


def listed(scheme, name):
    path = INDEX.parent / scheme / f"{name}.json"
    return {key: tuple(shape) for key, shape in json.loads(path.read_text()).items()}


def all_listed():
    return sorted((path.parent.name, path.stem) for path in INDEX.parent.glob("*/*mask*.json"))


def expected_of(name):
    """Kind, backbone and settings by the file's name."""
    kind = "cascade_mask_rcnn" if name.startswith("cascade") else "mask_rcnn"
    backbone = next(BACKBONES[part] for part in BACKBONES if f"_{part}_" in name) + ("_an" if "_an_" in name else "")
    return kind, backbone, CASCADE if "cascade" in name else NORMED if "attn_gn" in name else PLAIN


@needs_reference
def test_all_detectors_are_listed():
    assert [scheme for scheme, _ in all_listed()] == [D] * 16 + [R] * 2


@needs_reference
@pytest.mark.parametrize(("scheme", "name"), all_listed(), ids=lambda value: value)
def test_keys_map_one_to_one(scheme, name):
    """Recognised from keys and shapes alone, every key has its place, in the same order and shape."""
    shapes = {key: shape for key, shape in listed(scheme, name).items() if not key.startswith("backbone.")}
    found = recognise_heads({key.removeprefix("roi_head."): shape for key, shape in shapes.items()})
    kind, backbone, settings = expected_of(name)
    assert found == (kind, 81, settings)
    with torch.device("meta"):
        detector = create_detector(f"{kind}_{backbone}_fpn", 81, **settings)
    own = {key: tuple(value.shape) for key, value in detector.state_dict().items()}
    names = head_names(own, scheme)
    assert {key: shape for key, (_, shape) in names.items()} == shapes
    assert list(names) == list(shapes)
    ours = [key for key, _ in names.values()]
    assert sorted(ours) == sorted(key for key in own if not key.startswith("backbone.body."))


# Our entry -> theirs, each in a place of its own.
PLACES = {
    "backbone.body.conv1.weight": "backbone.conv1.weight",
    "backbone.body.layer2.3.bn2.weight": "backbone.layer2.3.bn2.weight_",
    "backbone.fpn.inner_blocks.0.0.weight": "neck.lateral_convs.0.conv.weight",
    "backbone.fpn.inner_blocks.3.1.bias": "neck.lateral_convs.3.gn.bias",
    "backbone.fpn.layer_blocks.1.0.weight": "neck.fpn_convs.1.conv.weight",
    "backbone.fpn.layer_blocks.2.1.weight": "neck.fpn_convs.2.gn.weight",
    "rpn.head.conv.0.0.bias": "rpn_head.rpn_conv.bias",
    "rpn.head.cls_logits.weight": "rpn_head.rpn_cls.weight",
    "rpn.head.bbox_pred.bias": "rpn_head.rpn_reg.bias",
    "roi_heads.stages.0.predictor.cls_score.weight": "bbox_head.fc_cls.weight",
    "roi_heads.stages.0.predictor.bbox_pred.weight": "bbox_head.fc_reg.weight",
    "roi_heads.stages.0.head.0.0.weight": "bbox_head.shared_convs.0.conv.weight",
    "roi_heads.stages.0.head.1.1.weight": "bbox_head.shared_convs.1.agn.weight_",
    "roi_heads.stages.0.head.2.1.bias": "bbox_head.shared_convs.2.agn.bias_",
    "roi_heads.stages.0.head.3.1.attention.logits.weight": (
        "bbox_head.shared_convs.3.agn.attention_weights.attention.0.weight"
    ),
    "roi_heads.stages.0.head.3.1.attention.logits.bias": (
        "bbox_head.shared_convs.3.agn.attention_weights.attention.0.bias"
    ),
    "roi_heads.stages.0.head.5.weight": "bbox_head.shared_fcs.0.weight",
    "roi_heads.masks.0.head.2.0.weight": "mask_head.convs.2.conv.weight",
    "roi_heads.masks.0.head.3.1.weight": "mask_head.convs.3.gn.weight",
    "roi_heads.masks.0.predictor.conv5_mask.bias": "mask_head.upsample.bias",
    "roi_heads.masks.0.predictor.mask_fcn_logits.weight": "mask_head.conv_logits.weight",
}


def written(path, scheme, name):
    """A file as their framework writes it; returns the values."""
    state = {key: entry(i, key, shape).float() for i, (key, shape) in enumerate(listed(scheme, name).items())}
    state = {key: value.long() if key.endswith("tracked") else value for key, value in state.items()}
    torch.save({"meta": {"epoch": 24, "mmdet_version": "1"}, "state_dict": state, "optimizer": {}}, path)
    return state


@pytest.mark.slow
@needs_reference
def test_a_whole_detector_of_the_first_release(tmp_path):
    path = tmp_path / "epoch_24.pth"
    theirs = written(path, D, "mask_rcnn_r50_an_conv_head_attn_gn_fpn_2x")
    released = read_released(path)
    detector, report = released.build(), released.report
    ours = detector.state_dict()
    assert sum(report.mapped.values()) == len(theirs) == len(ours)
    for key, their in PLACES.items():
        assert torch.equal(ours[key], theirs[their].reshape(ours[key].shape)), key
    assert (released.name, released.scheme) == ("mask_rcnn_resnet50_an_fpn", D)
    assert (detector.config.conventions, detector.config.num_components) == ("v1", (10, 10, 20, 20))
    assert not detector.training
    assert list(report.mapped.items())[-4:] == [
        ("FPN", 24),
        ("proposal network", 6),
        ("box heads", 26),
        ("mask heads", 16),
    ]
    assert report.names == ("mask_rcnn_r50_an_conv_head_attn_gn_fpn_2x",)
    assert (report.epoch, report.left_out) == (24, {"optimizer": "the optimizer's state"})
    text = str(report)
    assert "network      mask_rcnn_resnet50_an_fpn, 81 classes, 3 image channels" in text
    assert "class 0" in text
    back = to_released(detector, D)
    assert list(back) == list(theirs)
    assert all(torch.equal(back[key], value) for key, value in theirs.items())
    network = attnorm.load_released(path, backbone_only=True)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = network.forward_intermediates(x, intermediates_only=True)
        for found, level in zip(detector.backbone.body(x), expected, strict=True):
            # Norms of the detector are frozen, which sums in another order.
            assert_close(found, level, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@needs_reference
@pytest.mark.parametrize("name", ["mask_rcnn_r50_an_conv_head_fpn_2x", "mask_rcnn_r50_bn_conv_head_fpn_2x"])
def test_a_whole_detector_of_the_second_release(tmp_path, name):
    """The background is last there and first here; boxes and masks of it are new, and never used."""
    path = tmp_path / "latest.pth"
    theirs = written(path, R, name)
    detector = attnorm.load_released(path)
    assert isinstance(detector, Detector)
    assert detector.config.conventions == "modern"
    assert detector.config.box_beta == 0.0  # its box loss is the absolute error
    ours = {key.removeprefix("roi_heads."): value for key, value in detector.state_dict().items()}
    logits = theirs["roi_head.bbox_head.fc_cls.weight"]
    assert torch.equal(ours["stages.0.predictor.cls_score.weight"][0], logits[80])
    assert torch.equal(ours["stages.0.predictor.cls_score.weight"][1:], logits[:80])
    assert torch.equal(ours["stages.0.predictor.bbox_pred.weight"][4:], theirs["roi_head.bbox_head.fc_reg.weight"])
    assert torch.equal(ours["stages.0.predictor.bbox_pred.bias"][4:], theirs["roi_head.bbox_head.fc_reg.bias"])
    assert not ours["stages.0.predictor.bbox_pred.weight"][:4].any()
    assert torch.equal(
        ours["masks.0.predictor.mask_fcn_logits.bias"][1:], theirs["roi_head.mask_head.conv_logits.bias"]
    )
    assert not ours["masks.0.predictor.mask_fcn_logits.bias"][0].any()
    assert torch.equal(ours["stages.0.head.2.0.bias"], theirs["roi_head.bbox_head.shared_convs.2.conv.bias"])
    report = read_released(path).report
    assert "torchvision's" in report.notes[-1]
    assert report.scheme == R


@pytest.mark.slow
@needs_reference
def test_a_whole_cascade(tmp_path):
    """Every stage in its place."""
    path = tmp_path / "epoch_20.pth"
    theirs = written(path, D, "cascade_mask_aognet_40m_an_fpn_20e")
    detector = attnorm.load_released(path)
    assert detector.name == "cascade_mask_rcnn_aognet_40m_an_fpn"
    ours = detector.state_dict()
    for t in range(3):
        for layer, their in (
            ("head.fc6", "shared_fcs.0"),
            ("head.fc7", "shared_fcs.1"),
            ("predictor.bbox_pred", "fc_reg"),
        ):
            assert torch.equal(ours[f"roi_heads.stages.{t}.{layer}.weight"], theirs[f"bbox_head.{t}.{their}.weight"])
        assert torch.equal(ours[f"roi_heads.masks.{t}.head.1.0.bias"], theirs[f"mask_head.{t}.convs.1.conv.bias"])
    assert list(to_released(detector, D)) == list(theirs)


def test_classes_of_the_second_release():
    """Three classes and a background: rows by hand."""
    key = "roi_heads.stages.0.predictor."
    logits, boxes, masks = torch.tensor([1.0, 2, 3, 9]), torch.arange(1.0, 13), torch.tensor([[1.0], [2], [3]])
    assert to_ours(f"{key}cls_score.bias", logits, (4,), R).tolist() == [9, 1, 2, 3]
    assert to_ours(f"{key}bbox_pred.bias", boxes, (16,), R).tolist() == [0, 0, 0, 0, *range(1, 13)]
    masks_key = "roi_heads.masks.0.predictor.mask_fcn_logits.weight"
    assert to_ours(masks_key, masks, (4, 1), R).tolist() == [[0], [1], [2], [3]]
    assert to_ours(f"{key}bbox_pred.bias", torch.arange(4.0), (4,), R).tolist() == [0, 1, 2, 3]  # one box for all
    assert torch.equal(to_ours(f"{key}cls_score.bias", logits, (4,), D), logits)


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"conventions": "modern"}, "must have conventions v1"),
        ({"conventions": "v1", "backbone": "resnet18_an"}, "aognet-v2 has no basic blocks"),
    ],
)
def test_what_the_first_release_does_not_have(settings, part):
    settings = dict(settings)
    name = f"faster_rcnn_{settings.pop('backbone', 'resnet10t')}_fpn"
    with pytest.raises(CheckpointError, match=part):
        to_released(create_detector(name, 3, config=DetectorConfig(**settings)), D)


def test_schemes_of_detectors_and_networks():
    detector = create_detector("faster_rcnn_resnet10t_fpn", 3)
    with pytest.raises(CheckpointError, match="to attentivenorm-detection alone; got aognet-v2"):
        to_released(detector, "aognet-v2")
    with pytest.raises(CheckpointError, match="is for detectors; got FeatureListNet"):
        to_released(detector.backbone.body, D)


def test_files_that_are_no_whole_detector(tmp_path):
    """A small one, whole; then with one entry too few, and without what tells its classes."""
    settings = {**NORMED, "num_components": (2, 3, 4, 5)}
    detector = create_detector("faster_rcnn_resnet18_fpn", 3, conventions="v1", **settings)
    own = {key: tuple(value.shape) for key, value in detector.state_dict().items()}
    heads = {theirs: detector.state_dict()[ours].reshape(shape) for theirs, (ours, shape) in head_names(own, D).items()}
    body = {f"backbone.{key}": value for key, value in detector.backbone.body.state_dict().items()}
    whole = body | heads
    torch.save({"state_dict": whole}, tmp_path / "whole.pth")
    released = read_released(tmp_path / "whole.pth")
    assert (released.name, released.report.names) == ("faster_rcnn_resnet18_fpn", ())
    for key, value in released.build().state_dict().items():
        assert torch.equal(value, detector.state_dict()[key]), key
    for missing, part in (
        ("rpn_head.rpn_cls.bias", r"1 missing \(first: rpn_head.rpn_cls.bias\)"),
        ("bbox_head.fc_cls.bias", "logits of 2 to a million classes"),
    ):
        torch.save({k: v for k, v in whole.items() if k != missing}, tmp_path / "part.pth")
        with pytest.raises(CheckpointError, match=part) as error:
            read_released(tmp_path / "part.pth")
        assert "part.pth" in str(error.value)
