"""The published ImageNet recipe, piece by piece, against numbers worked out by hand.

120 epochs, 8 processes with 128 images each, learning rate 0.1 per 256 images, 5 epochs of warm-up; the advanced one
besides with label smoothing 0.1 and mixup 0.2. Images: a random part of 8 to 100 %, 224 pixels, flipped or not; in
evaluation the shorter side to 256, the central 224.
"""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from attnorm.data import DataConfig, eval_transform, load_data
from attnorm.data.augment import SampleKey, resized_crop_box
from attnorm.models import create_model
from attnorm.training.config import Recipe, TrainConfig
from attnorm.training.objective import draw_mix, mixed_loss, prepare_images
from attnorm.training.optimizer import create_optimizer
from attnorm.training.schedule import learning_rate

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NORMAL = Recipe(lr_base=0.1, batch_size=128, epochs=120, warmup_epochs=5)
ITERATIONS = 1251  # 1,281,167 images // 8 processes // 128


def noise(width, height):
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8))


def positions(width, height):
    """An image whose red is its column modulo 256, whose green is its row, and whose blue is the column's high byte."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x % 256, y, x // 256], -1).astype(np.uint8))


@pytest.mark.parametrize(
    ("width", "column"),
    # (width - 224) / 2, halves to the even number: 58.5 -> 58, 59, 59.5 -> 60, 144
    [(341, 58), (342, 59), (343, 60), (512, 144)],
)
def test_the_central_square_by_hand(width, column):
    """The shorter side is 256 already, so that no pixel is changed; row (256 - 224) / 2 = 16."""
    first, last = (eval_transform(224)(positions(width, 256))[:, i, i].tolist() for i in (0, -1))
    assert first == [column % 256, 16, column // 256]
    assert last == [(column + 223) % 256, 16 + 223, (column + 223) // 256]


@pytest.mark.parametrize(
    ("interpolation", "weights"),
    [
        # Half the size with anti-aliasing: the filter, twice as wide, is read at distances 0.25, 0.75, 1.25, 1.75.
        # Triangle 1 - t: 0.75 and 0.25, halved, since their sum over both sides is 2.
        ("bilinear", {0: 0.375, -1: 0.125, 1: 0, -2: 0}),
        # Keys' cubic with a = -1/2: 1.5 t^3 - 2.5 t^2 + 1 below 1, -0.5 t^3 + 2.5 t^2 - 4 t + 2 from 1 to 2, halved.
        ("bicubic", {0: 0.43359375, -1: 0.11328125, 1: -0.03515625, -2: -0.01171875}),
    ],
)
def test_interpolation_by_hand(interpolation, weights):
    """One bright column in an image of 512 x 512, which becomes 256 x 256; column 2i lies 0.25 left of pixel i."""
    pixels = np.full((512, 512, 3), 20, np.uint8)
    pixels[:, 240] = 220
    row = eval_transform(224, 0.875, interpolation)(Image.fromarray(pixels))[0, 100]
    for offset, weight in weights.items():
        assert row[120 - 16 + offset].item() == round(20 + 200 * weight)
    assert row[:100].unique().tolist() == [20]


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (333, 499), (257, 255), (256, 256), (801, 1024), (100, 99)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_evaluation_equals_torchvision_to_the_bit(size, interpolation):
    """A second library's resize to 256 and centre crop of 224, at sizes that do not divide."""
    from torchvision.transforms import CenterCrop, InterpolationMode, Resize

    image = noise(*size)
    expected = CenterCrop(224)(Resize(256, InterpolationMode(interpolation))(image))
    ours = eval_transform(224, 0.875, interpolation)(image)
    assert torch.equal(ours, torch.from_numpy(np.array(expected)).permute(2, 0, 1))


def test_the_longer_side_is_rounded_down():
    """500 x 375: 256 * 500 / 375 = 341.33 becomes 341, of which columns 58 to 281 are taken."""
    whole = np.asarray(noise(500, 375).resize((341, 256), Image.Resampling.BILINEAR))
    ours = eval_transform(224)(noise(500, 375))
    assert np.array_equal(ours.permute(1, 2, 0), whole[16:240, 58:282])


