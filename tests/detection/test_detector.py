"""Whole detectors: against torchvision's Mask R-CNN of the same weights, and on images and targets of every kind."""

from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from attnorm.detection import create_detector, from_torchvision
from attnorm.detection.config import DetectorConfig
from attnorm.detection.detector import Detector

CLASSES = 4
TINY = {
    "min_size": 64,
    "max_size": 128,
    "train_proposals": 50,
    "test_proposals": 25,
    "rpn_samples": 32,
    "box_samples": 16,
    "max_detections": 5,
}


def photographs() -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Two images of noise, one without objects."""
    torch.manual_seed(3)
    images = [torch.rand(3, 60, 90), torch.rand(3, 75, 50)]
    masks = torch.zeros(2, 60, 90, dtype=torch.uint8)
    masks[0, 10:40, 5:30] = 1
    masks[1, 5:50, 40:80] = 1
    boxes = torch.tensor([[5.0, 10.0, 30.0, 40.0], [40.0, 5.0, 80.0, 50.0]])
    return images, [
        {"boxes": boxes, "labels": torch.tensor([1, 3]), "masks": masks},
        {"boxes": boxes[:0], "labels": torch.zeros(0, dtype=torch.int64), "masks": torch.zeros(0, 75, 50).byte()},
    ]


KINDS = [("mask_rcnn", "modern"), ("cascade_mask_rcnn", "v1")]


@cache
def built(kind: str, conventions: str) -> Detector:
    torch.manual_seed(0)
    return create_detector(f"{kind}_resnet10t_fpn", CLASSES, config=DetectorConfig(conventions=conventions, **TINY))


def tiny(kind: str = "mask_rcnn", conventions: str = "modern") -> Detector:
    """The same detector for all tests, in training mode."""
    return built(kind, conventions).train()


def test_mask_rcnn_is_torchvisions():
    """Losses in training, with the same random state, and what is found in evaluation."""
    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d,
                                   trainable_layers=5)  # fmt: skip
    theirs = MaskRCNN(
        backbone, CLASSES, min_size=96, max_size=160, rpn_pre_nms_top_n_train=100, rpn_pre_nms_top_n_test=60,
        rpn_post_nms_top_n_train=100, rpn_post_nms_top_n_test=60, rpn_batch_size_per_image=64,
        box_batch_size_per_image=24, box_detections_per_img=10,
    )  # fmt: skip
    for layer in (theirs.rpn.head.cls_logits, theirs.rpn.head.bbox_pred, theirs.roi_heads.box_predictor.cls_score):
        nn.init.normal_(layer.weight, std=0.1)  # scores that differ
    theirs.transform.torch_choice = lambda sizes: sizes[0]  # it draws one even from one, which moves the random state
    ours = create_detector(
        "mask_rcnn_resnet18_fpn", CLASSES, image_mean=(0.485, 0.456, 0.406), image_std=(0.229, 0.224, 0.225),
        min_size=96, max_size=160, train_proposals=100, test_proposals=60, rpn_samples=64, box_samples=24,
        max_detections=10,
    )  # fmt: skip
    ours.load_state_dict(from_torchvision(theirs.state_dict()))
    images, targets = photographs()
    losses = []
    for detector in (ours, theirs):
        torch.manual_seed(1)
        losses.append(detector(images, targets))
    assert losses[0]["loss_box_reg"] > 0
    torch.testing.assert_close(losses[0], losses[1])
    found, expected = ours.eval()(images), theirs.eval()(images)
    for each in expected:
        each["masks"] = each["masks"].detach()
    assert [len(each["boxes"]) for each in expected] == [10, 10]
    torch.testing.assert_close(found, expected)


def test_small_masks_become_those_of_the_image():
    """`detect` gives what `forward` enlarges: the mean of a mask within its box is about that of its small form."""
    detector = tiny().eval()
    images, _ = photographs()
    small, whole = detector.detect(images), detector(images)
    for image, few, many in zip(images, small, whole, strict=True):
        assert few["size"] == image.shape[1:]
        torch.testing.assert_close(few["boxes"], many["boxes"], rtol=0, atol=0)
        assert many["masks"].shape == (len(few["boxes"]), 1, *image.shape[1:])
        for probabilities, box, mask in zip(few["mask_probabilities"], few["boxes"], many["masks"], strict=True):
            x1, y1, x2, y2 = box.round().int().tolist()
            assert mask[0, y1:y2, x1:x2].mean().item() == pytest.approx(probabilities.mean().item(), abs=0.05)
            mask[0, max(y1 - 2, 0) : y2 + 2, max(x1 - 2, 0) : x2 + 2] = 0
            assert not mask.any()


@pytest.mark.parametrize(("kind", "conventions"), KINDS)
def test_every_parameter_has_a_gradient_without_any_object(kind: str, conventions: str):
    """Processes that average gradients wait for all of them, whatever is in their images."""
    detector = tiny(kind, conventions)
    detector.zero_grad()
    images, targets = photographs()
    losses = detector([images[1]] * 2, [targets[1]] * 2)
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert all(loss == 0 for name, loss in losses.items() if "box_reg" in name or "mask" in name)
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in detector.parameters())
    moved = [name for name, p in detector.named_parameters() if p.grad is not None and p.grad.any()]
    assert not [name for name in moved if "masks" in name or "bbox_pred" in name]
    assert [name for name in moved if "cls_score" in name]


@pytest.mark.parametrize(("kind", "conventions"), KINDS)
def test_images_of_one_pixel_and_of_one_row(kind: str, conventions: str):
    """Smaller than the smallest stride; an object fills each. Nothing found lies outside.

    In v1 the last pixel of an enlarged image is nearly one further than the last pixel of the image, made smaller.
    """
    beyond = 1 if conventions == "v1" else 1e-4
    detector = tiny(kind, conventions)
    images = [torch.zeros(3, 1, 1), torch.rand(1, 1, 100)]
    targets = []
    for image in images:
        height, width = image.shape[1:]
        box = torch.tensor([[0.0, 0.0, width, height]])
        targets.append({"boxes": box, "labels": torch.tensor([1]), "masks": torch.ones(1, height, width).byte()})
    losses = detector(images, targets)
    assert all(torch.isfinite(loss) for loss in losses.values())
    results = detector.eval()(images)
    for image, result in zip(images, results, strict=True):
        height, width = image.shape[1:]
        assert result["masks"].shape[1:] == (1, height, width)
        assert (result["boxes"] >= 0).all()
        assert (result["boxes"] <= torch.tensor([width, height, width, height]) + beyond).all()


def test_one_channel_is_three_alike_and_bytes_are_floats():
    detector = tiny().eval()
    grey = torch.randint(256, (1, 50, 70), dtype=torch.uint8)
    torch.testing.assert_close(detector([grey]), detector([grey.expand(3, -1, -1) / 255]))


def test_a_thousand_objects_in_an_image():
    detector = tiny()
    torch.manual_seed(0)
    corners = torch.rand(1100, 2) * 40
    target = {
        "boxes": torch.cat((corners, corners + 8), dim=1),
        "labels": torch.randint(1, CLASSES, (1100,)),
        "masks": torch.randint(2, (1100, 50, 50), dtype=torch.uint8),
    }
    losses = detector([torch.rand(3, 50, 50)], [target])
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert losses["loss_mask"] > 0


def test_half_precision_moves_losses_little_and_boxes_stay_in_float32():
    """bfloat16 has 8 bits: about 1 % of a loss near its start, where logits are near zero."""
    detector = tiny()
    images, targets = photographs()
    results = []
    for enabled in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            results.append(detector(images, targets))
    for name in ("loss_classifier", "loss_objectness", "loss_mask"):
        torch.testing.assert_close(results[1][name], results[0][name], rtol=0.05, atol=0.01)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = detector.eval()(images)
    assert {value.dtype for result in found for value in result.values()} == {torch.float32, torch.int64}


def test_channels_last_changes_no_value():
    detector = tiny()
    images, targets = photographs()
    results = []
    try:
        for memory_format in (torch.contiguous_format, torch.channels_last):
            detector.to(memory_format=memory_format)
            torch.manual_seed(0)
            results.append(detector(images, targets))
    finally:
        detector.to(memory_format=torch.contiguous_format)
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)


def bad_targets() -> list[tuple[str, str]]:
    return [
        ("{k: v for k, v in t.items() if k != 'masks'}", r"must have boxes, labels, masks; got \['boxes', 'labels'\]"),
        ("{**t, 'boxes': t['boxes'][:, :3]}", r"boxes of image 0 must be floats \(n, 4\); got \(2, 3\)"),
        ("{**t, 'boxes': t['boxes'].long()}", r"must be floats \(n, 4\); got \(2, 4\) of torch.int64"),
        ("{**t, 'labels': t['labels'][:1]}", r"must be int64 \(2,\), one for each box; got \(1,\)"),
        ("{**t, 'labels': t['labels'].int()}", "got .* of torch.int32"),
        ("{**t, 'labels': t['labels'] - 1}", "labels must be from 1 to 3, 0 being the background; got 0 to 2"),
        ("{**t, 'labels': t['labels'] + 1}", "labels must be from 1 to 3, 0 being the background; got 2 to 4"),
        ("{**t, 'masks': t['masks'][:, :9]}", r"must be \(2, 60, 90\), .*; got \(2, 9, 90\)"),
    ]


@pytest.mark.parametrize(("change", "message"), bad_targets())
def test_targets_of_another_form_are_refused(change: str, message: str):
    images, targets = photographs()
    changed = eval(change, {"t": targets[0]})
    with pytest.raises(ValueError, match=message):
        tiny()(images, [changed, targets[1]])


def test_batches_that_cannot_be_meant_are_refused():
    detector = tiny()
    images, targets = photographs()
    with pytest.raises(ValueError, match="a target for each image; got 1 for 2"):
        detector(images, targets[:1])
    with pytest.raises(ValueError, match="got 0 for 2: call eval"):
        detector(images)
    with pytest.raises(RuntimeError, match="needs evaluation mode; got training mode: call eval"):
        detector.detect(images)
    detector.eval()
    with pytest.raises(ValueError, match="a batch must have an image; got none"):
        detector([])
    for shape in ((60, 90), (3, 0, 90), (2, 3, 60, 90)):
        with pytest.raises(ValueError, match=r"image 1 must be \(channels, H, W\), of a pixel at least; got"):
            detector([images[0], torch.zeros(shape)])
