"""The proposal network equals torchvision's; and that of the authors' conventions keeps each of their rules."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

from attnorm.detection.config import DetectorConfig
from attnorm.detection.conventions import STRIDES, conventions
from attnorm.detection.rpn import make_rpn

CHANNELS = 8


def make(scheme: str = "v1", **settings: Any) -> RegionProposalNetwork:
    return make_rpn(DetectorConfig(conventions=scheme, **settings), conventions(scheme), CHANNELS)  # type: ignore[arg-type]


def inputs(*sizes: tuple[int, int], side: int = 128) -> tuple[ImageList, dict[str, Tensor]]:
    """Random features of images of these sizes, padded to a square."""
    maps = [max(1, side // stride) for stride in STRIDES]
    features = {
        name: torch.randn(len(sizes), CHANNELS, cells, cells, requires_grad=True)
        for name, cells in zip(("0", "1", "2", "3", "pool"), maps, strict=True)
    }
    return ImageList(torch.zeros(len(sizes), 3, side, side), list(sizes)), features


def boxes(*rows: list[float]) -> dict[str, Tensor]:
    return {"boxes": torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)}


@pytest.mark.parametrize("train", [True, False])
def test_modern_is_torchvisions(train: bool) -> None:
    anchors = AnchorGenerator(((32,), (64,), (128,), (256,), (512,)), ((0.5, 1.0, 2.0),) * 5)
    limits = {"training": 60, "testing": 40}
    theirs = RegionProposalNetwork(anchors, RPNHead(CHANNELS, 3), 0.7, 0.3, 32, 0.5, limits, limits, 0.7)
    ours = make("modern", train_proposals=60, test_proposals=40, rpn_samples=32)
    theirs.load_state_dict(ours.state_dict())
    torch.manual_seed(1)
    images, features = inputs((128, 100), (90, 128))
    targets = [boxes([10, 10, 60, 70], [30, 30, 125, 90]), boxes()]
    results = []
    for network in (ours, theirs):
        torch.manual_seed(2)
        results.append(network.train(train)(images, features, targets if train else None))
    assert_close(results[0], results[1], rtol=0, atol=0)
    assert [len(found) for found in results[0][0]] == [60 if train else 40] * 2


def test_the_head_starts_at_a_hundredth() -> None:
    torch.manual_seed(0)
    for name, parameter in make_rpn(DetectorConfig(), conventions("modern"), 64).head.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
        else:
            assert parameter.std().item() == pytest.approx(0.01, rel=0.2)  # 192 values of the smallest: 5 % each sigma


def test_v1_learns_from_anchors_inside_the_image() -> None:
    network = make()
    anchors = torch.tensor(
        [[0.0, 0, 40, 30], [-1, 0, 39, 30], [0, 0, 41, 30], [0, 0, 40, 31], [0, -1, 40, 29], [5, 5, 15, 15]]
    )
    # Two to five reach one pixel too far; two of them do not in an image larger by a pixel. The last is the object.
    target = {**boxes([5, 5, 15, 15]), "size": torch.tensor([30, 40])}
    (labels,), (wanted,) = network.assign_targets_to_anchors([anchors], [target])
    assert labels.tolist() == [0, -1, -1, -1, -1, 1]
    assert wanted[5].tolist() == [5, 5, 15, 15]
    (labels,), _ = network.assign_targets_to_anchors([anchors], [{**target, "size": torch.tensor([31, 41])}])
    assert labels.tolist() == [0, -1, 0, 0, -1, 1]


def test_v1_gives_an_object_its_best_anchors_from_three_tenths() -> None:
    network = make()
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 10, 10, 20], [40, 40, 50, 50], [80, 80, 90, 90]])
    # 10 x 10 astride two anchors: 50 / 150 with each. 10 x 10 with 4 x 10 in common: 40 / 160 = 0.25.
    target = {**boxes([0, 5, 10, 15], [46, 40, 56, 50]), "size": torch.tensor([100, 100])}
    (labels,), (wanted,) = network.assign_targets_to_anchors([anchors], [target])
    assert labels.tolist() == [1, 1, 0, 0]
    assert_close(wanted[:2], torch.tensor([[0.0, 5, 10, 15]] * 2))
    modern, _ = make("modern").assign_targets_to_anchors([anchors], [target])
    assert modern[0].tolist() == [1, 1, 1, 0]


def test_v1_loss_is_divided_by_the_sampled_anchors_of_the_batch() -> None:
    network = make(rpn_samples=4)
    labels = [torch.tensor([1.0, 0, 0, -1]), torch.tensor([0.0, 0, -1, -1])]
    scores = torch.zeros(8, 1)
    deltas, wanted = torch.zeros(8, 4), torch.zeros(8, 4)
    wanted[0] = torch.tensor([1.0, 0.1, 0, -0.5])
    wanted[1:] = 9.0  # of no positive anchor
    score_loss, box_loss = network.compute_loss(scores, deltas, labels, list(wanted.split(4)))
    # All five are sampled. |x| - 1/18 above 1/9, x^2 * 9/2 below: 0.9444, 0.045, 0, 0.4444.
    assert_close(score_loss, torch.tensor(0.693147181))
    assert_close(box_loss, torch.tensor((1 - 1 / 18 + 0.045 + 0.5 - 1 / 18) / 5))


def test_v1_proposals_are_the_best_of_each_level_cut_and_suppressed() -> None:
    network = make(test_proposals=2).eval()
    proposals = torch.tensor(
        [
            # Of the first level the best two; they are one box once cut to the image, and the lower is suppressed.
            [[-9.0, 0, 10, 10], [-5, 0, 10, 10], [20, 20, 30, 30]],
            # Of the second level a box outside the image, of which a pixel stays, and one of no height in torchvision.
            [[-9, -9, -4, -4], [20, 38, 30, 39], [60, 60, 70, 70.5]],
        ]
    )
    scores = torch.tensor([[3.0, 2, 1], [-1, 0.5, -3]])
    (found,), (probabilities,) = network.filter_proposals(
        proposals.view(1, 6, 4), scores.view(1, 6), [(40, 50)], [3, 3]
    )
    assert_close(found, torch.tensor([[0.0, 0, 10, 10], [20, 38, 30, 39]]))
    assert_close(probabilities, torch.tensor([3, 0.5]).sigmoid())
    network = make(test_proposals=3).eval()
    (found,), _ = network.filter_proposals(proposals.view(1, 6, 4), scores.view(1, 6), [(40, 50)], [3, 3])
    assert_close(found, torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30], [20, 38, 30, 39]]))


def test_v1_removes_no_proposal_for_its_size() -> None:
    proposals = torch.tensor([[[60.0, 60, 70, 70], [10, 10, 10.0005, 30], [5, -9, 9, -8.9]]])
    scores = torch.tensor([[3.0, 2, 1]])
    (found,), _ = make().eval().filter_proposals(proposals, scores, [(40, 50)], [3])
    assert_close(found, torch.tensor([[49.0, 39, 50, 40], [10, 10, 10.0005, 30], [5, 0, 9, 1]]))
    (modern,), _ = make("modern").eval().filter_proposals(proposals, scores, [(40, 50)], [3])
    assert len(modern) == 0


def test_v1_uses_its_own_anchors_and_deltas() -> None:
    network = make(test_proposals=1000).eval()
    images, features = inputs((96, 128))
    for parameter in network.head.parameters():
        torch.nn.init.zeros_(parameter)
    (found,), _ = network(images, features)
    anchors = network.anchor_generator(images, list(features.values()))[0]
    cut = conventions("v1").clip(anchors, (96, 128))
    assert {tuple(box) for box in found.tolist()} <= {tuple(box) for box in cut.tolist()}  # nothing is corrected
    with torch.no_grad():
        network.head.bbox_pred.bias[2::4] = -9.0  # type: ignore[index]
    (found,), _ = network(images, features)
    # Widths shrink to 16 / 1000 and no further: of the coarsest anchors, 724, 512 and 362 wide, 11.6, 8.2 and 5.8.
    widths = {round((right - left) * 1000 / 16) for left, _, right, _ in found.tolist()}
    assert widths <= {int(right - left) for left, _, right, _ in anchors.tolist()}
    assert max(widths) == 724


@pytest.mark.parametrize("scheme", ["modern", "v1"])
def test_a_batch_without_objects_teaches_background(scheme: str) -> None:
    torch.manual_seed(0)
    network = make(scheme).train()
    images, features = inputs((128, 128), (70, 90))
    proposals, losses = network(images, features, [boxes(), boxes()])
    assert losses["loss_rpn_box_reg"].item() == 0
    assert 0.6 < losses["loss_objectness"].item() < 0.8  # scores near zero: log 2
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert network.head.cls_logits.bias.grad.max() > 0  # type: ignore[union-attr]
    assert network.head.bbox_pred.weight.grad is not None  # type: ignore[union-attr]
    assert all(len(found) for found in proposals)


def test_v1_images_too_small_for_an_anchor_cost_nothing() -> None:
    network = make().train()
    images, features = inputs((8, 8), side=32)
    _, losses = network(images, features, [boxes([1, 1, 7, 7])])
    assert {name: loss.item() for name, loss in losses.items()} == {"loss_objectness": 0, "loss_rpn_box_reg": 0}
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert not network.head.cls_logits.weight.grad.any()  # type: ignore[union-attr]


@pytest.mark.parametrize("scheme", ["modern", "v1"])
def test_proposals_keep_their_pixels_under_autocast(scheme: str) -> None:
    torch.manual_seed(0)
    network = make(scheme).eval()
    images, features = inputs((128, 128))
    (exact,), _ = network(images, features)
    with torch.autocast("cpu", torch.bfloat16):
        (found,), _ = network(images, {name: feature.bfloat16() for name, feature in features.items()})
        scores, _ = network.head(list(features.values()))
    assert found.dtype == scores[0].dtype == torch.float32  # after the sigmoid halves would tie near one
    # The same boxes in another order, as scores are rounded: deltas near 0.01 carry 8 bits, on anchors of 128 pixels.
    nearest = torch.cdist(found, exact, p=torch.inf).amin(dim=1)
    assert nearest.quantile(0.9) < 0.1
