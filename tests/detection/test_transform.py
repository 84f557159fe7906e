"""Images become the batch that torchvision, or the authors' framework, would make of them; and boxes come back."""

import json

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes

from attnorm.detection.config import DetectorConfig
from attnorm.detection.conventions import conventions
from attnorm.detection.transform import Transform
from tests.shared import shared_file

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def make_transform(scheme: str = "modern", mean=MEAN, std=STD, **settings) -> Transform:
    return Transform(DetectorConfig(conventions=scheme, **settings), conventions(scheme), mean, std)  # type: ignore[arg-type]


def sample(height: int, width: int, objects: int) -> tuple[Tensor, dict[str, Tensor]]:
    """An image of 8 bits and its ground truth."""
    corner = torch.rand(objects, 2) * torch.tensor([width / 2, height / 2])
    side = (torch.rand(objects, 2) * 0.4 + 0.1) * torch.tensor([width, height])
    target = {
        "boxes": torch.cat((corner, corner + side), dim=1),
        "labels": torch.arange(objects) + 1,
        "masks": (torch.rand(objects, height, width) > 0.5).byte(),
        "image_id": torch.tensor(7),
    }
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8), target


def plain(values: list[list[int]]) -> Tensor:
    """A grey image (1, H, W) of 8 bits."""
    return torch.tensor([values], dtype=torch.uint8)


# torchvision's conventions


@pytest.mark.parametrize("train", [True, False])
def test_modern_batches_are_torchvisions(train: bool) -> None:
    torch.manual_seed(0)
    images, targets = zip(*(sample(*shape) for shape in ((48, 64, 3), (71, 37, 1), (30, 90, 0))), strict=True)
    theirs = GeneralizedRCNNTransform(75, 100, list(MEAN), list(STD)).train(train)
    ours = make_transform(min_size=75, max_size=100).train(train)
    expected, expected_targets = theirs([image / 255 for image in images], list(targets))
    batch, resized = ours(images, targets)
    assert_close(batch.images.tensors, expected.tensors, rtol=0, atol=1e-6)  # x / 255 is the same, products may fuse
    assert batch.images.image_sizes == expected.image_sizes
    assert batch.original_sizes == [(48, 64), (71, 37), (30, 90)]
    assert_close(batch.scales, [75 / 48, 100 / 71, 100 / 90])
    for target, theirs, given in zip(resized, expected_targets, targets, strict=True):
        assert_close(target, {**theirs, "masks": given["masks"]}, rtol=0, atol=0)  # masks are for the heads to resize
    floats, _ = ours([image / 255 for image in images])
    assert_close(floats.images.tensors, batch.images.tensors, rtol=0, atol=0)
    for index, target in enumerate(targets):
        back = ours.restore(resized[index]["boxes"], index, batch)
        assert_close(
            back, resize_boxes(resized[index]["boxes"], batch.images.image_sizes[index], target["masks"].shape[1:])
        )
        assert_close(back, target["boxes"])


def test_sizes_are_the_schemes() -> None:
    path = shared_file("reference/fixtures/detection_v1_vectors.json")
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    for row in json.loads(path.read_text())["resize"]:
        size = (row["height"], row["width"])
        new, scale = conventions("v1").resized(size, 800, 1333)
        assert new == (row["new_height"], row["new_width"])
        assert abs(scale - row["scale_factor"]) < 1e-6
        new, _ = conventions("modern").resized(size, 800, 1333)
        assert new == (row["torchvision_height"], row["torchvision_width"])


def test_batches_are_padded_to_the_authors_sizes() -> None:
    path = shared_file("reference/fixtures/detection_v1_vectors.json")
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    row = json.loads(path.read_text())["resize"][-2]  # 1000 pixels in one row
    batch, _ = make_transform("v1").eval()([torch.full((1, row["height"], row["width"]), 255, dtype=torch.uint8)])
    tensors = batch.images.tensors
    assert tensors.shape == (1, 3, row["padded_height"], row["padded_width"])
    inside = tensors[:, :, : row["new_height"], : row["new_width"]]
    white = ((1 - torch.tensor(MEAN)) / torch.tensor(STD))[:, None, None]
    assert_close(inside, white.expand_as(inside))
    assert tensors.count_nonzero() == inside.numel()


def test_sizes_are_drawn_in_training_only() -> None:
    transform = make_transform(min_size=(32, 64, 48), max_size=200)
    images = [torch.zeros(3, 16, 16)] * 40
    torch.manual_seed(0)
    drawn = [size for size, _ in transform.train()(images)[0].images.image_sizes]
    torch.manual_seed(0)
    assert drawn == [size for size, _ in transform(images)[0].images.image_sizes]
    assert set(drawn) == {32, 64, 48}
    state = torch.get_rng_state()
    assert transform.eval()(images)[0].images.image_sizes == [(48, 48)] * 40
    assert torch.equal(torch.get_rng_state(), state)


# The authors' conventions


def test_v1_resizes_in_8_bits_before_it_normalises() -> None:
    transform = make_transform("v1", mean=[0.5], std=[0.25], min_size=2, max_size=4).eval()
    batch, _ = transform([plain([[0, 255]])])
    # The middles of four pixels lie at -1/4, 1/4, 3/4 and 5/4: 0, 63.75, 191.25, 255.
    row = torch.tensor([0.0, 64, 191, 255]) / 255
    assert batch.images.image_sizes == [(2, 4)]
    assert_close(batch.images.tensors[0, 0, :2, :4], ((row - 0.5) / 0.25).expand(2, 4))
    halves, _ = make_transform("v1", mean=[0.0], std=[1.0], min_size=1, max_size=1).eval()([plain([[2, 3], [2, 3]])])
    assert_close(halves.images.tensors[0, 0, 0, 0] * 255, torch.tensor(3.0))  # 2.5, halves up


