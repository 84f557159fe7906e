"""The built-in sets against scikit-learn, torchvision's readers and files written by hand."""

import gzip
import hashlib
import pickle
import struct
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from attnorm.data import DataConfig, load_data
from attnorm.data.builtin import SETS, stratified_split
from attnorm.errors import ConfigError, DataError


def test_digits_are_scikit_learns_and_each_is_used_once():
    from sklearn.datasets import load_digits

    data = load_data(DataConfig())
    assert (len(data.train), len(data.val), data.in_chans, data.image_size) == (1000, 797, 1, 8)
    pixels, labels = load_digits(return_X_y=True)
    original = sorted((*np.rint(p * 255 / 16).astype(int), y) for p, y in zip(pixels, labels, strict=True))
    both = [(part.images, part.labels) for part in (data.train, data.val)]
    ours = sorted((*i.flatten().tolist(), y) for images, ys in both for i, y in zip(images, ys.tolist(), strict=True))
    assert ours == original
    # stratified: each class's share of the training part is its share of the whole, to one image
    share = np.bincount(labels) * 1000 / 1797
    assert np.all(np.abs(np.bincount(data.train.labels) - share) < 1)


def test_digits_split_is_fixed():
    # Results are compared over years: another split would change them all.
    labels = load_data(DataConfig(), parts=("train",)).train.images.numpy().tobytes()
    assert hashlib.sha256(labels).hexdigest()[:16] == "ffdf430f4cf1cf01"


def test_digits_mean_and_std_are_those_of_the_training_part():
    images = load_data(DataConfig(), parts=("train",)).train.images.double() / 255
    assert SETS["digits"].mean == (round(images.mean().item(), 4),)
    assert SETS["digits"].std == (round(images.std(correction=0).item(), 4),)


def test_digits_resized_by_nearest_repeat_their_pixels():
    small = load_data(DataConfig(), parts=("val",)).val.images
    large = load_data(DataConfig(image_size=16, interpolation="nearest"), parts=("val",)).val.images
    assert torch.equal(large, small.repeat_interleave(2, -1).repeat_interleave(2, -2))


def test_held_out_part_is_taken_from_training():
    data = load_data(DataConfig(val_split="val"))
    whole = load_data(DataConfig(), parts=("train",)).train
    assert (len(data.train), len(data.val)) == (900, 100)
    rows = [i.numpy().tobytes() for part in (data.train, data.val) for i in part.images]
    assert sorted(rows) == sorted(i.numpy().tobytes() for i in whole.images)
    assert torch.bincount(data.val.labels).tolist() == pytest.approx([10] * 10, abs=1)


def test_parts_not_asked_for_are_not_read():
    data = load_data(DataConfig(), parts=("val",))
    assert data.train is None
    assert len(data.val) == 797


def test_stratified_split_by_hand():
    labels = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    first, rest = stratified_split(labels, 4, seed=0)
    assert np.bincount(labels[first]).tolist() == [2, 1, 1]
    assert sorted([*first, *rest]) == list(range(8))


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


@pytest.fixture
def fashion(tmp_path):
    """Four idx files: 20 training and 10 test images of random pixels; label i % 10."""
    rng = np.random.default_rng(0)
    for prefix, count in (("train", 20), ("t10k", 10)):
        pixels = rng.integers(0, 256, (count, 28, 28))
        (tmp_path / f"{prefix}-images-idx3-ubyte").write_bytes(idx(pixels))
        (tmp_path / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(np.arange(count) % 10))
    return tmp_path


def fashion_config(folder, **more) -> DataConfig:
    return DataConfig(dataset="fashion_mnist", data_dir=str(folder), **more)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("place", ["", "raw", "FashionMNIST/raw"])
def test_idx_files_equal_torchvisions_reading(fashion, tmp_path_factory, place, packed):
    from torchvision.datasets.mnist import read_image_file, read_label_file

    root = tmp_path_factory.mktemp("other")
    (root / place).mkdir(parents=True, exist_ok=True)
    for file in fashion.iterdir():
        content = file.read_bytes()
        name = root / place / (file.name + ".gz" * packed)
        name.write_bytes(gzip.compress(content) if packed else content)
    data = load_data(fashion_config(root))
    assert torch.equal(data.train.images[:, 0], read_image_file(str(fashion / "train-images-idx3-ubyte")))
    assert torch.equal(data.val.labels, read_label_file(str(fashion / "t10k-labels-idx1-ubyte")))


def overwrite(path, position, value):
    content = bytearray(path.read_bytes())
    content[position] = value
    path.write_bytes(bytes(content))


