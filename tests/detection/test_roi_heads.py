"""One stage against torchvision's RoIHeads with the same layers, and against values by hand."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads as TorchvisionRoIHeads
from torchvision.ops import box_iou

from attnorm.detection import sampling
from attnorm.detection.config import DetectorConfig
from attnorm.detection.conventions import V1, Modern, conventions
from attnorm.detection.roi_heads import BoxStage, MaskBranch, RoIHeads
from attnorm.detection.sampling import draw_sample
from attnorm.errors import ConfigError
from tests.detection.answers import MaskAnswer, heads_with, stage

LOG2 = math.log(2)
MODERN = Modern()
CHANNELS, CLASSES, SIDE = 4, 4, 128
CONFIG = DetectorConfig(box_samples=16, max_detections=20)


def scene(seed: int = 0) -> tuple[dict[str, Tensor], list[Tensor], list[tuple[int, int]], list[dict[str, Tensor]]]:
    """Feature maps, proposals and ground truth of two images of 128 x 128 pixels, the second without objects."""
    torch.manual_seed(seed)
    features = {str(level): torch.randn(2, CHANNELS, SIDE // stride, SIDE // stride)
                for level, stride in enumerate((4, 8, 16, 32))}  # fmt: skip
    corners = torch.rand(2, 60, 2) * 90
    proposals = list(torch.cat((corners, corners + 4 + torch.rand(2, 60, 2) * 50), dim=2).clamp(max=SIDE))
    boxes = proposals[0][:5] + torch.tensor([1.0, -1.0, 3.0, 2.0])
    masks = torch.zeros(5, SIDE, SIDE, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[max(y1, 0) : y2 - 2, x1 + 3 : x2] = 1
    targets = [
        {"boxes": boxes, "labels": torch.tensor([1, 2, 3, 1, 2]), "masks": masks},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "masks": masks[:0]},
    ]
    return features, proposals, [(SIDE, SIDE), (SIDE - 8, SIDE - 3)], targets


def layers() -> tuple[nn.Module, nn.Module, nn.Module, nn.Module]:
    torch.manual_seed(1)
    predictor = FastRCNNPredictor(16, CLASSES)
    nn.init.normal_(predictor.cls_score.weight, std=1.0)  # scores that differ
    return (
        TwoMLPHead(CHANNELS * 7 * 7, 16),
        predictor,
        MaskRCNNHeads(CHANNELS, (6,), 1),
        MaskRCNNPredictor(6, 6, CLASSES),
    )


def pair(**changes) -> tuple[RoIHeads, TorchvisionRoIHeads]:
    """Ours and torchvision's, of the same modules."""
    head, predictor, mask_head, mask_predictor = layers()
    geometry = conventions("modern")
    ours = RoIHeads(
        [BoxStage(head, predictor)],
        [MaskBranch(mask_head, mask_predictor)],
        conventions=geometry,
        config=replace(CONFIG, **changes),
        num_classes=CLASSES,
        class_agnostic=False,
        box_beta=1 / 9,
    )
    theirs = TorchvisionRoIHeads(
        geometry.pooler(7), head, predictor, 0.5, 0.5, ours.config.box_samples, 0.25, None,
        ours.config.score_threshold, ours.config.nms_threshold, ours.config.max_detections,
        geometry.pooler(14), mask_head, mask_predictor,
    )  # fmt: skip
    return ours, theirs


@pytest.mark.parametrize("box_samples", [16, 512])
def test_losses_and_gradients_are_torchvisions(box_samples: int):
    features, proposals, sizes, targets = scene()
    ours, theirs = pair(box_samples=box_samples)
    results = []
    for heads, arguments in ((ours, (sizes, [1.0, 1.0], targets)), (theirs, (sizes, targets))):
        heads.zero_grad()
        torch.manual_seed(2)
        _, losses = heads(features, proposals, *arguments)
        sum(losses.values()).backward()
        results.append((losses, [p.grad.clone() for p in heads.parameters()]))
    assert results[0][0].keys() == {"loss_classifier", "loss_box_reg", "loss_mask"}
    assert results[0][0]["loss_box_reg"] > 0
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("max_detections", [20, 1000])
def test_detections_are_torchvisions(max_detections: int):
    features, proposals, sizes, _ = scene()
    ours, theirs = pair(max_detections=max_detections)
    detections, losses = ours.eval()(features, proposals, sizes, [1.0, 1.0])
    expected, _ = theirs.eval()(features, proposals, sizes)
    assert losses == {}
    assert min(len(each["boxes"]) for each in expected) >= 20
    for found, wanted in zip(detections, expected, strict=True):
        found["masks"] = found.pop("mask_probabilities")[:, None]
        torch.testing.assert_close(found, wanted)


