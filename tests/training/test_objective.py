import math

import numpy as np
import pytest
import torch

from attnorm.training.objective import Mix, _cut_box, draw_mix, mixed_loss, prepare_images

PROBABILITIES = torch.tensor([[0.5, 0.25, 0.25], [0.125, 0.125, 0.75]], dtype=torch.float64)
LOG2 = math.log(2)


def test_images_are_normalised_as_the_original_did():
    images = torch.tensor([0, 51, 255, 102], dtype=torch.uint8).view(1, 2, 1, 2)
    ready = prepare_images(images, torch.tensor([0.2, 0.5]), torch.tensor([0.1, 0.25]))
    expected = torch.tensor([-2.0, 0.0, 2.0, -0.4]).view(1, 2, 1, 2)
    torch.testing.assert_close(ready, expected)
    assert images.flatten().tolist() == [0, 51, 255, 102]  # the batch itself is not written to


def test_images_in_channels_last():
    images = torch.randint(256, (2, 3, 4, 5), dtype=torch.uint8)
    mean, std = torch.rand(3), torch.rand(3) + 0.5
    ready = prepare_images(images, mean, std, channels_last=True)
    assert ready.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(ready, prepare_images(images, mean, std))


def test_label_smoothing_by_hand():
    """0.9 * -log p[label] + 0.1 * mean of -log p, in units of log 2: labels 0 and 1 of the first two rows."""
    logits = PROBABILITIES[:1].log()
    expected = 0.9 * 1 + 0.1 * (1 + 2 + 2) / 3
    assert mixed_loss(logits, torch.tensor([0]), smoothing=0.1).item() == pytest.approx(expected * LOG2, rel=1e-6)


def test_mixed_loss_by_hand():
    """Partners exchanged, share 0.3: each row's loss is 0.3 * L(own label) + 0.7 * L(the other's label)."""
    labels, mix = torch.tensor([0, 1]), Mix(0.3, torch.tensor([1, 0]))
    rows = [0.3 * 1 + 0.7 * 2, 0.3 * 3 + 0.7 * 3]
    loss = mixed_loss(PROBABILITIES.log(), labels, mix=mix)
    assert loss.item() == pytest.approx(sum(rows) / 2 * LOG2, rel=1e-6)


def test_loss_is_computed_in_float32_from_half_logits():
    logits = torch.tensor([[4.0, -4.0]], dtype=torch.bfloat16)
    assert mixed_loss(logits, torch.tensor([0])).dtype == torch.float32
    assert mixed_loss(logits, torch.tensor([0])).item() == pytest.approx(math.log1p(math.exp(-8)), rel=1e-4)


def test_mixed_images_by_hand():
    images = torch.tensor([1.0, 5.0]).view(2, 1, 1, 1)
    assert Mix(0.25, torch.tensor([1, 0])).images(images).flatten().tolist() == [4.0, 2.0]


def test_cut_images_by_hand():
    """Rows 0 to 1 and columns 1 to 2 of 4 x 4 pixels come from the partner; the image itself is not written to."""
    images = torch.arange(32.0).view(2, 1, 4, 4)
    mixed = Mix(0.75, torch.tensor([1, 0]), (0, 2, 1, 3)).images(images)
    expected = images.clone()
    for row, column in ((0, 1), (0, 2), (1, 1), (1, 2)):
        expected[0, 0, row, column] = 16 + 4 * row + column
        expected[1, 0, row, column] = 4 * row + column
    assert torch.equal(mixed, expected)
    assert torch.equal(images, torch.arange(32.0).view(2, 1, 4, 4))


def test_share_of_cutmix_is_the_share_of_pixels_that_stay():
    """Ones mixed with zeros: what is left of an image is its share, although the box is cut off at the edges."""
    cut = 0
    for i in range(50):
        mix = draw_mix(0.0, 2, (0, 0, i, 0), cutmix=1.0, size=(9, 14))
        assert mix is not None
        top, bottom, left, right = mix.box
        assert 0 <= top <= bottom <= 9
        assert 0 <= left <= right <= 14
        pair = Mix(mix.share, torch.tensor([1, 0]), mix.box).images(
            torch.tensor([1.0, 0.0]).view(2, 1, 1, 1).repeat(1, 1, 9, 14)
        )
        assert pair[0].mean().item() == pytest.approx(mix.share, abs=1e-6)
        cut += top == 0 or left == 0 or bottom == 9 or right == 14
    assert cut > 10


def test_boxes_of_cutmix_are_those_of_the_paper():
    """Before it is cut off, a box has sqrt(1 - share) of each side: half of 8 x 12 for a share of 3/4."""

    class Middle:
        def integers(self, length):
            return length // 2

    assert _cut_box(0.75, (8, 12), Middle()) == (2, 6, 3, 9)
    assert _cut_box(0.0, (8, 12), Middle()) == (0, 8, 0, 12)
    assert _cut_box(1.0, (8, 12), Middle()) == (4, 4, 6, 6)


def test_mixup_and_cutmix_share_the_batches():
    """At even odds: 1000 tosses have a spread of 0.016."""
    mixes = [draw_mix(0.2, 4, (0, 0, i, 0), cutmix=1.0, size=(32, 32)) for i in range(1000)]
    assert sum(mix.box is None for mix in mixes) / 1000 == pytest.approx(0.5, abs=0.06)


def test_mixup_alone_draws_what_it_drew_before_there_was_cutmix():
    """Runs that were started then can be resumed: the numbers for seed 1, epoch 2, batch 3, process 0."""
    generator = np.random.default_rng((1, 2, 3, 0))
    share, partner = generator.beta(0.2, 0.2), generator.permutation(5)
    mix = draw_mix(0.2, 5, (1, 2, 3, 0))
    assert mix == Mix(share, mix.partner)
    assert mix.partner.tolist() == partner.tolist()


def test_no_mixup_draws_nothing():
    """A Beta distribution with parameter 0 does not exist."""
    assert draw_mix(0.0, 8, (0, 0, 0, 0)) is None


def test_draws_depend_on_the_place_in_the_run_alone():
    a, b, other = (draw_mix(0.2, 16, (1, 2, i, 0)) for i in (3, 3, 4))
    assert a is not None
    assert b is not None
    assert other is not None
    assert a.share == b.share
    assert torch.equal(a.partner, b.partner)
    assert a.share != other.share
    assert sorted(a.partner.tolist()) == list(range(16))


def test_shares_follow_the_beta_distribution():
    """Beta(a, a) has mean 1/2 and variance 1 / (4 * (2a + 1)); 4000 draws: standard error of both under 0.007."""
    shares = torch.tensor([mix.share for i in range(4000) if (mix := draw_mix(0.2, 1, (0, 0, i, 0)))])
    assert len(shares) == 4000
    assert shares.mean().item() == pytest.approx(0.5, abs=0.03)
    assert shares.var().item() == pytest.approx(1 / 5.6, abs=0.01)
