"""The data sets that are known by name: digits, Fashion-MNIST, CIFAR-10 and CIFAR-100; all held in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from attnorm.data.arrays import ArrayDataset, check_labels
from attnorm.data.config import DataConfig, ImageData
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


def _read(name: str, data_dir: str | None, part: str, config: DataConfig) -> tuple[Tensor, Tensor]:
    if name == "digits":
        return _digits(part)
    if data_dir is None:
        raise ConfigError(f"data_dir must name the folder that holds {name}; none was given")
    root = Path(data_dir)
    if not root.exists():
        raise DataError(f"data_dir must name the folder that holds {name}; {root} does not exist")
    from attnorm.data.idx import read_fashion_mnist

    return read_fashion_mnist(root, part)


def load_builtin(config: DataConfig, parts: Sequence[str]) -> ImageData:
    """Read a built-in set into memory; see `load_data`."""
    name, known = config.dataset, SETS[config.dataset]
    val_split = config.val_split or "test"
    if config.train_split != "train" or val_split not in ("test", "val", "train"):
        raise ConfigError(
            f'{name} has train_split "train" and val_split "test", "val" (a tenth of train, held out) or "train"; '
            f'got "{config.train_split}" and "{val_split}"'
        )
    size = config.image_size or known.image_size
    default = known.augment if config.augment == "default" else config.augment

    def dataset(part: str, split: str, augment: str) -> ArrayDataset | None:
        if part not in parts:
            return None
        images, labels = _read(name, config.data_dir, "test" if split == "test" else "train", config)
        source = f"{name} {split}"
        check_labels(labels, len(known.classes), source)
        if val_split == "val":
            kept, held_out = stratified_split(labels.numpy(), round(len(labels) * (1 - HELD_OUT)), SPLIT_SEED)
            index = torch.from_numpy(held_out if part == "val" else kept)
            images, labels = images[index], labels[index]
        images = _resize(images, size, config.interpolation)
        return ArrayDataset(images, labels, num_classes=len(known.classes), augment=augment, source=source)

    return ImageData(
        name=name,
        train=dataset("train", "train", default),
        val=dataset("val", val_split, "none"),
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