def test_truths_that_coincide_each_stand_for_themselves():
    """Of two objects with the same box each keeps its label, where torchvision gives both boxes to the first."""
    box = torch.tensor([[10.0, 10.0, 40.0, 40.0]])
    target = {"boxes": box.repeat(2, 1), "labels": torch.tensor([1, 3])}
    ours, _ = pair()
    sample = draw_sample(torch.tensor([[60.0, 60.0, 90.0, 90.0]]), target, ours.matchers[0], ours.sampler)
    assert sample.labels.tolist() == [0, 1, 3]
    assert sample.matched.tolist() == [-1, 0, 1]
    assert sample.is_truth.tolist() == [False, True, True]


SQUARE = [20.0, 20.0, 40.0, 40.0]
FAR = [60.0, 60.0, 90.0, 90.0]


def run(heads: RoIHeads, proposals: list[list[float]], target: dict[str, Tensor] | None = None, scale: float = 1.0):
    """One image of 100 x 100 pixels."""
    boxes = torch.tensor(proposals).reshape(-1, 4)
    return heads({}, [boxes], [(100, 100)], [scale], None if target is None else [target])


@pytest.mark.parametrize(("beta", "smooth"), [(1.0, 0.5 * 0.5**2), (0.25, 0.5 - 0.25 / 2), (0.0, 0.5)])
@pytest.mark.parametrize("agnostic", [True, False])
def test_losses_by_hand(beta: float, smooth: float, agnostic: bool):
    """An object a tenth of its width beside the proposal, a background proposal, and the object itself, which joins.

    Both positives miss the x delta by 0.5: wanted are 1 = 2 / 20 / 0.1 and 0, predicted is 0.5.
    """
    predicted = [0.5, 0.0, 0.0, 0.0]
    deltas = predicted if agnostic else [9.0] * 4 + [7.0] * 4 + predicted
    heads = heads_with([stage([0.0, 0.0, LOG2], deltas)], geometry=MODERN, num_classes=3, class_agnostic=agnostic,
                       box_beta=beta)  # fmt: skip
    target = {"boxes": torch.tensor([[22.0, 20.0, 42.0, 40.0]]), "labels": torch.tensor([2])}
    _, losses = run(heads, [SQUARE, FAR], target)
    # probabilities 1/4, 1/4, 1/2: two positives of class 2, one background
    assert losses["loss_classifier"].item() == pytest.approx((2 * LOG2 + 2 * LOG2) / 3, rel=1e-6)
    assert losses["loss_box_reg"].item() == pytest.approx(2 * smooth / 3, rel=1e-5)


def test_a_batch_without_any_box_has_no_loss_and_a_gradient():
    """No proposals and no objects: zero, not 0 / 0, and every parameter has a gradient, as several processes need."""
    branch = MaskBranch(nn.Identity(), MaskAnswer([0.0, 0.0]))
    heads = heads_with([stage([0.0, 1.0], [0.0] * 4)], [branch], geometry=MODERN, num_classes=2)
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    _, losses = run(heads, [], {**nothing, "masks": torch.zeros(0, 100, 100, dtype=torch.uint8)})
    assert {name: loss.item() for name, loss in losses.items()} == dict.fromkeys(losses, 0.0)
    assert losses.keys() == {"loss_classifier", "loss_box_reg", "loss_mask"}
    sum(losses.values()).backward()
    assert all(p.grad is not None and not p.grad.any() for p in heads.parameters())
    detections, _ = run(heads.eval(), [])
    assert detections[0]["boxes"].shape == (0, 4)
    assert detections[0]["mask_probabilities"].shape == (0, 28, 28)


def test_a_score_must_be_above_the_threshold():
    for threshold, count in ((0.5, 0), (0.499, 1)):
        heads = heads_with([stage([0.0, 0.0], [0.0] * 4)], geometry=MODERN, num_classes=2, score_threshold=threshold)
        (found,), _ = run(heads.eval(), [SQUARE])
        assert len(found["scores"]) == count


