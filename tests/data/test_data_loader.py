"""Batches: each sample once, exact resume in mid-epoch, parts for several processes, speed."""

import time

import pytest
import torch
from torch import distributed

from attnorm.data import DataConfig, load_data, make_loader
from attnorm.data.arrays import ArrayDataset
from attnorm.errors import ConfigError, DataError


def dataset(count=50, augment="crop_flip"):
    """Images of noise; the label is the sample's number."""
    images = torch.randint(256, (count, 1, 6, 6), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    return ArrayDataset(images, torch.arange(count), num_classes=count, augment=augment, source="noise")


def train_loader(data=None, **more):
    return make_loader(data or dataset(), **{"batch_size": 8, "train": True, "seed": 3, **more})


def epoch(loader, number):
    loader.sampler.set_epoch(number)
    return [(images.clone(), labels.tolist()) for images, labels in loader]


def assert_same(ours, expected):
    assert [labels for _, labels in ours] == [labels for _, labels in expected]
    for (a, _), (b, _) in zip(ours, expected, strict=True):
        assert torch.equal(a, b)


def test_each_epoch_is_another_permutation():
    loader = train_loader(drop_last=False)
    epochs = [epoch(loader, i) for i in range(2)]
    orders = [[label for _, labels in e for label in labels] for e in epochs]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert orders[0] != orders[1]
    assert_same(epoch(loader, 0), epochs[0])
    assert_same(epoch(train_loader(drop_last=False), 1), epochs[1])
    assert [labels for _, labels in epoch(train_loader(seed=4), 0)] != [labels for _, labels in epochs[0][:6]]


def test_training_leaves_an_incomplete_batch_out_and_evaluation_does_not():
    assert [len(labels) for _, labels in epoch(train_loader(), 0)] == [8] * 6
    loader = make_loader(dataset(), batch_size=8, train=False)
    batches = list(loader)
    assert torch.cat([labels for _, labels in batches]).tolist() == list(range(50))
    # evaluation sees the images themselves, whatever the augmentation
    assert torch.equal(torch.cat([images for images, _ in batches]), dataset().images)


def test_workers_change_nothing():
    plain = train_loader()
    expected = [epoch(plain, i) for i in range(3)]
    with_workers = train_loader(workers=2)
    for i in range(3):  # persistent workers must learn of the new epoch
        assert_same(epoch(with_workers, i), expected[i])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("done", [0, 1, 4, 6])
@pytest.mark.parametrize("names_epoch", [False, True])
def test_resume_in_mid_epoch_gives_exactly_the_remaining_batches(workers, done, names_epoch):
    expected = epoch(train_loader(), 2)
    loader = train_loader(workers=workers)
    loader.sampler.set_epoch(2)
    iterator = iter(loader)
    for _ in range(done):
        next(iterator)
    state = loader.state_dict()
    resumed = train_loader(workers=workers)
    if names_epoch:  # as Lightning does before it asks for the first batch
        resumed.sampler.set_epoch(2)
    resumed.load_state_dict(state)
    assert_same([(images, labels.tolist()) for images, labels in resumed], expected[done:])
    assert_same(epoch(resumed, 3), epoch(train_loader(), 3))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_state_from_an_epochs_end_does_not_empty_the_next(workers):
    """Lightning writes a checkpoint after the last batch; its loader has nothing left, the next epoch has all."""
    loader = train_loader(workers=workers)
    loader.sampler.set_epoch(0)
    iterator = iter(loader)
    for _ in range(6):
        next(iterator)
    resumed = train_loader(workers=workers)
    resumed.load_state_dict(loader.state_dict())
    assert_same(epoch(resumed, 1), epoch(train_loader(), 1))


def test_a_state_of_another_run_is_refused():
    loader = train_loader()
    next(iter(loader))
    for other, message in ((train_loader(seed=4), "same seed"), (train_loader(dataset(60)), "same count")):
        other.load_state_dict(loader.state_dict())
        with pytest.raises(DataError, match=message):
            next(iter(other))


def test_lightning_names_the_epoch():
    from lightning.fabric.utilities.data import _set_sampler_epoch

    loader = train_loader()
    _set_sampler_epoch(loader, 5)
    assert_same([(i, y.tolist()) for i, y in loader], epoch(train_loader(), 5))


def as_process(monkeypatch, rank, world_size):
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_rank", lambda: rank)
    monkeypatch.setattr(distributed, "get_world_size", lambda: world_size)


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_processes_share_the_samples(monkeypatch, world_size):
    seen, steps, evaluated = [], [], []
    images = {}
    for rank in range(world_size):
        as_process(monkeypatch, rank, world_size)
        batches = epoch(train_loader(batch_size=4, drop_last=False), 1)
        steps.append(len(batches))
        seen += [label for _, labels in batches for label in labels]
        images |= {y: x for xs, labels in batches for x, y in zip(xs, labels, strict=True)}
        evaluated += [y for _, labels in make_loader(dataset(), batch_size=4, train=False) for y in labels.tolist()]
    assert len(set(steps)) == 1
    assert len(seen) == len(set(seen)) == 50 // world_size * world_size
    assert sorted(evaluated) == list(range(50))  # each once: no padding
    # a sample's augmentation does not depend on the process that reads it
    monkeypatch.undo()
    for xs, labels in epoch(train_loader(), 1):
        assert all(torch.equal(images[y], x) for x, y in zip(xs, labels, strict=True) if y in images)


def test_more_processes_than_samples(monkeypatch):
    counts = []
    for rank in range(4):
        as_process(monkeypatch, rank, 4)
        counts.append(sum(len(y) for _, y in make_loader(dataset(3), batch_size=2, train=False)))
    assert counts == [1, 1, 1, 0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"workers": -1}, "workers at least 0"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"batch_size": 51}, "batch_size must be at most 50"),
    ],
)
def test_settings_that_cannot_work(settings, message):
    with pytest.raises(ConfigError, match=message):
        train_loader(**settings)


def test_batches_are_uint8_and_int64():
    images, labels = next(iter(make_loader(load_data(DataConfig()).train, batch_size=16, train=True)))
    assert (images.dtype, images.shape) == (torch.uint8, (16, 1, 8, 8))
    assert (labels.dtype, labels.shape) == (torch.int64, (16,))


@pytest.mark.parametrize("labels", [[0, 1, 5], [0, -1, 2]])
def test_labels_out_of_range(labels):
    images = torch.zeros(3, 1, 4, 4, dtype=torch.uint8)
    with pytest.raises(DataError, match="labels must be 0 to 4; 1 of 3 are not"):
        ArrayDataset(images, torch.tensor(labels), num_classes=5, augment="none", source="here")
    with pytest.raises(DataError, match="at least one image"):
        ArrayDataset(images[:0], torch.tensor([]), num_classes=5, augment="none", source="here")


def test_an_epoch_the_size_of_fashion_mnist_takes_less_than_two_seconds():
    # 0.3 s on one core of a 2-core machine; per-image Python would take some 6 s
    images = torch.zeros(60_000, 1, 28, 28, dtype=torch.uint8)
    data = ArrayDataset(images, torch.zeros(60_000).long(), num_classes=10, augment="flip", source="blank")
    loader = train_loader(data, batch_size=128)
    start = time.process_time()
    assert sum(1 for _ in loader) == 60_000 // 128
    assert time.process_time() - start < 2
