"""timm's policies with the sample's own random numbers, and where they and random erasing act."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.auto_augment import rand_augment_transform

from attnorm.data import DataConfig, load_data, make_loader
from attnorm.data.augment import SampleKey, sample_generator
from attnorm.data.auto_augment import Policy
from attnorm.errors import ConfigError

MEAN = (0.5, 0.4, 0.3)


def policy(name="rand-m9-mstd0.5") -> Policy:
    return Policy(name, image_size=32, resample=Image.Resampling.BICUBIC, mean=MEAN)


@pytest.fixture(scope="module")
def photo():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((32, 32), Image.Resampling.BILINEAR)


def test_an_image_is_what_timm_makes_of_it_with_the_same_numbers(photo):
    """The settings are those of timm's own script: shifts up to 0.45 of the side, the mean as the filling."""
    settings = {"translate_const": 14, "img_mean": (128, 102, 76), "interpolation": Image.Resampling.BICUBIC}
    theirs = rand_augment_transform("rand-m9-mstd0.5", settings)
    changed = 0
    for sample in range(20):
        ours = np.asarray(policy()(photo, sample_generator(SampleKey(sample, 0, 0))))
        rng = sample_generator(SampleKey(sample, 0, 0))
        random.seed(int(rng.integers(2**63)))
        np.random.seed(int(rng.integers(2**32)))  # noqa: NPY002
        assert np.array_equal(ours, np.asarray(theirs(photo)))
        changed += not np.array_equal(ours, np.asarray(photo))
    assert changed > 10


@pytest.mark.parametrize("name", ["rand-m7-mstd0.5-inc1", "augmix-m3", "original-mstd0.5", "v0r", "3a"])
def test_global_random_states_neither_matter_nor_move(photo, name):
    """Every policy of timm draws from `random` and NumPy's global state alone; both are put back."""
    results = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        images = [policy(name)(photo, sample_generator(SampleKey(sample, 0, 0))) for sample in range(8)]
        results.append(np.stack([np.asarray(image) for image in images]))
        after = random.random(), np.random.random()  # noqa: NPY002
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        assert after == (random.random(), np.random.random())  # noqa: NPY002
    assert np.array_equal(*results)
    assert not np.array_equal(results[0], np.broadcast_to(np.asarray(photo), results[0].shape))


@pytest.mark.parametrize("name", ["rand-x9", "rand-mx9", "augmix-q3", "original-m3", "rand-m9.5"])
def test_what_timm_does_not_understand_is_said_in_one_line(name):
    with pytest.raises(ConfigError, match=f'aa must be a policy of timm .* got "{name}"'):
        policy(name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"aa": "random-m9"}, "aa must be a policy of timm"),
        ({"reprob": 1.5}, "reprob must be at least 0 and at most 1"),
        ({"reprob": 0.1, "augment": "flip"}, "augment rrc_flip; got dataset folder with augment flip"),
        ({"aa": "rand-m9", "dataset": "digits"}, "got dataset digits"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        DataConfig(**{"dataset": "folder", **changes})


def batches(folder, **changes):
    config = DataConfig(dataset="folder", data_dir=str(folder), image_size=24, **changes)
    data = load_data(config)
    workers = 2 if changes else 0
    loader = make_loader(data.train, batch_size=3, train=True, seed=4, workers=workers)
    loader.sampler.set_epoch(1)
    return data, torch.cat([images for images, _ in loader])


def test_images_do_not_depend_on_the_number_of_workers(image_folder):
    """Workers inherit the states of `random` and NumPy; the images come from the samples' own streams."""
    settings = {"aa": "rand-m9-mstd0.5", "reprob": 0.5}
    data, several = batches(image_folder, **settings)
    loader = make_loader(data.train, batch_size=3, train=True, seed=4)
    loader.sampler.set_epoch(1)
    assert torch.equal(several, torch.cat([images for images, _ in loader]))
    loader.sampler.set_epoch(2)
    assert not torch.equal(several, torch.cat([images for images, _ in loader]))


def test_erasing_fills_with_the_mean_and_spares_the_evaluation(image_folder):
    """ImageNet's mean in 8 bits is (124, 116, 104); the images here are plain red and blue, without any green."""
    data, train = batches(image_folder, reprob=1.0)
    erased = (train == torch.tensor([124, 116, 104], dtype=torch.uint8).view(3, 1, 1)).all(1).flatten(1)
    assert all(0.01 < share < 0.36 for share in erased.float().mean(1).tolist())
    assert torch.equal(train[:, 1].flatten(1) > 0, erased)
    val = torch.cat([images for images, _ in make_loader(data.val, batch_size=4, train=False)])
    assert not val[:, 1].any()
