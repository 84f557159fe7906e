"""Augmentation against values computed by hand and against torchvision."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from attnorm.data.augment import (
    SampleKey,
    augment_batch,
    epoch_draws,
    epoch_order,
    erase,
    resized_crop_box,
    resized_crop_flip,
    sample_generator,
)


def picture(count=3, channels=2, height=5, width=6):
    return torch.arange(count * channels * height * width).reshape(count, channels, height, width).to(torch.uint8)


def test_flip_by_hand():
    images = picture()
    out = augment_batch(images, torch.tensor([[0.49, 0, 0], [0.5, 0, 0], [0.0, 0, 0]]), "flip")
    assert torch.equal(out[0], images[0].flip(-1))
    assert torch.equal(out[1], images[1])
    assert torch.equal(out[2], images[2].flip(-1))


@pytest.mark.parametrize("row", [0, 1, 4, 8])
@pytest.mark.parametrize("column", [0, 3, 4, 8])
def test_crop_by_hand(row, column):
    # A draw u gives the offset floor(9 u); offset 4 is the image itself, 0 moves it 4 pixels down or right.
    images = picture()
    draws = torch.tensor([[0.9, (row + 0.5) / 9, (column + 0.5) / 9]]).expand(3, 3)
    expected = np.zeros((3, 2, 5, 6), np.uint8)
    for y in range(5):
        for x in range(6):
            if 0 <= y + row - 4 < 5 and 0 <= x + column - 4 < 6:
                expected[:, :, y, x] = images[:, :, y + row - 4, x + column - 4]
    assert np.array_equal(augment_batch(images, draws, "crop_flip"), expected)


def test_none_leaves_the_image():
    assert torch.equal(augment_batch(picture(), torch.zeros(3, 3), "none"), picture())


def test_draws_and_orders_differ_between_epochs_seeds_and_purposes():
    first = epoch_draws(1000, seed=1, epoch=2)
    assert torch.equal(first, epoch_draws(1000, seed=1, epoch=2))
    for other in (epoch_draws(1000, 1, 3), epoch_draws(1000, 2, 2)):
        # correlation of independent draws: standard error 1 / sqrt(3000) = 0.018
        assert abs(torch.corrcoef(torch.stack([first.flatten(), other.flatten()]))[0, 1]) < 0.08
    assert first.mean(0).tolist() == pytest.approx([0.5] * 3, abs=0.05)
    assert sorted(epoch_order(100, 0, 0)) == list(range(100))
    assert not np.array_equal(epoch_order(100, 0, 0), epoch_order(100, 0, 1))


def test_each_sample_has_a_stream_of_its_own():
    keys = [SampleKey(s, e, seed) for s in (0, 1, 7) for e in (0, 1) for seed in (0, 1)]
    assert len({sample_generator(key).random() for key in keys}) == len(keys)
    assert sample_generator(keys[3]).random() == sample_generator(keys[3]).random()


class Scripted:
    """A generator whose numbers are written down."""

    def __init__(self, uniforms, integers=()):
        self.uniforms, self.whole = iter(uniforms), iter(integers)

    def uniform(self, low, high):
        return low + (high - low) * next(self.uniforms)

    def integers(self, low, high):
        value = next(self.whole)
        assert low <= value < high
        return value


def test_resized_crop_box_by_hand():
    # area 0.54 (the middle of 0.08 to 1) of 200 x 100, aspect ratio exp(0) = 1: a square of sqrt(10800) = 104 pixels
    # does not fit a height of 100; next the smallest area, 1600 = 40 x 40, at column 30, row 20
    box = resized_crop_box(200, 100, Scripted([0.5, 0.5, 0.0, 0.5], integers=[20, 30]))
    assert box == (30, 20, 70, 60)


@pytest.mark.parametrize(("width", "height"), [(1, 1000), (1000, 1), (3, 700)])
def test_resized_crop_box_falls_back_as_torchvision(width, height):
    from torchvision.transforms import RandomResizedCrop

    top, left, h, w = RandomResizedCrop.get_params(torch.empty(3, height, width), (0.08, 1.0), (3 / 4, 4 / 3))
    assert resized_crop_box(width, height, np.random.default_rng(0)) == (left, top, left + w, top + h)


def test_resized_crop_boxes_are_distributed_as_torchvisions():
    from torchvision.transforms import RandomResizedCrop

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    theirs = [RandomResizedCrop.get_params(torch.empty(3, 90, 120), (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(4000)]
    ours = [resized_crop_box(120, 90, rng) for _ in range(4000)]
    theirs = np.array([(left, top, left + w, top + h) for top, left, h, w in theirs])
    # corners have a standard deviation of about 25 pixels, the mean of 4000 of 0.4, a difference of two of 0.56
    np.testing.assert_allclose(np.mean(ours, 0), np.mean(theirs, 0), atol=2.5)
    np.testing.assert_allclose(np.std(ours, 0), np.std(theirs, 0), atol=2.5)


def test_resized_crop_equals_cutting_and_resizing_by_pillow():
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8))
    flipped = 0
    for sample in range(20):
        key = SampleKey(sample, 3, 5)
        generator = sample_generator(key)
        expected = image.crop(resized_crop_box(80, 60, generator)).resize((32, 32), Image.Resampling.BILINEAR)
        flip = generator.random() < 0.5
        flipped += flip
        expected = np.asarray(expected)[:, ::-1] if flip else np.asarray(expected)
        assert np.array_equal(resized_crop_flip(image, 32, Image.Resampling.BILINEAR, sample_generator(key)), expected)
    assert 3 <= flipped <= 17


def test_erased_box_by_hand():
    """A third of 30 x 20 pixels is at most 200: the middle of 0.02 to 1/3 is 106, 10.3 x 10.3 at aspect ratio 1."""
    image = torch.full((2, 20, 30), 9, dtype=torch.uint8)
    out = erase(image, torch.tensor([3, 4], dtype=torch.uint8), Scripted([0.5, 0.5], integers=[7, 20]))
    expected = np.full((2, 20, 30), 9)
    expected[0, 7:17, 20:30], expected[1, 7:17, 20:30] = 3, 4
    assert np.array_equal(out, expected)


def test_erased_boxes_are_distributed_as_timms():
    """The share of the area has a spread of 0.09, its mean over 4000 draws one of 0.0014, a difference 0.002."""
    from timm.data.random_erasing import RandomErasing

    random.seed(0)
    timms, rng = RandomErasing(probability=1, device="cpu"), np.random.default_rng(0)
    theirs = torch.stack([timms(torch.ones(1, 40, 50)) for _ in range(4000)]).eq(0)
    ours = torch.stack([erase(torch.ones(1, 40, 50).byte(), torch.zeros(1).byte(), rng) for _ in range(4000)]).eq(0)
    assert ours.float().mean().item() == pytest.approx(theirs.float().mean().item(), abs=0.008)
    for dims in ((1, 2), (1, 3)):  # heights and widths, as shares of the image's
        mean = [erased.any(dims).float().mean().item() for erased in (ours, theirs)]
        assert mean[0] == pytest.approx(mean[1], abs=0.02)
