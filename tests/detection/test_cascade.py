"""Cascade R-CNN's rules, each against values by hand. Every stage here gives answers that the test chose."""

import math

import pytest
import torch
from torch import Tensor, nn

from attnorm.detection.conventions import Modern
from attnorm.detection.roi_heads import BoxStage, MaskBranch, RoIHeads
from tests.detection.answers import MaskAnswer, asked, heads_with, stage

MODERN = Modern()
SIZE = (100, 100)
STILL = [0.0, 0.0, 0.0, 0.0]
IOUS = (0.5, 0.6, 0.7)
STDS = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))
WEIGHTS = (1.0, 0.5, 0.25)


def three_stages(logits: list, deltas: list) -> list[BoxStage]:
    """The paper's three, with an answer for each."""
    return [
        stage(*answer, iou=iou, std=std, loss_weight=weight)
        for *answer, iou, std, weight in zip(logits, deltas, IOUS, STDS, WEIGHTS, strict=True)
    ]


def branches(logits: list[list[float]]) -> list[MaskBranch]:
    return [MaskBranch(nn.Identity(), MaskAnswer(each)) for each in logits]


def run(heads: RoIHeads, proposals: list[list[float]], target: dict[str, Tensor] | None = None):
    return heads({}, [torch.tensor(proposals)], [SIZE], [1.0], None if target is None else [target])


def test_each_stage_moves_the_boxes_of_the_one_before_with_its_own_std():
    """From (10, 10, 50, 30): width 40, height 20, centre (30, 20).

    Stage 0: centre + (1 * 0.1 * 40, -2 * 0.1 * 20) = (34, 16), width 40 * exp(0.2 * 5 ln 2) = 80: (-6, 6, 74, 26), cut
    to (0, 6, 74, 26). Stage 1: + 2 * 0.05 * 74 = 7.4 in x, height 20 * exp(0.1 * 10 ln 3) = 60, centre 16: -14 to 46,
    cut at 0. Stage 2: + 1 * 0.033 * 74 = 2.442 in x, height 46 * exp(-0.067 * 5) about the centre 23.
    """
    deltas = [[1.0, -2.0, 5 * math.log(2), 0.0], [2.0, 0.0, 0.0, 10 * math.log(3)], [1.0, 0.0, 0.0, -5.0]]
    stages = three_stages([[0.0, 1.0]] * 3, deltas)
    heads = heads_with(stages, branches([[0.0, 0.0]] * 3), geometry=MODERN, num_classes=2).eval()
    (found,), losses = run(heads, [[10.0, 10.0, 50.0, 30.0]])
    half = 23 * math.exp(-0.067 * 5)
    boxes = [[10, 10, 50, 30], [0, 6, 74, 26], [7.4, 0, 81.4, 46], [9.842, 23 - half, 83.842, 23 + half]]
    for each, box in zip(stages, boxes, strict=False):
        torch.testing.assert_close(asked(each), torch.tensor([box], dtype=torch.float32))
    torch.testing.assert_close(found["boxes"], torch.tensor(boxes[3:]))
    assert losses == {}


def test_class_logits_are_averaged_before_the_softmax():
    """Logits of the object 3, 0, 0: their mean 1 gives 1 / (1 + 1/e), the mean of the probabilities is less."""
    heads = heads_with(three_stages([[0.0, 3.0], [0.0, 0.0], [0.0, 0.0]], [STILL] * 3), geometry=MODERN, num_classes=2)
    (found,), _ = run(heads.eval(), [[10.0, 10.0, 50.0, 30.0]])
    assert found["scores"].item() == pytest.approx(1 / (1 + math.exp(-1)), rel=1e-6)
    assert (1 / (1 + math.exp(-3)) + 0.5 + 0.5) / 3 == pytest.approx(0.6509, abs=1e-4)
    assert found["scores"].item() == pytest.approx(0.7311, abs=1e-4)


def test_mask_probabilities_on_the_final_boxes_are_averaged():
    """The three branches say 4/5, 1/2 and 1/4; the mean of their logits would give another value."""
    masks = branches([[0.0, math.log(4)], [0.0, 0.0], [0.0, -math.log(3)]])
    stages = three_stages([[0.0, 1.0]] * 3, [STILL, STILL, [1.0, 0.0, 0.0, 0.0]])
    heads = heads_with(stages, masks, geometry=MODERN, num_classes=2).eval()
    (found,), _ = run(heads, [[10.0, 10.0, 50.0, 30.0]])
    torch.testing.assert_close(found["mask_probabilities"], torch.full((1, 28, 28), (0.8 + 0.5 + 0.25) / 3))
    for branch in masks:
        torch.testing.assert_close(asked(branch), torch.tensor([[11.32, 10.0, 51.32, 30.0]]))


OBJECT = [0.0, 0.0, 80.0, 50.0]
OVERLAPS = {0.45: [0.0, 0.0, 36.0, 50.0], 0.55: [0.0, 0.0, 44.0, 50.0], 0.65: [0.0, 0.0, 52.0, 50.0],
            0.75: [0.0, 0.0, 60.0, 50.0]}  # fmt: skip