def test_training_boxes_keep_to_the_published_bounds():
    """Area 8 to 100 %, width / height 3/4 to 4/3, up to the rounding of the sides; both ends are approached."""
    boxes = np.array([resized_crop_box(500, 375, np.random.default_rng(i)) for i in range(3000)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area, ratio = width * height / (500 * 375), width / height
    assert 0.079 < area.min() < 0.1
    assert 0.9 < area.max() <= 1
    assert 0.99 * 3 / 4 < ratio.min() < 0.77
    assert 1.3 < ratio.max() < 1.01 * 4 / 3
    assert (boxes.min(0) >= 0).all()
    assert boxes[:, 2].max() <= 500
    assert boxes[:, 3].max() <= 375


def test_training_images_of_files_by_default(tmp_path):
    """224 pixels, another part each time, and half of them flipped: red grows to the right in an image as it is."""
    (tmp_path / "train" / "ramp").mkdir(parents=True)
    ramp = np.broadcast_to(np.arange(250, dtype=np.uint8)[None, :, None], (200, 250, 3))
    Image.fromarray(ramp.copy()).save(tmp_path / "train" / "ramp" / "0.png")
    data = load_data(DataConfig(dataset="folder", data_dir=str(tmp_path)), ("train",))
    assert (data.mean, data.std) == (MEAN, STD)
    images, _ = data.train.__getitems__([SampleKey(0, epoch, 0) for epoch in range(200)])
    assert images.shape == (200, 3, 224, 224)
    steps = images[:, 0, 0, -1].int() - images[:, 0, 0, 0].int()
    assert 75 <= (steps < 0).sum() <= 125  # 100 expected, standard deviation 7
    assert steps.abs().unique().numel() > 50


def test_normalised_values_by_hand():
    """Black and white: (0 - 0.485) / 0.229 = -2.1179, (1 - 0.485) / 0.229 = 2.2489, and so on."""
    images = torch.tensor([0, 255], dtype=torch.uint8)[:, None, None, None].expand(2, 3, 1, 1)
    ready = prepare_images(images, torch.tensor(MEAN), torch.tensor(STD))[:, :, 0, 0]
    expected = [[-2.1179039, -2.0357143, -1.8044444], [2.2489083, 2.4285714, 2.64]]
    torch.testing.assert_close(ready, torch.tensor(expected), rtol=1e-6, atol=0)


def test_label_smoothing_of_1000_classes_by_hand():
    """Probability 0.9 for the label, 0.1 / 999 for the others: -log p = 0.1053605 and log 9990 = 9.2093399.

    0.9 * 0.1053605 + 0.1 * (0.1053605 + 999 * 9.2093399) / 1000 = 1.0148481.
    """
    logits = torch.full((1, 1000), math.log(0.1 / 999), dtype=torch.float64)
    logits[0, 17] = math.log(0.9)
    assert mixed_loss(logits, torch.tensor([17]), smoothing=0.1).item() == pytest.approx(1.0148481, rel=1e-6)


class Seen(nn.Module):
    """Keeps its input; answers with a parameter (N, classes), whatever it is."""

    def __init__(self):
        super().__init__()
        self.answers = nn.Parameter(torch.randn(8, 5, generator=torch.Generator().manual_seed(3)))

    def forward(self, images):
        self.images = images
        return self.answers


def test_a_step_of_the_advanced_recipe():
    """Normalised, then mixed with another image of the batch; share * L(label) + (1 - share) * L(partner's label)."""
    from attnorm.data import ImageData
    from attnorm.training.classification import Classification
    from attnorm.training.module import TrainModule

    config = TrainConfig(model="seen", output="unused", lr_base=0.1, mixup=0.2, smoothing=0.1, epochs=200)
    model, generator = Seen(), np.random.default_rng(0)
    images = generator.integers(0, 256, (8, 3, 4, 4), dtype=np.uint8)
    labels = generator.integers(0, 5, 8)
    data = ImageData(
        name="made_up",
        train=None,
        val=None,
        classes=tuple("abcde"),
        in_chans=3,
        image_size=4,
        mean=MEAN,
        std=STD,
        crop_pct=1.0,
        interpolation="bilinear",
    )
    module = TrainModule(model, config, Classification(config, data), iterations=10)
    loss = module.training_step((torch.from_numpy(images), torch.from_numpy(labels)), 7)
    mix = draw_mix(0.2, 8, (config.seed, 0, 7, 0))
    share, partner = mix.share, mix.partner.numpy()
    assert 0 < share < 1
    assert sorted(partner) == list(range(8))
    mean, std = (np.array(values)[:, None, None] for values in (MEAN, STD))
    normalised = (images / 255 - mean) / std
    mixed = share * normalised + (1 - share) * normalised[partner]
    torch.testing.assert_close(model.images, torch.from_numpy(mixed).float(), rtol=1e-5, atol=1e-5)
    answers = model.answers.detach().double().numpy()
    surprise = np.log(np.exp(answers).sum(1, keepdims=True)) - answers  # -log p, (N, classes)
    each = [0.9 * surprise[range(8), target] + 0.1 * surprise.mean(1) for target in (labels, labels[partner])]
    assert loss.item() == pytest.approx((share * each[0] + (1 - share) * each[1]).mean(), rel=1e-6)


# Progress p; from 5 epochs on 0.2 * (1 + cos(pi * (p - 5) / 115)). 115 = 5 * 23: the cosines of multiples of 36 degrees
# are halves of the golden ratio and of its inverse.
GOLDEN = (1 + math.sqrt(5)) / 2
RATES = [
    (0, 0, 0.4 / 5 / 1251),  # p = 1/1251
    (0, 1250, 0.08),  # p = 1
    (4, 1250, 0.4),  # p = 5, the peak
    (27, 1250, 0.2 * (1 + GOLDEN / 2)),  # p = 28, 36 degrees: 0.3618
    (50, 1250, 0.2 * (1 + 1 / GOLDEN / 2)),  # p = 51, 72 degrees: 0.2618
    (73, 1250, 0.2 * (1 - 1 / GOLDEN / 2)),  # p = 74: 0.1382
    (96, 1250, 0.2 * (1 - GOLDEN / 2)),  # p = 97: 0.0382
    (119, 1250, 0.0),  # p = 120, the last iteration
]


@pytest.mark.parametrize(("epoch", "iteration", "expected"), RATES)
def test_learning_rates_by_hand(epoch, iteration, expected):
    """Peak 0.1 * 8 * 128 / 256 = 0.4."""
    peak = NORMAL.peak_lr(8)
    assert peak == 0.4
    rate = learning_rate(epoch, iteration, ITERATIONS, lr=peak, epochs=120, warmup_epochs=5)
    assert rate == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_one_process_that_accumulates_has_the_rate_of_eight():
    """An optimizer step of 8 * 128 images has the same rate however the images come together."""
    assert Recipe(lr_base=0.1, batch_size=128, grad_accum_steps=8).peak_lr(1) == NORMAL.peak_lr(8)


def test_defaults_are_the_published_optimizer():
    """SGD with momentum 0.9 without Nesterov's form; 1e-4 on every parameter, those of AN included."""
    model = create_model("resnet8_cifar_an", num_classes=10)
    optimizer = create_optimizer(model, NORMAL, 0.4)
    assert isinstance(optimizer, torch.optim.SGD)
    decayed = [p for group in optimizer.param_groups if group["weight_decay"] == 1e-4 for p in group["params"]]
    assert {id(p) for p in decayed} == {id(p) for p in model.parameters()}
    assert {(group["momentum"], group["nesterov"], group["dampening"]) for group in optimizer.param_groups} == {
        (0.9, False, 0)
    }
    assert (NORMAL.smoothing, NORMAL.mixup, NORMAL.min_lr, NORMAL.interpolation) == (0, 0, 0, "bilinear")