def test_v1_rounds_floats_to_8_bits() -> None:
    transform = make_transform("v1", mean=[0.0], std=[1.0], min_size=1, max_size=3).eval()
    batch, _ = transform([torch.tensor([[[0.0999, 99.6 / 255, 1.0]]])])  # 25.4745, 99.6, 255
    assert_close(batch.images.tensors[0, 0, 0, :3] * 255, torch.tensor([25.0, 100, 255]))


def test_v1_boxes_end_with_their_last_pixel() -> None:
    transform = make_transform("v1", min_size=25, max_size=100).train()
    boxes = torch.tensor([[2.0, 1, 6, 4], [0, 0, 20, 10]])
    target = {"boxes": boxes, "labels": torch.tensor([1, 2]), "area": torch.tensor([9.0, 5])}
    batch, (resized,) = transform([torch.zeros(3, 10, 20)], [target])
    # At 2.5 the first is from (5, 2.5) to the pixel (5, 3) * 2.5 = (12.5, 7.5); the second to (47.5, 22.5).
    assert_close(resized["boxes"], torch.tensor([[5.0, 2.5, 13.5, 8.5], [0, 0, 48.5, 23.5]]))
    assert_close(transform.restore(resized["boxes"], 0, batch), boxes)


def test_v1_boxes_are_cut_to_the_image() -> None:
    transform = make_transform("v1", min_size=10, max_size=20).train()
    target = {"boxes": torch.tensor([[-3.0, 2, 25, 12]]), "labels": torch.tensor([1])}
    _, (resized,) = transform([torch.zeros(3, 10, 20)], [target])
    assert_close(resized["boxes"], torch.tensor([[0.0, 2, 20, 10]]))


def test_v1_leaves_out_ground_truth_under_a_pixel_or_without_area() -> None:
    boxes = torch.tensor([[1.0, 1, 1.5, 9], [1, 1, 9, 1.9], [4, 4, 5, 5], [2, 2, 8, 8]])
    target = {
        "boxes": boxes,
        "labels": torch.tensor([1, 2, 3, 4]),
        "area": torch.tensor([4.0, 4, 1, 0]),
        "masks": torch.arange(1, 5, dtype=torch.uint8)[:, None, None].expand(4, 10, 10),
        "image_id": torch.tensor(5),
    }
    _, (v1,) = make_transform("v1", min_size=10, max_size=10).train()([torch.zeros(3, 10, 10)], [target])
    assert v1["labels"].tolist() == [3]
    assert v1["masks"].unique().tolist() == [3]
    assert v1["image_id"] == 5
    _, (modern,) = make_transform(min_size=10, max_size=10).train()([torch.zeros(3, 10, 10)], [target])
    assert_close(modern, target)


# Any image


@pytest.mark.parametrize("scheme", ["modern", "v1"])
def test_images_without_objects_or_masks_and_of_one_pixel(scheme: str) -> None:
    transform = make_transform(scheme, mean=(0.0,) * 3, std=(1.0,) * 3, min_size=8, max_size=16).train()
    images = [plain([[51]]), torch.full((3, 300, 1), 102, dtype=torch.uint8)]
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    one = {"boxes": torch.tensor([[0.0, 0, 1, 300]]), "labels": torch.tensor([1])}
    batch, targets = transform(images, [none, one])
    assert batch.images.image_sizes == [(8, 8), (16, 1)]  # 300 rows become 16, one column 0.05: still one
    assert_close(batch.images.tensors[0, :, :8, :8], torch.full((3, 8, 8), 0.2))
    assert_close(batch.images.tensors[1, :, :16, :1], torch.full((3, 16, 1), 0.4))
    assert targets[0]["boxes"].shape == (0, 4)
    assert_close(targets[1]["boxes"], torch.tensor([[0.0, 0, 1, 16]]))
    height = {"modern": 300.0, "v1": 15 / (16 / 300) + 1}[scheme]  # the last of v1's pixels is the 16th, at most
    assert_close(transform.restore(targets[1]["boxes"], 1, batch), torch.tensor([[0.0, 0, 1, height]]))


@pytest.mark.parametrize("box", [[4.0, 1, 4, 9], [4.0, 9, 8, 1], [4.0, 1, float("nan"), 9], [0.0, 0, 9, float("inf")]])
def test_boxes_without_a_side_are_refused(box: list[float]) -> None:
    good = {"boxes": torch.tensor([[0.0, 0, 4, 4]]), "labels": torch.tensor([1])}
    bad = {"boxes": torch.tensor([[0.0, 0, 4, 4], box]), "labels": torch.tensor([1, 1])}
    with pytest.raises(ValueError, match=r"x1 < x2 and y1 < y2; got .* for image 1: .* leave out 1 of 3$"):
        make_transform(min_size=10, max_size=10).train()([torch.zeros(3, 10, 10)] * 2, [good, bad])


def test_images_of_another_form_are_refused() -> None:
    transform = make_transform(min_size=10, max_size=10)
    with pytest.raises(TypeError, match=r"must be uint8, or floats from 0 to 1; got torch\.int32"):
        transform([torch.zeros(3, 10, 10, dtype=torch.int32)])
    with pytest.raises(ValueError, match=r"must be \(3, H, W\) or \(1, H, W\); got \(4, 10, 10\)"):
        transform([torch.zeros(4, 10, 10)])


def test_the_transform_says_what_it_does() -> None:
    assert repr(make_transform("v1", min_size=(640, 800))) == (
        "Transform(min_size=(640, 800), max_size=1333, conventions=v1, mean=[0.485, 0.456, 0.406], "
        "std=[0.229, 0.224, 0.225])"
    )
