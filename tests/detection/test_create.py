"""Detectors by name: published sizes, settings worked out, weights in their places, and what is refused."""

import pytest
import torch
from torch.testing import assert_close
from torchvision.models.detection import fasterrcnn_resnet50_fpn, maskrcnn_resnet50_fpn

from attnorm.detection import create_detector, from_torchvision
from attnorm.detection.config import DetectorConfig
from attnorm.errors import CheckpointError, ConfigError
from attnorm.models import create_model
from attnorm.models.transfer import take_weights

CONV = {"box_head": "4conv1fc"}
GN = {**CONV, "fpn_norm": "gn", "box_norm": "gn", "mask_norm": "gn"}
AN_GN = {**GN, "box_norm": "an_gn"}

# Reference 7.3, every row with a size: millions as printed.
PUBLISHED = [
    ("mask_rcnn_resnet50_fpn", CONV, 45.71),
    ("mask_rcnn_resnet50_an_fpn", CONV, 45.91),
    ("mask_rcnn_resnet50_gn_fpn", GN, 45.72),
    ("mask_rcnn_resnet50_an_fpn", AN_GN, 45.96),
    ("mask_rcnn_resnet101_fpn", CONV, 64.70),
    ("mask_rcnn_resnet101_an_fpn", CONV, 65.15),
    ("mask_rcnn_resnet101_gn_fpn", GN, 64.71),
    ("mask_rcnn_resnet101_an_fpn", AN_GN, 65.20),
    ("mask_rcnn_aognet_12m_fpn", CONV, 33.09),
    ("mask_rcnn_aognet_12m_an_fpn", CONV, 33.21),
    ("mask_rcnn_aognet_12m_an_fpn", AN_GN, 33.26),
    ("mask_rcnn_aognet_40m_fpn", CONV, 60.73),
    ("mask_rcnn_aognet_40m_an_fpn", CONV, 60.97),
    ("mask_rcnn_aognet_40m_an_fpn", AN_GN, 61.02),
    ("cascade_mask_rcnn_resnet101_fpn", {}, 96.32),
    ("cascade_mask_rcnn_resnet101_an_fpn", {}, 96.77),
    ("cascade_mask_rcnn_aognet_40m_fpn", {}, 92.35),
    ("cascade_mask_rcnn_aognet_40m_an_fpn", {}, 92.58),
]


def on_meta(name, num_classes=81, **settings):
    with torch.device("meta"):
        return create_detector(name, num_classes, **settings)


@pytest.mark.parametrize(("name", "settings", "millions"), PUBLISHED)
def test_published_sizes(name, settings, millions):
    count = sum(parameter.numel() for parameter in on_meta(name, **settings).parameters())
    # 65,155,025 is printed as 65.15.
    assert abs(count - millions * 1e6) <= 5_100


def test_exact_sizes():
    """Reference 8, and torchvision's own count of its Mask R-CNN, which has 91 classes and frozen BatchNorms."""
    sizes = {
        ("mask_rcnn_resnet50_fpn", "4conv1fc"): 45_711_413,
        ("cascade_mask_rcnn_resnet101_an_fpn", "2fc"): 96_768_989,
    }
    for (name, head), size in sizes.items():
        assert sum(p.numel() for p in on_meta(name, box_head=head).parameters()) == size
    detector = on_meta("mask_rcnn_resnet50_fpn", 91)
    norms = sum(p.numel() for name, p in detector.backbone.body.named_parameters() if p.ndim == 1)
    assert sum(p.numel() for p in detector.parameters()) - norms == 44_401_393


def test_the_size_of_a_small_detector():
    """Counted by hand: the pyramid, the proposals, two fully connected layers, the predictors and the mask branch."""
    wide, hidden, inner = 64, 128, (24, 48, 96, 192)
    conv = 9 * wide * wide + wide
    expected = {
        "fpn": sum(c * wide + wide for c in inner) + 4 * conv,
        "rpn": conv + wide * 3 + 3 + wide * 12 + 12,
        "box": 49 * wide * hidden + hidden + hidden * hidden + hidden + hidden * 2 + 2 + hidden * 8 + 8,
        "mask": 4 * conv + 4 * wide * wide + wide + wide * 2 + 2,
    }
    detector = on_meta("mask_rcnn_resnet10_small_an_fpn", 2, fpn_channels=wide, box_hidden=hidden)
    parts = {"fpn": [detector.backbone.fpn], "rpn": [detector.rpn], "box": detector.roi_heads.stages}
    parts["mask"] = detector.roi_heads.masks
    counts = {n: sum(p.numel() for part in found for p in part.parameters()) for n, found in parts.items()}
    assert counts == expected
    assert sum(v.numel() * v.element_size() for v in detector.state_dict().values()) < 7e6


