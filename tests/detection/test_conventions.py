"""Where pixels, boxes, anchors and masks lie: torchvision's values, and those of the authors' detectors."""

import json
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import MultiScaleRoIAlign

from attnorm.detection.config import DetectorConfig
from attnorm.detection.conventions import STRIDES, V1, Modern, conventions
from attnorm.detection.poolers import region_levels
from attnorm.detection.v1 import crop_masks
from attnorm.errors import ConfigError
from tests.shared import shared_file

LAST_PIXEL = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64)  # from a box that ends with it to one of ours


@pytest.fixture(scope="module")
def vectors() -> dict[str, Any]:
    path = shared_file("reference/fixtures/detection_v1_vectors.json")
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return json.loads(path.read_text())


def inclusive(box: list[float]) -> Tensor:
    """One box whose last pixel lies inside, as this package writes it."""
    return torch.tensor([box], dtype=torch.float64) + LAST_PIXEL


def anchors_of(
    generator: nn.Module, batch: tuple[int, int], maps: list[tuple[int, int]], dtype=torch.float32
) -> Tensor:
    features = [torch.zeros(1, 1, *size, dtype=dtype) for size in maps]
    return generator(ImageList(torch.zeros(1, 3, *batch), [batch]), features)[0]


def test_the_names_of_the_schemes() -> None:
    assert type(conventions("modern")) is Modern
    assert type(conventions("v1")) is V1
    assert (V1().box_beta, V1().min_box_side) == (1.0, None)


# Anchors


def test_v1_anchors_are_the_authors(vectors: dict[str, Any]) -> None:
    grid = vectors["anchors"]["grid"]
    maps = [(1, 1), (grid["height"], grid["width"]), (1, 1), (1, 1), (1, 1)]
    found = anchors_of(V1().anchors(8), (64, 64), maps).double() - LAST_PIXEL
    expected = torch.tensor(grid["anchors"], dtype=torch.float64)
    assert_close(found[3 : 3 + len(expected)], expected, rtol=0, atol=1e-6)
    for level, first in enumerate([0, 3, 21, 24, 27]):
        base = torch.tensor(vectors["anchors"]["base_by_stride"][str(STRIDES[level])], dtype=torch.float64)
        assert_close(found[first : first + 3], base, rtol=0, atol=1e-6)


def test_modern_anchors_are_torchvisions() -> None:
    theirs = AnchorGenerator(((32,), (64,), (128,), (256,), (512,)), ((0.5, 1.0, 2.0),) * 5)
    maps = [(24, 32), (12, 16), (6, 8), (3, 4), (2, 2)]
    assert_close(anchors_of(Modern().anchors(8), (96, 128), maps), anchors_of(theirs, (96, 128), maps))


def test_v1_cells_of_the_coarsest_level_are_64_pixels_apart_whatever_the_padding() -> None:
    # A batch 800 high has 25 cells at stride 32 and 13 at stride 64, where 800 // 13 = 61.
    maps = [(1, 1)] * 4 + [(13, 1)]
    last = anchors_of(V1().anchors(8), (800, 64), maps)[-2]  # the square one: 512 round (31.5, 31.5) in the first cell
    assert_close(last, torch.tensor([-224.0, -224 + 12 * 64, 288, 288 + 12 * 64]))


@pytest.mark.parametrize("scheme", [Modern(), V1()], ids=lambda s: s.name)
def test_anchors_do_not_lose_pixels_to_half_precision(scheme: Modern) -> None:
    maps = [(1, 301), (1, 1), (1, 1), (1, 1), (1, 1)]
    exact = anchors_of(scheme.anchors(8), (32, 1216), maps)
    assert_close(anchors_of(scheme.anchors(8), (32, 1216), maps, torch.bfloat16), exact, rtol=0, atol=0)


def test_the_smallest_anchors_have_an_area_and_smaller_ones_are_refused() -> None:
    # 1.41 by 2.83 pixels round 1.5 in v1, round 0 in torchvision's; half a side is 0.2 and 0.9, 0.7 and 1.4.
    maps = [(1, 1)] * 5
    assert anchors_of(V1().anchors(0.5), (32, 32), maps)[2].tolist() == [1, 1, 3, 3]
    assert anchors_of(Modern().anchors(0.5), (32, 32), maps)[2].tolist() == [-1, -1, 1, 1]
    with pytest.raises(ConfigError, match=r"anchor_scale must be at least 0\.5; got 0\.4"):
        DetectorConfig(anchor_scale=0.4)


# Box deltas


