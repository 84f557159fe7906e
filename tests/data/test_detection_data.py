"""Images with their targets: reading, bad images, augmentation, batches, resume."""

import dataclasses
from itertools import chain

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import masks_to_boxes
from torchvision.transforms.v2 import functional as tv
from torchvision.tv_tensors import BoundingBoxFormat

from attnorm.data import CocoConfig, DataConfig, load_detection, make_loader
from attnorm.data.augment import SampleKey, sample_generator
from attnorm.data.coco_augment import flip, large_scale_jitter
from attnorm.errors import DataError
from tests.data.coco_sets import annotation, config, content, write

TALL = {"width": 16, "height": 20}


def exif(orientation):
    block = Image.Exif()
    block[0x0112] = orientation
    return block


def picture():
    return Image.fromarray(np.arange(16 * 20 * 3, dtype=np.uint16).reshape(16, 20, 3).astype(np.uint8))


@pytest.mark.parametrize("declared", ["stored", "upright"])
def test_a_turned_image_is_read_as_its_annotations_saw_it(tmp_path, declared):
    part = content(images=1)
    if declared == "upright":
        part["images"][0].update(TALL)
    write(tmp_path, part)
    picture().save(tmp_path / "images" / "train" / "1.png", exif=exif(6))
    image, target = load_detection(config(tmp_path, augment="none"), ("train",)).train[SampleKey(0, 0, 0)]
    stored = torch.from_numpy(np.array(picture())).permute(2, 0, 1)
    assert torch.equal(image, stored if declared == "stored" else stored.rot90(-1, (1, 2)))
    assert target["masks"].shape[1:] == image.shape[1:]


@pytest.mark.parametrize("mode", ["L", "CMYK", "I;16", "1", "RGBA", "P"])
def test_images_of_every_mode_become_rgb(tmp_path, mode):
    write(tmp_path)
    file = tmp_path / "images" / "train" / "1.png"
    if mode == "I;16":
        Image.fromarray(np.full((16, 20), 200 * 257, dtype=np.uint16)).save(file)
    else:
        grey = Image.new("RGB", (20, 16), (200, 200, 200)) if mode != "1" else Image.new("1", (20, 16), 1)
        (grey.quantize(4) if mode == "P" else grey.convert(mode)).save(file, format="TIFF" if mode == "CMYK" else "PNG")
    image = load_detection(config(tmp_path), ("train",)).train[0][0]
    assert torch.equal(image, torch.full((3, 16, 20), 255 if mode == "1" else 200, dtype=torch.uint8))


def test_an_image_of_another_size_counts_as_unreadable(tmp_path, caplog):
    write(tmp_path)
    Image.new("RGB", (21, 16)).save(tmp_path / "images" / "val" / "1.png")
    data = load_detection(config(tmp_path)).val
    images, targets = data.__getitems__([0, 1])
    assert ([int(image[0, 0, 0]) for image in images], [int(target["image_id"]) for target in targets]) == ([20], [2])
    assert data.__getitems__([0]) == ([], [])
    assert caplog.messages == ["skipped 1.png: its annotations are for 20x16 pixels, it has 21x16 pixels"]
    assert data.bad_files() == ["1.png"]
    with pytest.raises(DataError, match=r"1\.png is not a readable image"):
        data[0]