def test_settings_are_worked_out():
    """From the kind, the conventions, and whether the backbone starts from trained weights."""
    plain = on_meta("faster_rcnn_resnet10t_fpn").config
    assert (plain.box_beta, plain.class_agnostic, plain.frozen_stages, plain.norm_policy) == (1 / 9, False, 0, "train")
    cascade = on_meta("cascade_mask_rcnn_resnet10t_fpn", conventions="v1", frozen_stages=2).config
    assert (cascade.box_beta, cascade.class_agnostic, cascade.frozen_stages) == (1.0, True, 2)
    base = DetectorConfig(box_beta=0.5, max_size=500, min_size=100)
    mixed = on_meta("mask_rcnn_resnet10t_fpn", config=base, max_size=600, class_agnostic=True).config
    assert (mixed.box_beta, mixed.max_size, mixed.min_size, mixed.class_agnostic) == (0.5, 600, 100, True)


def test_kinds():
    """Boxes alone; one stage with masks; three stages, each with its own rules and mask branch."""
    faster, mask, cascade = (
        on_meta(f"{kind}_resnet10t_fpn", 5) for kind in ("faster_rcnn", "mask_rcnn", "cascade_mask_rcnn")
    )
    assert [(len(d.roi_heads.stages), len(d.roi_heads.masks)) for d in (faster, mask, cascade)] == [
        (1, 0),
        (1, 1),
        (3, 3),
    ]
    found = [(stage.iou, stage.std, stage.loss_weight) for stage in cascade.roi_heads.stages]
    assert found == [
        (0.5, (0.1, 0.1, 0.2, 0.2), 1.0),
        (0.6, (0.05, 0.05, 0.1, 0.1), 0.5),
        (0.7, (0.033, 0.033, 0.067, 0.067), 0.25),
    ]
    assert {len(stage.predictor.bbox_pred.weight) for stage in cascade.roi_heads.stages} == {4}
    assert len(mask.roi_heads.stages[0].predictor.bbox_pred.weight) == 20
    assert {len(branch.predictor.mask_fcn_logits.weight) for branch in cascade.roi_heads.masks} == {5}