def test_suppression_is_by_class_and_the_best_come_first():
    """Boxes 0 and 1 overlap by 0.9 / 1.1, box 2 is alone. Probabilities are of background, class 1, class 2."""
    sixths = torch.tensor([[1.0, 3.0, 2.0], [2.0, 1.0, 3.0], [4.6, 0.2, 1.2]])
    rows = sixths.log().tolist()
    boxes = [SQUARE, [22.0, 20.0, 42.0, 40.0], FAR]
    heads = heads_with([stage(rows, [0.0] * 4)], geometry=MODERN, num_classes=3, score_threshold=0.05).eval()
    (found,), _ = run(heads, boxes)
    # class 1: box 0 suppresses 1, box 2 scores below the threshold; class 2: box 1 suppresses 0
    torch.testing.assert_close(found["scores"], torch.tensor([3.0, 3.0, 1.2]) / 6)
    assert sorted(found["labels"][:2].tolist()) == [1, 2]
    assert found["boxes"][found["labels"] == 1].tolist() == [SQUARE]
    assert found["boxes"][found["labels"] == 2].tolist() == [boxes[1], FAR]
    for count in (1, 2):
        few = heads_with([stage(rows, [0.0] * 4)], geometry=MODERN, num_classes=3, max_detections=count).eval()
        torch.testing.assert_close(run(few, boxes)[0][0]["scores"], found["scores"][:count])


def test_a_box_of_no_width_is_left_out():
    """A box outside the image is cut to a width of 0 pixels."""
    outside = [104.0, 20.0, 140.0, 40.0]
    heads = heads_with([stage([0.0, 1.0], [0.0] * 4)], geometry=MODERN, num_classes=2).eval()
    assert run(heads, [outside, SQUARE])[0][0]["boxes"].tolist() == [SQUARE]


def test_the_mask_is_that_of_the_label():
    branch = MaskBranch(nn.Identity(), MaskAnswer([9.0, 0.0, LOG2]))
    heads = heads_with([stage([0.0, -9.0, 3.0], [0.0] * 4)], [branch], geometry=MODERN, num_classes=3).eval()
    (found,), _ = run(heads, [SQUARE])
    assert found["labels"].tolist() == [2]
    torch.testing.assert_close(found["mask_probabilities"], torch.full((1, 28, 28), 2 / 3))


def test_only_masks_of_drawn_boxes_are_read():
    """Of 1,200 objects at most a quarter of the sample can be positive, and no more masks reach the loss."""
    seen = []

    class Counting(Modern):
        def mask_loss(self, logits: Tensor, boxes: list[Tensor], masks: list[Tensor], labels: list[Tensor],
                      matched: list[Tensor]) -> Tensor:  # fmt: skip
            seen.append((masks[0].flatten(1)[:, 0] == labels[0]).all() and len(masks[0]))
            return super().mask_loss(logits, boxes, masks, labels, matched)

    branch = MaskBranch(nn.Identity(), MaskAnswer([0.0] * 100))
    heads = heads_with([stage([0.0] * 100, [0.0] * 4)], [branch], geometry=Counting(), num_classes=100, box_samples=64)
    corners = torch.rand(1200, 2) * 90
    labels = torch.randint(1, 100, (1200,))
    masks = labels.to(torch.uint8)[:, None, None].expand(-1, 100, 100)
    target = {"boxes": torch.cat((corners, corners + 9), dim=1), "labels": labels, "masks": masks}
    _, losses = run(heads, [FAR] * 60, target)
    assert seen == [16]
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_masks_are_resized_to_the_image_that_the_network_sees():
    """Three columns become five, which lie at 0, 0.6, 1.2, 1.8 and 2.4 of them; one row becomes two."""
    seen = []

    class Watching(Modern):
        def mask_loss(self, logits: Tensor, boxes: list[Tensor], masks: list[Tensor], labels: list[Tensor],
                      matched: list[Tensor]) -> Tensor:  # fmt: skip
            seen.extend(masks)
            return super().mask_loss(logits, boxes, masks, labels, matched)

    branch = MaskBranch(nn.Identity(), MaskAnswer([0.0] * 2))
    heads = heads_with([stage([0.0] * 2, [0.0] * 4)], [branch], geometry=Watching(), num_classes=2)
    mask = torch.tensor([[[1, 0, 1]]], dtype=torch.uint8)
    target = {"boxes": torch.tensor([[0.0, 0.0, 5.0, 2.0]]), "labels": torch.tensor([1]), "masks": mask}
    heads({}, [torch.tensor([[0.0, 0.0, 5.0, 2.0]])], [(2, 5)], [2.0], [target])
    assert [masks.tolist() for masks in seen] == [[[[1, 1, 0, 0, 1]] * 2]]