def test_another_image_takes_the_place_of_a_bad_one_in_training(tmp_path):
    part = content(images=4)
    part["images"][1].update(TALL)
    write(tmp_path, part)
    Image.new("RGB", (16, 20), (20, 0, 0)).save(tmp_path / "images" / "train" / "2.png")
    (tmp_path / "images" / "train" / "1.png").write_bytes(b"no image")
    data = load_detection(config(tmp_path)).train
    images, targets = data.__getitems__([SampleKey(i, 0, 1) for i in range(4)])
    # image 3, the next that is as wide, for image 1
    assert [int(target["image_id"]) for target in targets] == [3, 2, 3, 4]
    assert [int(image[0, 0, 0]) for image in images] == [30, 20, 30, 40]
    (tmp_path / "images" / "train" / "2.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"coco train: at most 0 images may be unreadable .* found 1: 2\.png"):
        load_detection(config(tmp_path, max_bad_images=0)).train[SampleKey(1, 0, 1)]
    for file in (tmp_path / "images" / "train").iterdir():
        file.write_bytes(b"")
    with pytest.raises(DataError, match="there must be a readable image; none of 4 is"):
        load_detection(config(tmp_path)).train[SampleKey(1, 0, 1)]


def noisy(count=3):
    """An image of 20x16 noise, boxes at random with a part of each as its mask."""
    rng = np.random.default_rng(1)
    image = Image.fromarray(rng.integers(0, 256, (16, 20, 3), dtype=np.uint8))
    corner, far = rng.random((count, 2)) * [10, 8], rng.random((count, 2)) * [9, 7] + 0.5
    boxes = torch.from_numpy(np.concatenate([corner, corner + far], 1)).float()
    masks = torch.from_numpy(rng.integers(0, 2, (count, 16, 20), dtype=np.uint8))
    target = {"boxes": boxes, "labels": torch.arange(count), "area": torch.full((count,), 9.0), "masks": masks}
    return image, {**target, "image_id": torch.tensor(5)}


def as_tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def test_flip_is_torchvisions():
    image, target = noisy()
    flipped, moved = flip(image, target)
    boxes = tv.horizontal_flip_bounding_boxes(target["boxes"], BoundingBoxFormat.XYXY, (16, 20))
    assert torch.equal(as_tensor(flipped), tv.horizontal_flip(as_tensor(image)))
    torch.testing.assert_close(moved["boxes"], boxes)
    assert torch.equal(moved["masks"], tv.horizontal_flip(target["masks"]))
    back, target_back = flip(flipped, moved)
    assert torch.equal(as_tensor(back), as_tensor(image))
    torch.testing.assert_close(target_back["boxes"], target["boxes"])


class Draws:
    """Stands for a random generator: the scale, then the left and the upper edge of the cut."""

    def __init__(self, scale, left=0, upper=0):
        self.scale, self.edges = scale, iter((left, upper))

    def uniform(self, low, high):
        assert (low, high) == (0.1, 2.0)
        return self.scale

    def integers(self, low, high):
        edge = next(self.edges)
        assert low == 0 <= edge < high
        return edge


def test_jitter_that_enlarges_cuts():
    image, target = noisy()
    target["boxes"] = torch.tensor([[1.0, 2, 9, 8], [0.5, 0.5, 2, 3], [12, 4, 20, 16]])
    # 20x16 fits a square of 40 at scale 2; twice that is 80x64
    square, moved = large_scale_jitter(image, target, side=40, fill=(1, 2, 3), rng=Draws(2.0, 12, 24))  # type: ignore
    whole = image.resize((80, 64), Image.Resampling.BILINEAR)
    assert (as_tensor(square).int() - as_tensor(whole.crop((12, 24, 52, 64))).int()).abs().max() <= 1  # rounding
    # times 4, minus (12, 24), cut to 0..40; the second box is gone, the third leaves to the right
    assert moved["boxes"].tolist() == [[0, 0, 24, 8], [36, 0, 40, 40]]
    assert moved["labels"].tolist() == [0, 2]
    assert moved["area"].tolist() == [9 * 16, 9 * 16]
    big = target["masks"].repeat_interleave(4, 1).repeat_interleave(4, 2)[:, 24:64, 12:52]
    assert torch.equal(moved["masks"], big[[0, 2]])
    assert moved["image_id"] == 5


def test_jitter_that_shrinks_fills():
    image, target = noisy()
    target["masks"][1] = 0
    target["masks"][1, 0, 0] = 1  # falls between the rows that are left
    square, moved = large_scale_jitter(image, target, side=10, fill=(1, 2, 3), rng=Draws(0.5))  # type: ignore
    pixels = as_tensor(square)
    assert torch.equal(pixels[:, :4, :5], as_tensor(image.resize((5, 4), Image.Resampling.BILINEAR)))
    fill = torch.tensor([1, 2, 3], dtype=torch.uint8)[:, None, None]
    assert (pixels[:, 4:] == fill).all()
    assert (pixels[:, :, 5:] == fill).all()
    torch.testing.assert_close(moved["boxes"], target["boxes"][[0, 2]] / 4)
    small = torch.nn.functional.interpolate(target["masks"][None].float(), (4, 5), mode="nearest-exact")[0]
    assert torch.equal(moved["masks"][:, :4, :5], small[[0, 2]].byte())
    assert moved["masks"][:, 4:].sum() == moved["masks"][:, :, 5:].sum() == 0


def test_jitter_of_extreme_images_is_what_it_should_be():
    rng = np.random.default_rng(0)
    for width, height in ((1, 300), (300, 1), (7, 5)):
        image = Image.new("RGB", (width, height), (50, 60, 70))
        box = torch.tensor([[0.0, 0, width, height]])
        target = {"boxes": box, "labels": torch.ones(1).long(), "area": torch.ones(1), "image_id": torch.tensor(1)}
        target["masks"] = torch.ones(1, height, width, dtype=torch.uint8)
        for _ in range(30):
            square, moved = large_scale_jitter(image, target, side=64, fill=(0, 0, 0), rng=rng)
            inside = as_tensor(square)[0] == 50
            assert torch.equal(moved["masks"][0].bool(), inside)
            assert moved["boxes"][0].tolist() == [0, 0, int(inside.any(0).sum()), int(inside.any(1).sum())]


@pytest.mark.parametrize("augment", ["none", "flip", "lsj"])
def test_augmentation_depends_on_seed_epoch_and_sample_only(augment):
    data = shapes(augment=augment)
    keys = [SampleKey(i, epoch, 5) for epoch in (0, 1) for i in range(12)]
    images, targets = data.__getitems__(keys)
    again, targets_again = data.__getitems__(keys[::-1])
    assert all(torch.equal(a, b) for a, b in zip(images, again[::-1], strict=True))
    assert all(torch.equal(a["boxes"], b["boxes"]) for a, b in zip(targets, targets_again[::-1], strict=True))
    same = [torch.equal(a, b) for a, b in zip(images[:12], images[12:], strict=True)]
    assert all(same) if augment == "none" else not all(same)
    flips = [sample_generator(key).random() < 0.5 for key in keys]
    if augment == "flip":
        plain = [data[key.sample][0] for key in keys]
        assert [not torch.equal(a, b) for a, b in zip(images, plain, strict=True)] == flips
    for image, target in zip(images, targets, strict=True):
        assert target["masks"].shape[1:] == image.shape[1:]
        fitted = masks_to_boxes(target["masks"]) + torch.tensor([0, 0, 1, 1])  # torchvision ends with the last pixel
        if augment == "lsj":  # boxes that are cut are not fitted to their masks anew, but hold them
            outside = torch.cat([target["boxes"][:, :2] - fitted[:, :2], fitted[:, 2:] - target["boxes"][:, 2:]], 1)
            assert (outside < 1).all()
        else:
            assert torch.equal(fitted, target["boxes"])


def shapes(**coco):
    settings = DataConfig(dataset="shapes", image_size=64, coco=CocoConfig(jitter_size=96, **coco))
    return load_detection(settings, ("train",)).train


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """13 wide images and 8 tall ones."""
    part = content(images=21)
    for entry in part["images"][::3] + part["images"][1:2]:
        entry.update(TALL)
    root = write(tmp_path_factory.mktemp("mixed"), part)
    for entry in part["images"]:
        size = (entry["width"], entry["height"])
        Image.new("RGB", size, (entry["id"], 0, 0)).save(root / "images" / "train" / entry["file_name"])
    return load_detection(config(root), ("train",)).train


def ids(batch):
    return [int(target["image_id"]) for target in batch[1]]


def loader(data, **more):
    return make_loader(data, **{"batch_size": 4, "train": True, "seed": 3, **more})


def epoch(loader, number):
    loader.sampler.set_epoch(number)
    return [ids(batch) for batch in loader]


def test_batches_are_of_one_orientation_and_every_image_comes_once(mixed):
    wide = (mixed.aspect_ratios > 1).tolist()
    orders = [epoch(loader(mixed, drop_last=False), number) for number in range(3)]
    for batches in orders:
        assert sorted(chain(*batches)) == list(range(1, 22))
        shapes = [{wide[id - 1] for id in batch} for batch in batches]
        assert all(len(kinds) == 1 for kinds in shapes[:5])  # 3 of 13 wide ones and 2 of 8 tall ones fill no batch
        assert [len(batch) for batch in batches] == [4, 4, 4, 4, 4, 1]
    assert orders[0] != orders[1]
    dropped = epoch(loader(mixed), 0)
    assert dropped == orders[0][:5]
    mixed_up = load_detection(config(mixed._read_image.folder.parents[1], aspect_grouping=False), ("train",)).train
    batches = epoch(loader(mixed_up), 0)
    assert any(len({wide[id - 1] for id in batch}) == 2 for batch in batches)


def test_processes_have_batches_of_the_same_orientation(mixed, monkeypatch):
    from torch import distributed

    wide = (mixed.aspect_ratios > 1).tolist()
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    batches = []
    for rank in range(2):
        monkeypatch.setattr(distributed, "get_rank", lambda rank=rank: rank)
        batches.append(epoch(loader(mixed, batch_size=2), 1))
    assert [len(part) for part in batches] == [5, 5]
    seen = [*chain(*batches[0], *batches[1])]
    assert len(set(seen)) == len(seen) == 20
    for first, second in zip(*(part[:5] for part in batches), strict=True):
        assert len({wide[id - 1] for id in first + second}) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_in_mid_epoch_gives_exactly_the_remaining_batches(mixed, workers):
    expected = epoch(loader(mixed), 2)
    first = loader(mixed, workers=workers)
    first.sampler.set_epoch(2)
    iterator = iter(first)
    assert [ids(next(iterator)) for _ in range(2)] == expected[:2]
    state = first.state_dict()
    resumed = loader(mixed, workers=workers)
    resumed.load_state_dict(state)
    batches = list(resumed)
    assert [ids(batch) for batch in batches] == expected[2:]
    for images, targets in batches:
        for image, target in zip(images, targets, strict=True):
            assert int(image[0, 0, 0]) == int(target["image_id"])
            assert target["masks"].shape[1:] == image.shape[1:]


def test_a_state_of_other_batches_is_refused(mixed):
    first = loader(mixed)
    next(iter(first))
    other = loader(mixed, batch_size=5)
    other.load_state_dict(first.state_dict())
    with pytest.raises(DataError, match="the same grouped_batch_size: the checkpoint has 4, this run 5"):
        next(iter(other))


def test_evaluation_reads_everything_in_order(mixed):
    evaluation = make_loader(mixed, batch_size=4, train=False)
    batches = list(evaluation)
    assert [*chain(*map(ids, batches))] == list(range(1, 22))
    assert all("masks" not in target for _, targets in batches for target in targets)  # ground_truth has them


def test_an_image_with_more_than_a_thousand_instances(tmp_path):
    boxes = [[x * 0.5, y * 0.4, 0.5, 0.4] for x in range(40) for y in range(40)]
    annotations = [annotation(i, 1, bbox=box, area=0.2) for i, box in enumerate(boxes, 1)]
    data = load_detection(config(write(tmp_path, content(annotations)), augment="none"), ("train",)).train
    target = data[SampleKey(0, 0, 0)][1]
    torch.testing.assert_close(target["boxes"][:, :2].double(), torch.tensor(boxes)[:, :2].double())
    assert len(target["masks"]) == len(target["labels"]) == 1600


def test_settings_of_the_data_reach_the_data_set(tmp_path):
    write(tmp_path)
    settings = dataclasses.replace(config(tmp_path), max_bad_images=0)
    assert isinstance(settings, DataConfig)
    (tmp_path / "images" / "val" / "1.png").write_bytes(b"")
    with pytest.raises(DataError, match="coco val: at most 0 images may be unreadable"):
        list(make_loader(load_detection(settings).val, batch_size=2, train=False))