def test_normalisation_is_the_backbones():
    def of(**options):
        transform = create_detector("faster_rcnn_resnet10t_fpn", 2, **options).transform
        return transform.image_mean.flatten().tolist(), transform.image_std.flatten().tolist()

    assert_close(of(), ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    assert_close(of(image_mean=(0.1, 0.2, 0.3))[0], [0.1, 0.2, 0.3])
    assert of(in_chans=1) == ([0.5], [0.5])
    with pytest.raises(ConfigError, match="image_std must have a value for each of 3 image channels; got"):
        of(image_std=(0.5,))


@pytest.mark.parametrize("published", [False, True], ids=["as built", "as published"])
@pytest.mark.parametrize("build", [fasterrcnn_resnet50_fpn, maskrcnn_resnet50_fpn])
def test_torchvisions_weights(build, published):
    """Every entry has a place of its shape; those that torchvision publishes have older names for some."""
    with torch.device("meta"):
        state = dict(build(weights=None, weights_backbone=None, num_classes=91).state_dict())
    if published:
        for key in [key for key in state if "num_batches_tracked" in key]:
            del state[key]  # FrozenBatchNorm2d
        older = {f"roi_heads.mask_head.{i}.0.": f"roi_heads.mask_head.mask_fcn{i + 1}." for i in range(4)}
        older |= {f"{block}_blocks.{i}.0.": f"{block}_blocks.{i}." for block in ("inner", "layer") for i in range(4)}
        older |= {"rpn.head.conv.0.0.": "rpn.head.conv."}
        for new, old in older.items():
            state = {key.replace(new, old): value for key, value in state.items()}
    name = "mask_rcnn_resnet50_fpn" if build is maskrcnn_resnet50_fpn else "faster_rcnn_resnet50_fpn"
    own = on_meta(name, 91).state_dict()
    found = from_torchvision(state)
    assert {key: value.shape for key, value in found.items()} == {
        key: value.shape for key, value in own.items() if not (published and key.endswith("num_batches_tracked"))
    }


def test_backbone_weights(tmp_path):
    """From a classification network, and from a detector of other classes, which makes the features the same."""
    torch.manual_seed(0)
    network = create_model("resnet10t", num_classes=3).eval()
    torch.save(network.state_dict(), tmp_path / "network.pth")
    detector = create_detector("faster_rcnn_resnet10t_fpn", 2, backbone_weights=tmp_path / "network.pth").eval()
    assert (detector.config.frozen_stages, detector.config.norm_policy) == (1, "eval")
    assert set(detector.backbone.transfer.taken) == set(network.state_dict()) - {"fc.weight", "fc.bias"}
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = network.forward_intermediates(x, intermediates_only=True)
        for found, level in zip(detector.backbone.body(x), expected, strict=True):
            assert_close(found, level)
    torch.save(detector.state_dict(), tmp_path / "detector.pth")
    second = create_detector("mask_rcnn_resnet10t_fpn", 4, backbone_weights=tmp_path / "detector.pth")
    assert second.backbone.transfer.taken == detector.backbone.transfer.taken
    assert torch.equal(second.backbone.body.conv1[0].weight, network.conv1[0].weight)
    assert not torch.equal(second.rpn.head.cls_logits.weight, detector.rpn.head.cls_logits.weight)


def test_a_detector_of_other_classes(tmp_path):
    """All of it but the predictors; and from a classification network the backbone."""
    torch.manual_seed(0)
    source, target = (create_detector("mask_rcnn_resnet10t_fpn", n) for n in (5, 3))
    torch.save(source.state_dict(), tmp_path / "detector.pth")
    report = take_weights(target, tmp_path / "detector.pth")
    predictors = {
        *(
            f"roi_heads.stages.0.predictor.{layer}.{e}"
            for layer in ("cls_score", "bbox_pred")
            for e in ("weight", "bias")
        ),
        *(f"roi_heads.masks.0.predictor.mask_fcn_logits.{e}" for e in ("weight", "bias")),
    }
    assert set(report.other_shape) == predictors
    assert report.other_shape["roi_heads.stages.0.predictor.bbox_pred.bias"] == "(20,) for (12,)"
    assert report.missing == report.left_out == ()
    for key in report.taken:
        assert torch.equal(target.state_dict()[key], source.state_dict()[key])
    network = create_model("resnet10t", num_classes=7)
    report = take_weights(target, network.state_dict())
    assert {key.split(".")[0] for key in report.missing} == {"backbone", "rpn", "roi_heads"}
    assert not [key for key in report.missing if key.startswith("backbone.body.")]
    assert report.left_out == ("fc.weight", "fc.bias")
    assert torch.equal(target.backbone.body.layer4[0].conv1.weight, network.layer4[0].conv1.weight)
    with pytest.raises(CheckpointError, match="whole backbone"):
        take_weights(target, create_model("resnet18").state_dict())


@pytest.mark.parametrize(
    ("name", "arguments", "part"),
    [
        ("mask_rcn_resnet50_fpn", {}, "a detector must be named"),
        ("mask_rcnn_resnet50_na_fpn", {}, "got 'resnet50_na': did you mean .*resnet50"),
        ("mask_rcnn_resnet50_fpn", {"num_classes": 1}, "at least 2, as it counts the background; got 1"),
        ("mask_rcnn_resnet50_fpn", {"box_heads": "2fc"}, "no setting 'box_heads': did you mean box_head?"),
        ("mask_rcnn_resnet50_fpn", {"pretrained": True, "backbone_weights": "a.pth"}, "exclude each other"),
        ("mask_rcnn_resnet50_an_fpn", {"pretrained": True}, "it has none of resnet50_an"),
        ("mask_rcnn_resnet50_fpn", {"fpn_channels": 48, "mask_norm": "gn"}, "multiple of 32 for mask_norm gn; got 48"),
        ("mask_rcnn_resnet50_fpn", {"box_hidden": 0}, "box_hidden must be at least 1; got 0"),
        ("cascade_mask_rcnn_resnet50_fpn", {"class_agnostic": False}, "class_agnostic must be true in a cascade"),
    ],
)
def test_what_cannot_be_meant(name, arguments, part):
    with pytest.raises(ConfigError, match=part):
        on_meta(name, **{"num_classes": 81, **arguments})