def test_v1_deltas_are_the_authors(vectors: dict[str, Any]) -> None:
    for row in vectors["encode"]:
        found = V1().coder(row["std"]).encode_single(inclusive(row["target"]), inclusive(row["proposal"]))
        assert_close(found[0].tolist(), row["deltas"], rtol=0, atol=1e-6)


def test_v1_boxes_from_deltas_are_the_authors(vectors: dict[str, Any]) -> None:
    for row in vectors["decode"]:
        deltas = torch.tensor([row["deltas"]], dtype=torch.float64)
        box = V1().coder(row["std"]).decode_single(deltas, inclusive(row["proposal"]))
        if row["image_hw"]:
            box = V1().clip(box, row["image_hw"])
        assert_close((box - LAST_PIXEL)[0].tolist(), row["box"], rtol=0, atol=1e-6)


def test_v1_limits_shrinking_and_torchvision_does_not() -> None:
    box, deltas = torch.tensor([[0.0, 0, 1000, 1000]]), torch.tensor([[0.0, 0, -9, 0]])
    # A width of 1000 times 16/1000 against 1000 times e^-9, round the middle at 500.
    assert_close(V1().coder([1, 1, 1, 1]).decode_single(deltas, box), torch.tensor([[492.0, 0, 508, 1000]]))
    half = 500 * 2.718281828**-9
    modern = Modern().coder([1, 1, 1, 1]).decode_single(deltas, box)
    assert_close(modern, torch.tensor([[500 - half, 0, 500 + half, 1000]]))


@pytest.mark.parametrize("scheme", [Modern(), V1()], ids=lambda s: s.name)
def test_boxes_stay_in_float32_where_deltas_are_halves(scheme: Modern) -> None:
    box, deltas = torch.tensor([[1001.0, 501, 1041, 541]]), torch.tensor([[0.25, 0, 0, 0]], dtype=torch.bfloat16)
    moved = scheme.coder([1, 1, 1, 1]).decode_single(deltas, box)
    assert_close(moved, torch.tensor([[1011.0, 501, 1051, 541]]), rtol=0, atol=1e-4)


def test_v1_boxes_outside_the_image_keep_one_pixel() -> None:
    boxes = torch.tensor([[[-9.0, -9, -4, -2]], [[50, 60, 70, 80]], [[-3, 4.5, 7, 99]]])
    clipped = V1().clip(boxes, (30, 40))
    assert_close(clipped, torch.tensor([[[0.0, 0, 1, 1]], [[39, 29, 40, 30]], [[0, 4.5, 7, 30]]]))


# Regions


def test_v1_levels_are_the_authors(vectors: dict[str, Any]) -> None:
    boxes = torch.cat([inclusive(row["box"]) for row in vectors["levels"]]).float()
    assert region_levels(boxes).tolist() == [row["level"] for row in vectors["levels"]]


def test_v1_levels_forgive_a_millionth_of_the_side() -> None:
    boxes = torch.tensor([[0.0, 0, side, side] for side in (111.99997, 111.999)])
    assert region_levels(boxes).tolist() == [1, 0]


def test_v1_regions_are_the_authors(vectors: dict[str, Any]) -> None:
    case = vectors["roi_align"]
    features = torch.tensor(case["features"], dtype=torch.float64)[None]
    boxes = torch.cat([inclusive(roi["box"]) for roi in case["rois"]])
    found = V1().pooler(case["output"])(dict.fromkeys("0123", features), [boxes], [(24, 20)])
    expected = torch.tensor([roi["values"] for roi in case["rois"]], dtype=torch.float64)
    assert_close(found, expected, rtol=0, atol=1e-6)