def one_object() -> dict[str, Tensor]:
    masks = torch.zeros(1, *SIZE, dtype=torch.uint8)
    masks[:, :50, :80] = 1
    return {"boxes": torch.tensor([OBJECT]), "labels": torch.tensor([1]), "masks": masks}


def test_stages_ask_for_more_and_more_overlap_and_weigh_less():
    """Boxes that stay where they are: of overlaps 0.45, 0.55, 0.65, 0.75 and the object, 4, 3 and 2 are positive.

    With probabilities 1/4 and 3/4 a positive costs ln 4/3 and a background ln 4; masks of logit 0 cost ln 2 each. The
    object is in every stage's sample once: had it been kept besides joining again, the samples would grow.
    """
    stages = three_stages([[0.0, math.log(3)]] * 3, [STILL] * 3)
    masks = branches([[0.0, 0.0]] * 3)
    heads = heads_with(stages, masks, geometry=MODERN, num_classes=2)
    _, losses = run(heads, list(OVERLAPS.values()), one_object())
    for index, (positives, weight) in enumerate(zip((4, 3, 2), WEIGHTS, strict=True)):
        assert asked(stages[index]).tolist() == [*OVERLAPS.values(), OBJECT]
        assert asked(masks[index]).tolist() == [*list(OVERLAPS.values())[5 - positives :], OBJECT]
        mean = (positives * math.log(4 / 3) + (5 - positives) * math.log(4)) / 5
        assert losses[f"loss_classifier_{index}"].item() == pytest.approx(weight * mean, rel=1e-6)
        assert losses[f"loss_mask_{index}"].item() == pytest.approx(weight * math.log(2), rel=1e-6)
    assert len(losses) == 9


def test_the_box_loss_of_each_stage_by_hand():
    """The one proposal, three quarters of the object's width, has its centre 10 of 60 pixels left of the object's.

    Wanted are dx = 10 / 60 and dw = ln(80 / 60), over the stage's std; predicted are zeros, right for the object.
    Smooth L1 with beta 1 over two boxes, times the stage's weight.
    """
    heads = heads_with(three_stages([[0.0, 0.0]] * 3, [STILL] * 3), geometry=MODERN, num_classes=2)
    _, losses = run(heads, [OVERLAPS[0.75]], one_object())
    for index, (std, weight) in enumerate(zip(STDS, WEIGHTS, strict=True)):
        wanted = [10 / 60 / std[0], math.log(80 / 60) / std[2]]
        smooth = sum(d - 0.5 if d > 1 else 0.5 * d**2 for d in wanted)
        assert losses[f"loss_box_reg_{index}"].item() == pytest.approx(weight * smooth / 2, rel=1e-5)


def test_a_stage_trains_on_the_moved_sample_of_the_one_before():
    """Stage 0 moves all boxes by a tenth of their width, cut at 100; the object that had joined is not among them.

    Its moved box (8, 0, 88, 50) is taken out and the object itself joins anew. No gradient passes from stage to stage.
    """
    stages = three_stages([[0.0, 0.0]] * 3, [[1.0, 0.0, 0.0, 0.0], STILL, STILL])
    heads = heads_with(stages, geometry=MODERN, num_classes=2)
    _, losses = run(heads, [OVERLAPS[0.75], [70.0, 60.0, 100.0, 90.0]], one_object())
    assert asked(stages[0]).tolist() == [OVERLAPS[0.75], [70.0, 60.0, 100.0, 90.0], OBJECT]
    torch.testing.assert_close(
        asked(stages[1]), torch.tensor([[6.0, 0.0, 66.0, 50.0], [73.0, 60.0, 100.0, 90.0], OBJECT])
    )
    assert not asked(stages[1]).requires_grad
    sum(loss for name, loss in losses.items() if not name.endswith("_0")).backward()
    assert all(p.grad is None for p in stages[0].parameters())
    assert all(p.grad is not None for each in stages[1:] for p in each.parameters())


def test_a_stage_draws_anew_from_what_was_drawn():
    """Of 40 background boxes a sample of 8 with the object is drawn; the next stages see just those 7 again."""
    corners = torch.arange(40.0)[:, None] + torch.tensor([5.0, 55.0])
    proposals = torch.cat((corners * 0.5, corners * 0.5 + 10), dim=1) + torch.tensor([0.0, 40.0, 0.0, 40.0])
    stages = three_stages([[0.0, 0.0]] * 3, [STILL] * 3)
    heads = heads_with(stages, geometry=MODERN, num_classes=2, box_samples=8)
    torch.manual_seed(0)
    heads({}, [proposals], [(150, 150)], [1.0], [one_object()])
    drawn = asked(stages[0])
    assert len(drawn) == 8
    assert drawn[7].tolist() == OBJECT
    for each in stages[1:]:
        torch.testing.assert_close(asked(each), drawn)
