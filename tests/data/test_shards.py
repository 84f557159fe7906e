"""WebDataset shards: the index against tarfile, its size, damage, and the order that reads a few shards at a time."""

import re
import tarfile
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import distributed

from attnorm.data import DataConfig, load_data, make_loader
from attnorm.data.shard_order import ShardWindows
from attnorm.data.shards import read_wds
from attnorm.errors import ConfigError, DataError
from tests.data.shard_files import index_in_process, write_image_shards, write_shard
from tests.fuzz import fuzzed

SIZES = [7, 10, 1, 12, 5, 10]


def image_data(root, **more):
    return load_data(DataConfig(dataset="wds:", data_dir=str(root), image_size=4, augment="none", **more), ("train",))


def test_the_index_says_what_tarfile_says(tmp_path):
    """Long names (which take headers of their own), folders, other members, and images of several formats."""
    rng = np.random.default_rng(0)
    for number, key in enumerate(("{:04d}", "folder/{:04d}", "x" * 150 + "{:04d}", "ü{:04d}")):
        samples = [
            {"json": b"{}", image: rng.bytes(rng.integers(1, 3000)), "cls": b"%d\n" % rng.integers(9)}
            for image in ("jpg", "png", "jpeg", "webp")
        ]
        write_shard(tmp_path / f"train-{number}.tar", samples, key=key)
    source = read_wds(tmp_path, "train")
    expected = []
    for shard in sorted(tmp_path.glob("*.tar")):
        with tarfile.open(shard) as tar:
            files = [(member.name, tar.extractfile(member).read()) for member in tar]
        expected += [(f"{shard}:{files[i + 1][0]}", files[i + 1][1], int(files[i + 2][1])) for i in range(0, 12, 3)]
    found = zip(source.names, map(source.open, range(16)), source.labels.tolist(), strict=True)
    assert [(name, file.read(), label) for name, file, label in found] == expected
    assert source.shards.tolist() == [0, 4, 8, 12, 16]
    (tmp_path / "train-1.tar").unlink()  # an image that has gone is reported, so it must have a name
    assert re.fullmatch(r".*train-1\.tar:\(image at byte \d+\)", source.names[4])


def test_the_index_takes_a_few_tens_of_bytes_per_image(tmp_path):
    samples = [{"jpg": b"x", "cls": b"0"}] * 1000
    for shard in range(5):
        write_shard(tmp_path / f"train-{shard}.tar", samples, shard * 1000)
    read_wds(tmp_path, "train")  # what is imported and cached once
    tracemalloc.start()
    source = read_wds(tmp_path, "train")
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held / len(source.labels) < 32  # 24 bytes, and the little that is there once


def images_or_problem(root):
    try:
        return len(read_wds(root, "train").labels)
    except DataError as error:
        return str(error)


def test_a_damaged_shard_is_refused_and_never_shortened(tmp_path, tally):
    """Cut off at every block, or with a block of zeros or noise in the place of any other: all images or an error."""
    write_shard(tmp_path / "whole.tar", [{"jpg": b"x" * 700, "cls": b"%d" % i} for i in range(4)])
    whole = (tmp_path / "whole.tar").read_bytes()
    noise = np.random.default_rng(0).bytes(512)
    refused = 0
    for start in range(0, len(whole), 512):
        for damaged in (
            whole[:start],
            *(whole[:start] + block + whole[start + 512 :] for block in (bytes(512), noise)),
        ):
            (tmp_path / "train.tar").write_bytes(damaged)
            tally["shards"] += 1
            # what is inside an image is not for the index to judge
            answer = images_or_problem(tmp_path)
            assert answer == 4 or re.fullmatch(r".*train\.tar(:| must).*", str(answer))
            refused += answer != 4
    assert refused > 4 * 2 * 3  # at least every damage to a header


@pytest.mark.parametrize("label", [b"", b"cat", b"9" * 40, b"1048576", b"9" * 5000])
def test_a_label_that_is_no_class_number(tmp_path, label):
    write_shard(tmp_path / "train.tar", [{"jpg": b"x", "cls": label}])
    with pytest.raises(DataError, match=r"train\.tar(: sample /000000 must have a label below 1048576| must be)"):
        read_wds(tmp_path, "train")


def test_several_processes_make_one_index(tmp_path):
    """Each reads its share of the shards; what is wrong with one is told by all."""
    write_image_shards(tmp_path, SIZES)
    write_image_shards(tmp_path, SIZES, "damaged")
    (tmp_path / "damaged-0003.tar").write_bytes(b"no tar" * 200)
    torch.multiprocessing.spawn(index_in_process, (2, f"{tmp_path}/meeting", str(tmp_path), str(tmp_path)), nprocs=2)
    alone = read_wds(tmp_path, "train")
    contents = [alone.open(i).read() for i in range(sum(SIZES))]
    for rank in range(2):
        found = np.load(tmp_path / f"{rank}.npz", allow_pickle=True)  # written by this test
        assert found["labels"].tolist() == alone.labels.tolist() == list(range(sum(SIZES)))
        assert found["starts"].tolist() == np.cumsum([0, *SIZES]).tolist()
        assert found["contents"].tolist() == contents
        assert "damaged-0003.tar must be an uncompressed tar" in (tmp_path / f"{rank}.txt").read_text()