DAMAGE = {
    "truncated": (lambda f: f.write_bytes(f.read_bytes()[:-1]), "train-images", "must hold 15680 bytes"),
    "too long": (lambda f: f.write_bytes(f.read_bytes() + b"x"), "train-images", "it holds 15681"),
    "empty": (lambda f: f.write_bytes(b""), "train-images", "begins with 00000803"),
    "labels for images": (lambda f: f.write_bytes(idx(np.zeros(20))), "train-images", "begins with 00000803"),
    "another size": (lambda f: f.write_bytes(idx(np.zeros((20, 32, 32)))), "train-images", "they are 32x32"),
    "another count": (lambda f: f.write_bytes(idx(np.zeros(19))), "train-labels", "got 20 and 19"),
    "label 10": (lambda f: overwrite(f, 8 + 3, 10), "t10k-labels", r"1 of 10 are not \(image 3 has 10\)"),
    "missing": (lambda f: f.unlink(), "t10k-images", "t10k-images-idx3-ubyte.*it is in none"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_idx_files_are_refused_in_one_line(fashion, damage):
    change, file, message = DAMAGE[damage]
    change(next(fashion.glob(f"{file}*")))
    with pytest.raises(DataError, match=message) as caught:
        load_data(fashion_config(fashion))
    assert "\n" not in str(caught.value)


def test_truncated_gz_is_refused(fashion):
    file = fashion / "train-images-idx3-ubyte"
    (fashion / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(file.read_bytes())[:-20])
    file.unlink()
    with pytest.raises(DataError, match=r"must be a complete file"):
        load_data(fashion_config(fashion))


def test_real_fashion_mnist_has_the_published_mean_and_std(shared_data):
    data = load_data(fashion_config(shared_data / "fashion_mnist"))
    assert (len(data.train), len(data.val)) == (60000, 10000)
    images = data.train.images.float() / 255
    assert data.mean == (round(images.mean().item(), 4),)
    assert data.std == (round(images.std().item(), 4),)
    assert torch.bincount(data.train.labels).tolist() == [6000] * 10


def cifar_batches(name, count=20):
    rng = np.random.default_rng(1)
    key = {"cifar10": b"labels", "cifar100": b"fine_labels"}[name]
    files = {"cifar10": [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"], "cifar100": ["train", "test"]}[name]

    def batch():
        return {b"data": rng.integers(0, 256, (count, 3072), dtype=np.uint8), key: [i % 10 for i in range(count)]}

    return {file: batch() for file in files}


FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("packed", [False, True])
def test_cifar_archives(tmp_path, name, packed, protocol):
    batches = cifar_batches(name)
    folder = tmp_path / FOLDERS[name]
    folder.mkdir()
    for file, batch in batches.items():
        (folder / file).write_bytes(pickle.dumps(batch, protocol=protocol))
    if packed:
        with tarfile.open(tmp_path / (FOLDERS[name].removesuffix("-batches-py").removesuffix("-python")
                                      + "-python.tar.gz"), "w:gz") as tar:  # fmt: skip
            tar.add(folder, FOLDERS[name])
        for file in folder.iterdir():
            file.unlink()
    data = load_data(DataConfig(dataset=name, data_dir=str(tmp_path)))
    train = [b for f, b in batches.items() if "test" not in f]
    assert np.array_equal(data.train.images.flatten(1), np.concatenate([b[b"data"] for b in train]))
    # row-major planes R, G, B: the 33rd number is the red of row 1, column 0
    assert data.train.images[0, 0, 1, 0] == train[0][b"data"][0, 32]
    assert data.train.labels[:11].tolist() == [*range(10), 0]
    assert len(data.classes) == {"cifar10": 10, "cifar100": 100}[name]
    assert list(data.classes) == sorted(data.classes)


class Evil:
    def __reduce__(self):
        return (open, ("hacked", "w"))


def test_cifar_pickle_that_runs_code_does_not(tmp_path, monkeypatch):
    """Beside the images it is passed over; in the place of them it is refused."""
    monkeypatch.chdir(tmp_path)
    for file, batch in cifar_batches("cifar10").items():
        (tmp_path / file).write_bytes(pickle.dumps({**batch, b"more": Evil()}, protocol=2))
    config = DataConfig(dataset="cifar10", data_dir=str(tmp_path))
    assert len(load_data(config).train) == 100
    (tmp_path / "data_batch_3").write_bytes(pickle.dumps({**batch, b"data": Evil()}, protocol=2))
    with pytest.raises(DataError, match="data_batch_3 must hold data, an array of unsigned bytes, and labels, a list"):
        load_data(config)
    assert not (tmp_path / "hacked").exists()


def test_cifar_label_out_of_range_and_wrong_shape(tmp_path):
    batches = cifar_batches("cifar10")
    batches["data_batch_3"][b"labels"][7] = -1
    for file, batch in batches.items():
        (tmp_path / file).write_bytes(pickle.dumps(batch))
    config = DataConfig(dataset="cifar10", data_dir=str(tmp_path))
    with pytest.raises(DataError, match=r"labels must be 0 to 9; 1 of 100 are not \(image 47 has -1\)"):
        load_data(config)
    batches["data_batch_3"][b"labels"].pop()
    (tmp_path / "data_batch_3").write_bytes(pickle.dumps(batches["data_batch_3"]))
    with pytest.raises(DataError, match=r"uint8 data of 19 x 3072; got uint8 \(20, 3072\)"):
        load_data(config)


@pytest.fixture
def cifar_folder(tmp_path):
    for split in ("train", "test"):
        for label, name in enumerate(SETS["cifar10"].classes):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for i in range(2):
                Image.new("RGB", (64, 64) if i else (32, 32), (label, i, 7)).save(folder / f"{i}.png")
    return tmp_path


def test_cifar_from_image_folders_is_decoded_once(cifar_folder):
    config = DataConfig(dataset="cifar10", data_dir=str(cifar_folder))
    data = load_data(config)
    assert data.train.images.shape == (20, 3, 32, 32)
    assert data.train.images[:, :, 5, 9].tolist() == [[label, i, 7] for label in range(10) for i in range(2)]
    file = cifar_folder / "train" / "cat" / "0.png"
    stat = file.stat()
    assert torch.equal(load_data(config).train.images, data.train.images)
    # another time stamp: the cache no longer holds
    Image.new("RGB", (32, 32), (99, 99, 99)).save(file)
    import os

    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert load_data(config).train.images[6].unique().tolist() == [99]


def test_cifar_folder_names_what_is_wrong(cifar_folder, caplog):
    config = DataConfig(dataset="cifar10", data_dir=str(cifar_folder), max_bad_images=1)
    (cifar_folder / "train" / "cat" / "0.png").write_bytes(b"no image")
    data = load_data(config)
    assert data.train.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, *(label for label in range(4, 10) for _ in range(2))]
    assert "cat/0.png" in caplog.text
    (cifar_folder / "train" / "dog" / "1.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"at most 1 images .*cat/0\.png, .*dog/1\.png"):
        load_data(config)
    (cifar_folder / "train" / "truck").rename(cifar_folder / "train" / "lorry")
    with pytest.raises(DataError, match=r"wrong or missing: lorry, truck"):
        load_data(config)


def test_real_cifar_images_have_the_known_mean(shared_data, tmp_path):
    (tmp_path / "train").mkdir()
    with tarfile.open(shared_data / "cifar10_jpeg" / "val.tar.xz", "r:xz") as tar:
        # 50 of each class of 500 are enough for the mean (and take a tenth of the time)
        tar.extractall(tmp_path, [m for i, m in enumerate(tar) if i % 10 == 0 and m.isfile()], filter="data")
    data = load_data(DataConfig(dataset="cifar10", data_dir=str(tmp_path)), parts=("val",))
    assert len(data.val) == pytest.approx(500, abs=2)
    # the mean of 500 images has a standard error of about 0.006
    assert torch.allclose((data.val.images / 255).mean((0, 2, 3)), torch.tensor(data.mean), atol=0.025)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dataset": "imagenet21k"}, "dataset must be one of digits, fashion_mnist"),
        ({"augment": "cutout"}, "augment must be one of"),
        ({"interpolation": "lanczos"}, "interpolation must be one of"),
        ({"crop_pct": 0.0}, "crop_pct must be above 0"),
        ({"image_size": 0}, "image_size must be at least 1"),
        ({"max_bad_images": -1}, "max_bad_images must be at least 0"),
        ({"dataset": "tfds:mnist"}, "random access"),
    ],
)
def test_settings_that_cannot_be_meant(settings, message):
    with pytest.raises(ConfigError, match=message):
        DataConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"dataset": "fashion_mnist"}, ConfigError, "none was given"),
        ({"dataset": "cifar10", "data_dir": "nowhere"}, DataError, "nowhere does not exist"),
        ({"val_split": "validation"}, ConfigError, 'val_split "test", "val"'),
        ({"train_split": "test"}, ConfigError, 'train_split "train"'),
        ({"augment": "rrc_flip"}, ConfigError, "is for files"),
    ],
)
def test_data_that_cannot_be_read(settings, error, message):
    with pytest.raises(error, match=message):
        load_data(DataConfig(**settings))


def test_empty_folder_and_other_classes(tmp_path):
    with pytest.raises(DataError, match="is empty"):
        load_data(DataConfig(dataset="cifar10", data_dir=str(tmp_path)))
    with pytest.raises(DataError, match="classes must be those of digits"):
        load_data(DataConfig(), classes=("cat", "dog"))