def test_overlaps_are_torchvisions_however_many_at_once(monkeypatch):
    torch.manual_seed(0)
    corners = torch.rand(43, 2) * 50
    boxes = torch.cat((corners, corners + torch.rand(43, 2) * 40), dim=1)
    for pairs in (1, 60, 2**24):
        monkeypatch.setattr(sampling, "PAIRS_AT_ONCE", pairs)
        for truths in (boxes[:13], boxes[:0]):
            assert torch.equal(sampling.overlaps(truths, boxes[13:]), box_iou(truths, boxes[13:]))


def test_boxes_are_float32_whatever_the_layers_compute_in():
    """bfloat16 would make 1000 of 1001.25. The object's logit 1.0 is exact in it."""
    one = stage([0.0, 1.0], [0.0] * 4).bfloat16()
    heads = heads_with([one], geometry=MODERN, num_classes=2).eval()
    box = torch.tensor([[1001.25, 3.5, 1040.75, 33.0]])
    (found,), _ = heads({}, [box], [(1200, 1200)], [1.0])
    torch.testing.assert_close(found["boxes"], box)
    assert found["scores"].item() == pytest.approx(1 / (1 + math.exp(-1)), rel=1e-6)


def test_v1_gives_an_object_its_best_proposal():
    """The first proposal is the best of object A, 17 / 23, and overlaps B more, 18 / 22; the second is B itself.

    v1 gives the first to A. The objects join afterwards: as proposals they would be the best of themselves.
    """
    truths = torch.tensor([[0.0, 0.0, 20.0, 10.0], [5.0, 0.0, 25.0, 10.0]])
    target = {"boxes": truths, "labels": torch.tensor([1, 2])}
    proposals = torch.tensor([[3.0, 0.0, 23.0, 10.0], [5.0, 0.0, 25.0, 10.0]])
    for geometry, expected in ((MODERN, [2, 2, 1, 2]), (V1(), [1, 2, 1, 2])):
        heads = heads_with([stage([0.0] * 3, [0.0] * 4)], geometry=geometry, num_classes=3)
        sample = draw_sample(proposals, target, heads.matchers[0], heads.sampler)
        assert sample.labels.tolist() == expected
        assert sample.matched.tolist() == [label - 1 for label in expected]


def test_v1_suppresses_in_the_original_image_and_keeps_boxes_of_any_size():
    """Boxes 19 pixels wide, 6.5 apart, in an image resized by 2, where the last pixel at 18 was at 9.

    Original: 10 wide, 3.25 apart, overlap 6.75 / 13.25 > 0.5. At the resized scale it would be 12.5 / 25.5, below, as
    without resizing. The box outside the image keeps its last column, (99, 20, 100, 40).
    """
    boxes = [[0.0, 0.0, 19.0, 19.0], [6.5, 0.0, 25.5, 19.0], [104.0, 20.0, 140.0, 40.0]]
    rows = [[0.0, 3.0], [0.0, 2.0], [0.0, 1.0]]
    heads = heads_with([stage(rows, [0.0] * 4)], geometry=V1(), num_classes=2).eval()
    outside = [99.0, 20.0, 100.0, 40.0]
    for scale, expected in ((1.0, [boxes[0], boxes[1], outside]), (2.0, [boxes[0], outside])):
        (found,), _ = run(heads, boxes, scale=scale)
        assert found["boxes"].tolist() == expected


def test_what_cannot_be_meant_is_refused():
    one, branch = stage([0.0, 0.0], [0.0] * 4), MaskBranch(nn.Identity(), MaskAnswer([0.0, 0.0]))
    with pytest.raises(ConfigError, match="one for each stage; got 2 stages, 1 masks"):
        heads_with([one, one], [branch], geometry=MODERN, num_classes=2)
    with pytest.raises(ConfigError, match="class_agnostic must be true in a cascade"):
        heads_with([one, one], geometry=MODERN, num_classes=2, class_agnostic=False)
    with pytest.raises(ValueError, match="targets must be given in training"):
        run(heads_with([one], geometry=MODERN, num_classes=2), [SQUARE])