def most_open(shards):
    """The largest number of shards open at a time, if each is open from its first image to its last."""
    uses = {shard: (shards.index(shard), len(shards) - shards[::-1].index(shard)) for shard in set(shards)}
    return max(sum(first <= place < last for first, last in uses.values()) for place in range(len(shards)))


@fuzzed(300)
@given(
    sizes=st.lists(st.integers(0, 12), min_size=1, max_size=12).filter(any),
    window=st.integers(1, 5),
    world_size=st.integers(1, 5),
    seed=st.integers(0, 2**32),
    epoch=st.integers(0, 1000),
)
def test_an_epoch_by_windows(tally, sizes, window, world_size, seed, epoch):
    tally["inputs"] += 1
    owner = [shard for shard, size in enumerate(sizes) for _ in range(size)]
    windows = ShardWindows(starts=np.cumsum([0, *sizes]), window=window)
    parts = [windows.order(seed, epoch, rank, world_size).tolist() for rank in range(world_size)]
    assert {len(part) for part in parts} == {len(owner) // world_size}
    images = [image for part in parts for image in part]
    assert len(images) == len(set(images))
    assert set(images) <= set(range(len(owner)))
    opened = [[owner[image] for image in part] for part in parts if part]
    assert all(most_open(shards) <= window for shards in opened)
    # laid end to end and cut at world_size - 1 places, so many shards more are read than there are
    assert sum(len(set(shards)) for shards in opened) <= len(sizes) + world_size - 1


def test_epochs_differ_and_every_image_has_its_turn_anywhere():
    """Places of one image over many epochs: uniform over the epoch, whether or not its shard is cut."""
    windows = ShardWindows(starts=np.arange(0, 46, 9), window=2)
    count, epochs = 45, 4000
    orders = np.stack([np.concatenate([windows.order(0, e, rank, 4) for rank in range(4)]) for e in range(epochs)])
    left_out = epochs - np.bincount(orders.ravel(), minlength=count)
    share = count % 4 / count  # 1 of 45 images has no place
    assert np.abs(left_out / epochs - share).max() < 5 * np.sqrt(share / epochs)
    half = np.array([(orders[:, : orders.shape[1] // 2] == image).sum() for image in range(count)])
    assert np.abs(half / epochs - (1 - share) / 2).max() < 5 * np.sqrt(0.25 / epochs)
    assert len({tuple(order) for order in orders}) == epochs


def batches_of(loader, number=None):
    if number is not None:
        loader.sampler.set_epoch(number)
    return [(images.clone(), labels.tolist()) for images, labels in loader]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_resume_within_a_shard_and_at_its_end(monkeypatch, tmp_path, world_size):
    """From every batch of an epoch, with the reading done here; by two workers from some."""
    write_image_shards(tmp_path, SIZES)
    data = image_data(tmp_path, shard_window=1).train
    owner = np.repeat(np.arange(len(SIZES)), SIZES)
    places = {"within": 0, "at the end": 0}
    for rank in range(world_size):
        monkeypatch.setattr(distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(distributed, "get_rank", lambda rank=rank: rank)
        monkeypatch.setattr(distributed, "get_world_size", lambda: world_size)
        make = {"batch_size": 1 if world_size > 1 else 3, "train": True, "seed": 5}
        whole = batches_of(make_loader(data, **make), 2)
        shards = [owner[labels[-1]] for _, labels in whole]
        ends = [i + 1 for i in range(len(whole) - 1) if shards[i] != shards[i + 1]]
        some = {0: range(len(whole) + 1), 2: (ends[0], ends[0] + 1)}
        for workers, done in ((workers, done) for workers, counts in some.items() for done in counts):
            loader = make_loader(data, **make, workers=workers)
            loader.sampler.set_epoch(2)
            iterator = iter(loader)
            for _ in range(done):
                next(iterator)
            state = loader.state_dict()
            resumed = make_loader(data, **make, workers=workers)
            resumed.load_state_dict(state)
            rest = batches_of(resumed)
            assert [labels for _, labels in rest] == [labels for _, labels in whole[done:]]
            assert all(torch.equal(a, b) for (a, _), (b, _) in zip(rest, whole[done:], strict=True))
            places["at the end" if done in ends else "within"] += 1
    assert min(places.values()) > 2


def test_settings_of_another_order_are_refused(tmp_path):
    write_image_shards(tmp_path, SIZES)
    loader = make_loader(image_data(tmp_path, shard_window=2).train, batch_size=3, train=True)
    next(iter(loader))
    for window in (None, 3):
        other = make_loader(image_data(tmp_path, shard_window=window).train, batch_size=3, train=True)
        other.load_state_dict(loader.state_dict())
        with pytest.raises(DataError, match="with the same shard_window: the checkpoint has 2"):
            next(iter(other))
    with pytest.raises(ConfigError, match="shard_window must be at least 1 shard; got 0"):
        DataConfig(dataset="wds:", shard_window=0)
    with pytest.raises(ConfigError, match=r"shard_window is for shards \(dataset wds:\); got dataset tar:"):
        DataConfig(dataset="tar:", shard_window=4)
