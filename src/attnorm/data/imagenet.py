"""ImageNet-1k and the data sets that measure networks trained on it: other labels, other images, other questions.

Labels count in ImageNet's 1000 classes throughout, whatever part of them a data set has; `ImageData.outputs` says which
of them may answer.

| name | source | protocol |
|---|---|---|
| imagenet_real | Beyer et al., arXiv 2006.07159 | validation images, each with a set of right labels (some empty) |
| imagenet_v2_* | Recht et al., arXiv 1902.10811 | new images of the 1000 classes |
| imagenet_sketch | Wang et al., arXiv 1905.13549 | sketches of the 1000 classes |
| imagenet_a | Hendrycks et al., arXiv 1907.07174 | hard photographs of 200 classes, which alone may answer |
| imagenet_r | Hendrycks et al., arXiv 2006.16241 | renditions of 200 classes, which alone may answer |
| imagenet_o | Hendrycks et al., arXiv 1907.07174 | images of none of the 1000 classes, to be told from val's |

ImageNet-O has no accuracy: its folders name the classes that networks take its images for. A published top-1 "on
ImageNet-O" comes of treating those as right answers, and is not comparable with what is measured here.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from attnorm.data.config import IMAGENET_EVAL, DataConfig, data_root, shortened
from attnorm.data.filedata import FileDataset
from attnorm.data.folder import assemble, class_folders, file_dataset, image_data
from attnorm.data.image_data import ImageData
from attnorm.data.imagenet_files import (
    find_val,
    path_source,
    read_class_folders,
    read_val,
    real_labels,
    subset_wnids,
    val_images,
    wnids,
)
from attnorm.errors import ConfigError, DataError

log = logging.getLogger("attnorm.data")

SUBSET = 200  # classes that ImageNet-A, -R and -O have


@dataclass(frozen=True)
class Published:
    """How a data set is published: its images, and names of its folder as it is unpacked."""

    images: int
    folders: tuple[str, ...] = ()


def _v2(*names: str) -> Published:
    return Published(10_000, tuple(f"imagenetv2-{name}{end}" for name in names for end in ("-format-val", "")))


PUBLISHED = {
    "imagenet": Published(50_000),
    "imagenet_real": Published(50_000),
    "imagenet_v2_matched_frequency": _v2("matched-frequency"),
    "imagenet_v2_threshold0.7": _v2("threshold0.7"),
    "imagenet_v2_topimages": _v2("topimages", "top-images"),
    "imagenet_sketch": Published(50_889, ("sketch", "imagenet-sketch", "ImageNet-Sketch")),
    "imagenet_a": Published(7_500, ("imagenet-a",)),
    "imagenet_r": Published(30_000, ("imagenet-r",)),
    "imagenet_o": Published(2_000 + 50 * SUBSET, ("imagenet-o",)),  # with the validation images of its classes
}


class LabelSets(Dataset[tuple[Tensor, Tensor]]):
    """Images of which each has several right labels, or one.

    Args:
        images: gives an image's own number as its label.
        sets: the right labels of each image, at least one.
    """

    def __init__(self, images: FileDataset, sets: Sequence[Sequence[int]]) -> None:
        longest = max(map(len, sets))
        self.images = images
        self.sets = torch.tensor([[*labels, *[-1] * (longest - len(labels))] for labels in sets])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: int) -> tuple[Tensor, Tensor]:
        image, number = self.images[key]
        return image, self.sets[number]

    def __getitems__(self, keys: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Images, uint8 (B, 3, size, size), and their right labels, int64 (B, S), filled up with -1."""
        images, numbers = self.images.__getitems__(keys)
        return images, self.sets[numbers]