def test_v1_regions_come_from_their_level_and_image() -> None:
    values = torch.arange(8.0).view(4, 2)  # of each level, in each of two images
    features = {
        str(level): values[level].view(2, 1, 1, 1).expand(2, 1, 512 // stride, 512 // stride)
        for level, stride in enumerate(STRIDES[:4])
    }
    boxes = [torch.tensor([[8.0, 8, 8 + side, 8 + side] for side in sides]) for sides in ((450, 20), (112, 224, 111))]
    found = V1().pooler(2)(features, boxes, [(512, 512)] * 2)
    # Sides from 112, 224 and 448 pixels belong to the second, third and fourth level.
    assert_close(found[:, 0, 0, 0], torch.tensor([6.0, 0.0, 3.0, 5.0, 1.0]))
    assert_close(found, found[:, :, :1, :1].expand(5, 1, 2, 2))


def test_modern_regions_are_torchvisions_and_no_image_teaches_it_wrong_strides() -> None:
    torch.manual_seed(0)
    features = {str(level): torch.randn(1, 2, 128 // stride, 256 // stride) for level, stride in enumerate(STRIDES[:4])}
    corner = torch.rand(20, 2) * 100
    boxes = [torch.cat((corner, corner + torch.rand(20, 2) * 250), dim=1)]
    expected = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)(features, boxes, [(128, 256)])
    pooler = Modern().pooler(7)
    tiny = {str(level): torch.zeros(1, 2, 32 // stride, 256 // stride) for level, stride in enumerate(STRIDES[:4])}
    pooler(tiny, [torch.tensor([[0.0, 0, 256, 1]])], [(1, 256)])  # torchvision's would take strides of 1/8 and less
    assert_close(pooler(features, boxes, [(128, 256)]), expected)


# Which ground truth a box stands for


def test_v1_gives_a_ground_truth_its_best_proposals() -> None:
    # The first proposal overlaps the second ground truth more, but is the best of the first one.
    overlaps = torch.tensor([[0.8, 0.6, 0.1], [0.9, 0.2, 0.95]])
    assert V1().box_matcher(0.5)(overlaps).tolist() == [0, 0, 1]
    assert Modern().box_matcher(0.5)(overlaps).tolist() == [1, 0, 1]


def test_v1_ties_all_count_and_the_later_ground_truth_wins() -> None:
    overlaps = torch.tensor([[0.6, 0.6, 0.4], [0.7, 0.2, 0.1]])  # two best for the first; one of them is the second's
    assert V1().box_matcher(0.5)(overlaps).tolist() == [1, 0, -1]


def test_v1_does_not_give_what_is_below_the_lowest_overlap() -> None:
    # The first column: 0.35 is neither, but the best of its ground truth. The third: the best of its own, under 0.3.
    overlaps = torch.tensor([[0.35, 0.35, 0.1, 0.31], [0.2, 0.1, 0.29, 0.0]])
    assert V1().anchor_matcher()(overlaps).tolist() == [0, 0, -1, -2]
    assert Modern().anchor_matcher()(overlaps).tolist() == [0, 0, 1, -2]
    assert V1().box_matcher(0.6)(torch.tensor([[0.59, 0.4]])).tolist() == [-1, -1]


# Suppression


def test_v1_suppression_is_the_authors(vectors: dict[str, Any]) -> None:
    rows = torch.tensor(vectors["nms"]["boxes_scores"], dtype=torch.float64)
    boxes, labels = rows[:, :4] + LAST_PIXEL, torch.ones(len(rows), dtype=torch.int64)
    kept = V1().suppress(boxes.float(), rows[:, 4].float(), labels, vectors["nms"]["threshold"], scale=1.0)
    assert kept.tolist() == vectors["nms"]["kept"]
    without = Modern().suppress(rows[:, :4], rows[:, 4], labels, vectors["nms"]["threshold"], scale=1.0)
    assert without.tolist() == vectors["nms"]["kept_without_plus_one"]


def test_v1_suppression_counts_the_last_pixel_of_the_original_image() -> None:
    # Last pixels (39, 39) and (39, 18). As resized 40 x 19 in 40 x 40: 0.475. At scale 4 they are (9.75, 9.75) and
    # (9.75, 4.5), and sides 10.75 and 5.5: 0.512.
    boxes, scores = torch.tensor([[0.0, 0, 40, 40], [0, 0, 40, 19]]), torch.tensor([0.5, 0.9])
    same, other = torch.tensor([1, 1]), torch.tensor([1, 2])
    assert V1().suppress(boxes, scores, same, 0.5, scale=1.0).tolist() == [1, 0]
    assert V1().suppress(boxes, scores, same, 0.5, scale=4.0).tolist() == [1]
    assert V1().suppress(boxes, scores, other, 0.5, scale=4.0).tolist() == [1, 0]


# Masks


def test_v1_mask_targets_are_whole_pixels_resized_and_rounded_halves_up() -> None:
    mask = torch.tensor([[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]], dtype=torch.uint8)[None]
    boxes = torch.tensor([[0.9, 0.9, 4.6, 4.6], [1.0, 2.0, 3.0, 3.0]])
    found = crop_masks(mask, boxes, torch.tensor([0, 0]), 2)
    # From pixel 0 to pixel 3: means of four are 0.5, 0, 0, 0.25. Pixels (0, 1) of the third row, and no others.
    assert found.tolist() == [[[1, 0], [0, 0]], [[0, 1], [0, 1]]]
    assert crop_masks(mask, boxes[1:], torch.tensor([0]), 4)[0].tolist() == [[0, 0, 1, 1]] * 4  # 0, 1/4, 3/4, 1


def test_v1_mask_targets_are_crops_resized() -> None:
    torch.manual_seed(0)
    masks = (torch.rand(2, 70, 70) > 0.5).byte()
    for side in (7, 14, 28, 56):  # samples at exact fractions of pixels
        box, matched = torch.tensor([[3.2, 9.7, 3.2 + side, 9.7 + side]]), torch.tensor([1])
        crop = masks[1:, 9 : 9 + side, 3 : 3 + side].float()
        expected = (F.interpolate(crop[None], (28, 28), mode="bilinear", align_corners=False)[0] + 0.5).floor()
        assert_close(crop_masks(masks, box, matched, 28), expected, rtol=0, atol=0)


def test_v1_mask_loss_is_the_cross_entropy_of_the_boxs_own_class() -> None:
    masks = torch.tensor([[[1, 1], [0, 0]], [[0, 0], [0, 1]]], dtype=torch.uint8)
    logits = torch.full((2, 3, 2, 2), 50.0)  # a class that is not the box's own costs nothing
    logits[0, 2], logits[1, 1] = 0.0, torch.tensor([[-1.0, -1], [-1, 2]])
    boxes = torch.tensor([[0.0, 0, 2, 2]] * 2)
    loss = V1().mask_loss(logits, [boxes], [masks], [torch.tensor([2, 1])], [torch.tensor([0, 1])])
    # -log(1/2) four times; log(1 + e^-1) three times; log(1 + e^-2).
    assert_close(loss, torch.tensor((4 * 0.693147181 + 3 * 0.313261688 + 0.126928011) / 8))


@pytest.mark.parametrize("scheme", [Modern(), V1()], ids=lambda s: s.name)
def test_mask_loss_of_no_boxes_is_zero_with_a_gradient(scheme: Modern) -> None:
    logits = torch.zeros(0, 3, 28, 28, requires_grad=True)
    none, masks = torch.zeros(0, dtype=torch.int64), torch.zeros(0, 9, 9, dtype=torch.uint8)
    loss = scheme.mask_loss(logits, [torch.zeros(0, 4)], [masks], [none], [none])
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None


def test_v1_pasting_is_the_authors(vectors: dict[str, Any]) -> None:
    case = vectors["mask_paste"]
    resized = inclusive(case["box_at_test_scale"]).float()
    box = V1().restore_boxes(resized, (12, 14), (24, 28), case["scale_factor"])
    assert (box - LAST_PIXEL.float()).long()[0].tolist() == case["integer_box"]
    mask = V1().paste(torch.tensor([case["probabilities"]]), box, tuple(case["image_hw"]))[0] > 0.5
    assert ["".join(map(str, row)) for row in mask.int().tolist()] == case["mask"]


def test_v1_pasting_cuts_at_the_image_and_keeps_one_pixel() -> None:
    boxes = torch.tensor([[2.0, 1, 6, 5], [1.5, 1.5, 1.7, 1.7]])
    pasted = V1().paste(torch.ones(2, 4, 4), boxes, (3, 4))
    assert pasted.tolist() == [[[0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]], [[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]]


def test_modern_pasting_is_torchvisions() -> None:
    torch.manual_seed(0)
    corner = torch.rand(9, 2) * 50
    boxes, probabilities = torch.cat((corner, corner + torch.rand(9, 2) * 40), dim=1), torch.rand(9, 28, 28)
    expected = paste_masks_in_image(probabilities[:, None], boxes, (60, 80))[:, 0]
    assert_close(Modern().paste(probabilities, boxes, (60, 80)), expected, rtol=0, atol=0)
    assert Modern().paste(probabilities[:0], boxes[:0], (60, 80)).tolist() == []


class PeakMemory(TorchDispatchMode):
    """Bytes of the tensors that were alive together, of those made within the block."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (list, tuple)) else [result]:
            if isinstance(tensor, Tensor) and id(tensor.untyped_storage()) not in self.known:
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        size, key = storage.nbytes(), id(storage)
        self.known.add(key)
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._remove, size, key)

    def _remove(self, size: int, key: int) -> None:
        self.alive -= size
        self.known.discard(key)


@pytest.mark.parametrize("scheme", [Modern(), V1()], ids=lambda s: s.name)
def test_pasting_a_hundred_masks_needs_the_memory_of_the_result(scheme: Modern) -> None:
    probabilities, boxes = torch.rand(100, 28, 28), torch.tensor([[1.0, 1, 99, 79]]).expand(100, 4)
    with PeakMemory() as theirs:
        paste_masks_in_image(probabilities[:, None], boxes, (80, 100))
    with PeakMemory() as ours:
        result = scheme.paste(probabilities, boxes, (80, 100))
    assert theirs.peak > 1.9 * result.nbytes  # a list of masks and their stack: the meter sees them
    assert ours.peak < 1.2 * result.nbytes  # the padded maps and a few single masks
