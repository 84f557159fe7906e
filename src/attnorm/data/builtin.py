"""The data sets that are known by name: digits, Fashion-MNIST, CIFAR-10 and CIFAR-100; all held in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from attnorm.data.arrays import ArrayDataset, check_labels
from attnorm.data.cifar import has_val_folder, read_cifar
from attnorm.data.config import DataConfig, data_root, shortened
from attnorm.data.idx import read_fashion_mnist
from attnorm.data.image_data import ImageData
from attnorm.errors import ConfigError, DataError

SPLIT_SEED = 20240601  # of the digits' test part and of the held-out "val" part of every built-in set
DIGITS_TRAIN = 1000  # of 1,797
HELD_OUT = 0.1  # share of the training part that val_split="val" takes


@dataclass(frozen=True, kw_only=True)
class BuiltIn:
    """What is known of a built-in set beforehand. Mean and std are those of its training part."""

    classes: tuple[str, ...]
    in_chans: int
    image_size: int
    augment: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


_CIFAR100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""

SETS = {
    "digits": BuiltIn(
        classes=tuple("0123456789"), in_chans=1, image_size=8, augment="none", mean=(0.3060,), std=(0.3766,)
    ),
    "fashion_mnist": BuiltIn(
        classes=(
            "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"
        ),
        in_chans=1, image_size=28, augment="flip", mean=(0.2860,), std=(0.3530,),
    ),
    "cifar10": BuiltIn(
        classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        in_chans=3, image_size=32, augment="crop_flip",
        mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616),
    ),
    "cifar100": BuiltIn(
        classes=tuple(_CIFAR100.split()),
        in_chans=3, image_size=32, augment="crop_flip",
        mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762),
    ),
}  # fmt: skip


def stratified_split(labels: Sequence[int] | np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut range(len(labels)) into `count` indices and the rest, every class in proportion; both sorted.

    Each class gives floor(its share); what is then missing comes from the classes with the largest remainders.
    """
    labels = np.asarray(labels)
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, 0], dtype=np.uint64)))
    classes, sizes = np.unique(labels, return_counts=True)
    share = sizes * count / len(labels)
    quota = np.floor(share).astype(int)
    quota[np.argsort(quota - share, kind="stable")[: count - quota.sum()]] += 1
    chosen = [rng.permutation(np.flatnonzero(labels == c))[:q] for c, q in zip(classes, quota, strict=True)]
    first = np.sort(np.concatenate(chosen))
    return first, np.setdiff1d(np.arange(len(labels)), first)


def _digits(part: str) -> tuple[Tensor, Tensor]:
    """scikit-learn's 1,797 handwritten digits, 8x8, values 0 to 16 scaled to 0 to 255."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ConfigError("dataset digits comes with scikit-learn, which is not installed: pip install scikit-learn"
                          ) from error  # fmt: skip
    pixels, labels = (np.asarray(a) for a in load_digits(return_X_y=True))
    images = np.round(pixels.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    train, test = stratified_split(labels, DIGITS_TRAIN, SPLIT_SEED)
    index = train if part == "train" else test
    return torch.from_numpy(images[index]), torch.from_numpy(labels[index].astype(np.int64))


def _read(config: DataConfig, split: str) -> tuple[Tensor, Tensor]:
    """Read one of the set's own parts: images, uint8 (N, C, H, W), and labels, int64 (N,), not yet checked."""
    name = config.dataset
    if name == "digits":
        return _digits(split)
    root = data_root(config)
    if name == "fashion_mnist":
        return read_fashion_mnist(root, split)
    return read_cifar(root, config, SETS[name].classes, split)


def _read_part(config: DataConfig, part: str, split: str, val_split: str) -> tuple[Tensor, Tensor]:
    """Read "train" or "val"; with val_split "val" a tenth of the training images moves from the one to the other."""
    name, num_classes = config.dataset, len(SETS[config.dataset].classes)
    own_val = name.startswith("cifar") and has_val_folder(data_root(config))
    images, labels = _read(config, split if split != "val" or own_val else "train")
    check_labels(labels, num_classes, f"{name} {split}")
    if val_split == "val" and not own_val:
        kept, held_out = stratified_split(labels.numpy(), round(len(labels) * (1 - HELD_OUT)), SPLIT_SEED)
        index = torch.from_numpy(held_out if part == "val" else kept)
        images, labels = images[index], labels[index]
    return images, labels


def load_builtin(config: DataConfig, parts: Sequence[str], classes: Sequence[str] | None = None) -> ImageData:
    """Read a built-in set into memory; see `load_data`."""
    name, known = config.dataset, SETS[config.dataset]
    val_split = config.val_split or "test"
    if config.train_split != "train" or val_split not in ("test", "val", "train"):
        raise ConfigError(
            f'{name} has train_split "train" and val_split "test", "val" (a tenth of train, held out) or "train"; '
            f'got "{config.train_split}" and "{val_split}"'
        )
    if classes is not None and tuple(classes) != known.classes:
        raise DataError(
            f"the classes must be those of {name}, {shortened(known.classes)}; got {shortened(classes)}: use the data "
            "that the network was trained on"
        )
    size = config.image_size or known.image_size
    augment = known.augment if config.augment == "default" else config.augment
    datasets: dict[str, ArrayDataset] = {}
    for part, split in (("train", "train"), ("val", val_split)):
        if part in parts:
            images, labels = _read_part(config, part, split, val_split)
            datasets[part] = ArrayDataset(
                _resize(images, size, config.interpolation),
                labels,
                num_classes=len(known.classes),
                augment=augment if part == "train" else "none",
                source=f"{name} {split}",
            )
    return ImageData(
        name=name,
        train=datasets.get("train"),
        val=datasets.get("val"),
        classes=known.classes,
        in_chans=known.in_chans,
        image_size=size,
        mean=known.mean,
        std=known.std,
        crop_pct=1.0,
        interpolation=config.interpolation,
    )


def _resize(images: Tensor, size: int, interpolation: str) -> Tensor:
    """Resize (N, C, H, W) as `eval_transform` would, image by image."""
    if images.shape[-2:] == (size, size):
        return images
    from PIL import Image

    from attnorm.data.images import eval_transform

    transform = eval_transform(size, 1.0, interpolation, images.shape[1])
    arrays = images[:, 0].numpy() if images.shape[1] == 1 else images.permute(0, 2, 3, 1).numpy()
    return torch.stack([transform(Image.fromarray(a)) for a in arrays])