def load_imagenet(
    config: DataConfig, parts: Sequence[str], classes: Sequence[str] | None = None, *, id_dir: str | None = None
) -> ImageData:
    """Read ImageNet or one of its variants; see `load_data`.

    Args:
        config: names the data set and its folder.
        parts: "train" and "val" of imagenet, "val" of the variants.
        classes: the wnids by which labels are numbered, among them ImageNet's. None: ImageNet's, sorted.
        id_dir: see `load_data`.
    """
    if config.dataset in IMAGENET_EVAL and "train" in parts:
        raise ConfigError(f"{config.dataset} is made to be evaluated on, not trained on; train on dataset imagenet")
    classes = wnids() if classes is None else tuple(classes)
    if not set(wnids()) <= set(classes):
        raise DataError(f"the classes must be ImageNet's {len(wnids())} wnids; got {shortened(classes, 3)}")
    root = data_root(config)
    match config.dataset:
        case "imagenet":
            readers = {
                "train": partial(read_class_folders, root / config.train_split, _identity(wnids()), "imagenet"),
                "val": partial(read_val, root, config.val_split, wnids()),
            }
            data = assemble(config, parts, classes, readers, wnids)
        case "imagenet_real":
            data = _load_real(config, root, classes)
        case "imagenet_o":
            data = _load_outliers(config, root, classes, id_dir)
        case _:
            data = _load_variant(config, root, classes)
    if data.val is not None and (count := len(data.val) + data.left_out) != PUBLISHED[config.dataset].images:
        log.warning(
            "%s has %d images here and %d as it is published: results are not comparable with published ones",
            *(config.dataset, count, PUBLISHED[config.dataset].images),
        )
    return data


def _load_variant(config: DataConfig, root: Path, classes: tuple[str, ...]) -> ImageData:
    expected = _identity(wnids())
    if config.dataset.startswith("imagenet_v2"):
        # Sorted as text, 10 would come before 2; a number means the output of that number.
        expected = {str(number): wnid for number, wnid in enumerate(wnids())}
    elif config.dataset in ("imagenet_a", "imagenet_r"):
        expected = _identity(subset_wnids(config.dataset))
    read = partial(read_class_folders, _variant_folder(config, root), expected, config.dataset)
    data = assemble(config, ("val",), classes, {"val": read}, wnids)
    return data if len(expected) == len(wnids()) else replace(data, outputs=_positions(expected.values(), classes))


def _load_real(config: DataConfig, root: Path, classes: tuple[str, ...]) -> ImageData:
    numbered, sets = val_images(find_val(root, config.val_split)), real_labels(root)
    if numbered[-1][0] > len(sets):
        raise DataError(f"real.json must have labels for every image; it has {len(sets)}, not for {numbered[-1][1]}")
    place = [classes.index(wnid) for wnid in wnids()]
    found = [(path, [place[label] for label in sets[number - 1]]) for number, path in numbered]
    kept = [(path, labels) for path, labels in found if labels]
    paths = [path for path, _ in kept]
    if not kept:
        raise DataError(f"{config.dataset}: at least one image must have a label; all {len(found)} sets are empty")
    images = file_dataset(config, path_source(paths, range(len(paths)), paths), "val", f"{config.dataset} val")
    data = image_data(config, {"val": LabelSets(images, [labels for _, labels in kept])}, classes)
    return replace(data, left_out=len(found) - len(kept))


def _load_outliers(config: DataConfig, root: Path, classes: tuple[str, ...], id_dir: str | None) -> ImageData:
    folder = _variant_folder(config, root)
    ours = [name for name in class_folders(folder) if name in wnids()] if folder.is_dir() else []
    if len(ours) != SUBSET:
        raise DataError(
            f"{folder} must hold the {SUBSET} class folders of imagenet_o (wnids); it holds {len(ours)} such folders"
        )
    outliers = read_class_folders(folder, _identity(ours), "imagenet_o")
    try:
        inliers = read_val(Path(id_dir) if id_dir is not None else root, None, ours, exact=False)
    except DataError as error:
        raise DataError(
            f"imagenet_o is told from ImageNet's val images of its {SUBSET} classes, in data_dir or id_dir: {error}"
        ) from error
    labels = [0] * len(inliers.names) + [1] * len(outliers.names)
    source = path_source(("of its classes", "of no class"), labels, [*inliers.names, *outliers.names])
    data = image_data(config, {"val": file_dataset(config, source, "val", "imagenet_o val")}, classes)
    return replace(data, outputs=_positions(ours, classes), measure="outliers")


def _variant_folder(config: DataConfig, root: Path) -> Path:
    """The folder of the class folders: by its published name in root, or root itself; val_split names another."""
    if config.val_split is not None:
        return root / config.val_split
    names = PUBLISHED[config.dataset].folders
    return next((root / name for name in names if (root / name).is_dir()), root)


def _identity(names: Sequence[str]) -> dict[str, str]:
    return {name: name for name in names}


def _positions(names: Iterable[str], classes: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(sorted(classes.index(name) for name in names))
