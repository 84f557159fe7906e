"""Where a COCO-format data set keeps its annotations and images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from attnorm.data.bad_images import LONGEST
from attnorm.data.config import DataConfig, data_root, shortened
from attnorm.errors import DataError, shown

PARTS = {"train": ("train",), "val": ("val", "valid", "validation", "test")}  # what each may be called
YEARS = ("2017", "2014", "")  # COCO's parts are called train2017 and val2017
BESIDE = "_annotations.coco.json"  # Roboflow's name for the file beside its images


def annotation_file(config: DataConfig, part: str) -> Path:
    """The JSON file of "train" or "val".

    Raises:
        DataError: it is not there; what was looked for is named.
    """
    root = data_root(config)
    given = config.coco.train_annotations if part == "train" else config.coco.val_annotations
    if given is not None:
        if (root / given).is_file():
            return root / given
        raise DataError(f"coco.{part}_annotations must name a file, seen from {root}; there is no {given}")
    names = [
        name
        for base in PARTS[part]
        for title in (base + year for year in YEARS)
        for name in (f"annotations/instances_{title}.json", f"annotations/{title}.json", f"{title}/{BESIDE}")
    ]
    for name in names:
        if os.path.isfile(root / name):
            return root / name
    raise DataError(
        f"{root} must hold the annotations of {part}; looked for {shortened(names, 12)}: name the file by "
        f"coco.{part}_annotations"
    )


def image_folder(config: DataConfig, part: str, annotations: Path, first: str) -> Path:
    """The folder of the images of "train" or "val".

    Args:
        config: names it, or leaves it to be found.
        part: "train" or "val".
        annotations: the part's JSON file.
        first: the file name of its first image, by which the folder is recognised.

    Raises:
        DataError: it is not there; what was looked for is named.
    """
    root = data_root(config)
    given = config.coco.train_images if part == "train" else config.coco.val_images
    if given is not None:
        if (root / given).is_dir():
            return root / given
        raise DataError(f"coco.{part}_images must name a folder, seen from {root}; there is no {given}")
    title = annotations.stem.removeprefix("instances_")
    bare = title.removesuffix("2017").removesuffix("2014")
    named = [root / name for name in dict.fromkeys((title, f"images/{title}", bare, f"images/{bare}"))]
    folders = [annotations.parent] if annotations.name == BESIDE else [*named, root / "images", annotations.parent]
    for folder in folders:
        if os.path.isfile(folder / first):  # False, too, for names that no file can have
            return folder
    for folder in folders:  # the first image is missing: that is for the checks to say, together with the others
        if folder.is_dir() and folder in (*named, root / "images"):
            return folder
    raise DataError(
        f"{root} must hold the images of {os.path.relpath(annotations, root)}, such as {shown(first, LONGEST)}; "
        f"looked in {shortened([os.path.relpath(folder, root) for folder in folders])}: name the folder by "
        f"coco.{part}_images"
    )


def absent(folder: Path, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The files that are not in the folder, and those that lie outside it or are reached by a link to outside.

    Every folder is listed once: a hundred thousand single questions take minutes on a network drive.
    """
    outside = {name for name in names if os.path.isabs(name) or ".." in Path(name).parts}
    found: dict[str, bool] = {}
    for parent in {os.path.dirname(os.path.normpath(name)) for name in names if name not in outside}:
        found |= _listed(folder, parent)
    missing: list[str] = []
    escaping: list[str] = []
    for name in names:
        within = False if name in outside else found.get(os.path.normpath(name))
        if within is None:
            missing.append(name)
        elif not within:
            escaping.append(name)
    return missing, escaping


def _listed(folder: Path, parent: str) -> dict[str, bool]:
    """The files of folder/parent, and whether each lies within `folder` once links are followed."""
    real, path = os.path.realpath(folder), os.path.join(folder, parent)
    if not os.path.isdir(path):
        return {}
    within = _within(path, real)
    return {
        os.path.join(parent, entry.name): within and (not entry.is_symlink() or _within(entry.path, real))
        for entry in os.scandir(path)
        if os.path.isfile(entry.path if entry.is_symlink() else entry)  # False of links in a circle
    }


def _within(path: str, real: str) -> bool:
    return os.path.commonpath([os.path.realpath(path), real]) == real
