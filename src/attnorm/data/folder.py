"""Images in one folder per class (torchvision's ImageFolder layout), and what all data sets of files share."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from attnorm.data.config import DataConfig, data_root, shortened
from attnorm.data.filedata import FileDataset, Source
from attnorm.data.image_data import BatchDataset, ImageData
from attnorm.data.image_files import EXTENSIONS
from attnorm.errors import DataError

VAL_SPLITS = ("val", "validation", "test")
IMAGE_SIZE = 224
# Of ImageNet's training part, the usual constants for photographs
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def class_folders(folder: Path) -> list[str]:
    """The names of the class folders, sorted; hidden ones are not classes."""
    return sorted(e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith("."))


def scan_folder(folder: Path, classes: Sequence[str] | None = None) -> Source:
    """List folder/<class>/**/<image>, sorted by path; a class's number is its place among the names.

    Args:
        folder: holds one folder per class.
        classes: the names of the class folders to read. None: all, sorted.

    Raises:
        DataError: no such folder, no class folder in it, or class folders without an image (all are named).
    """
    if not folder.is_dir():
        raise DataError(f"{folder} must be a folder with one folder per class; there is no such folder")
    classes = class_folders(folder) if classes is None else classes
    if not classes:
        raise DataError(f"{folder} must hold one folder per class; it holds none")
    paths: list[str] = []
    labels: list[int] = []
    empty: list[str] = []
    for label, name in enumerate(classes):
        found = image_files(folder / name)
        paths += found
        labels += [label] * len(found)
        if not found:
            empty.append(name)
    if empty:
        raise DataError(
            f"every class folder of {folder} must hold an image ({' '.join(EXTENSIONS)}); without one: "
            f"{shortened(empty, 50)}"
        )
    return Source(classes=tuple(classes), labels=torch.tensor(labels), names=paths, open=paths.__getitem__)


def image_files(folder: Path) -> list[str]:
    """The paths of the images in a folder and its subfolders, sorted; hidden files are left out.

    Links are followed, and a folder is read once: a link can lead back to where it is.
    """
    found: list[str] = []
    seen: set[str] = set()
    for base, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(base)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        found += [
            os.path.join(base, name) for name in names if name.lower().endswith(EXTENSIONS) and not name.startswith(".")
        ]
    return sorted(found)


def use_classes(source: Source, classes: Sequence[str], title: str) -> Source:
    """Number the source's labels by `classes`.

    Raises:
        DataError: the source has classes that are not among them (all are named).
    """
    unknown = sorted(set(source.classes) - set(classes))
    if unknown:
        raise DataError(
            f"{title}: every class must be one of the {len(classes)} trained on; not among them: "
            f"{shortened(unknown, 50)}"
        )
    table = torch.tensor([list(classes).index(name) for name in source.classes])
    if len(source.labels) and not 0 <= int(source.labels.min()) <= int(source.labels.max()) < len(table):
        return replace(source, classes=tuple(classes))  # out of range: FileDataset says so
    return replace(source, classes=tuple(classes), labels=table[source.labels])


def assemble(
    config: DataConfig,
    parts: Sequence[str],
    classes: Sequence[str] | None,
    read_part: Mapping[str, Callable[[], Source]],
    name_classes: Callable[[], Sequence[str]],
) -> ImageData:
    """Make an ImageData of files.

    Args:
        config: the settings.
        parts: "train", "val" or both.
        classes: the class names to number by; None: the training part's.
        read_part: for each part a function that finds its files.
        name_classes: finds the class names without the training part's files, for parts=("val",).

    Raises:
        DataError: all that is wrong with the parts, in one line.
    """
    problems: list[str] = []
    sources: dict[str, Source] = {}
    for part in ("train", "val"):
        if part in parts:
            try:
                sources[part] = read_part[part]()
            except DataError as error:
                problems.append(str(error))
    if classes is None and not problems:
        classes = sources["train"].classes if "train" in sources else name_classes()
    datasets: dict[str, FileDataset] = {}
    for part, source in sources.items():
        title = f"{config.dataset} {part}"
        try:
            source = use_classes(source, classes, title) if classes is not None else source
            datasets[part] = file_dataset(config, source, part, title)
        except DataError as error:
            problems.append(str(error))
    if problems:
        raise DataError("; ".join(problems))
    return image_data(config, datasets, tuple(classes or ()))


def image_data(config: DataConfig, datasets: Mapping[str, BatchDataset], classes: tuple[str, ...]) -> ImageData:
    """The ImageData of files, all of which are prepared alike; `datasets` has "train", "val" or both."""
    return ImageData(
        name=config.dataset,
        train=datasets.get("train"),
        val=datasets.get("val"),
        classes=classes,
        in_chans=3,
        image_size=config.image_size or IMAGE_SIZE,
        mean=MEAN,
        std=STD,
        crop_pct=config.crop_pct,
        interpolation=config.interpolation,
    )


def file_dataset(config: DataConfig, source: Source, part: str, title: str) -> FileDataset:
    """The images of `source` as the settings want them for "train" or "val"; see `FileDataset`."""
    augment = "rrc_flip" if config.augment == "default" else config.augment
    return FileDataset(
        source,
        augment=augment if part == "train" else "none",
        image_size=config.image_size or IMAGE_SIZE,
        crop_pct=config.crop_pct,
        interpolation=config.interpolation,
        max_bad_images=config.max_bad_images,
        title=title,
        aa=config.aa,
        reprob=config.reprob,
        mean=MEAN,
        shard_window=config.shard_window if part == "train" else None,
    )


def load_folder(config: DataConfig, parts: Sequence[str], classes: Sequence[str] | None = None) -> ImageData:
    """Read root/{train,val}/<class>/<image>; see `load_data`."""
    root = data_root(config)

    def val_folder() -> Path:
        if config.val_split is not None:
            return root / config.val_split
        found = [root / name for name in VAL_SPLITS if (root / name).is_dir()]
        if not found:
            raise DataError(
                f"{root} must hold a folder to evaluate on, {', '.join(VAL_SPLITS)}; it holds none: make one or name "
                "another by val_split"
            )
        return found[0]

    def name_classes() -> Sequence[str]:
        train = root / config.train_split
        return class_folders(train if train.is_dir() else val_folder())

    readers = {"train": lambda: scan_folder(root / config.train_split), "val": lambda: scan_folder(val_folder())}
    return assemble(config, parts, classes, readers, name_classes)
