"""Where ImageNet and its variants keep their images and answers, in the layouts in which people have them."""

from __future__ import annotations

import json
import os
import pkgutil
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path

import torch

from attnorm.data.config import shortened
from attnorm.data.filedata import Source
from attnorm.data.folder import class_folders, image_files, scan_folder
from attnorm.errors import DataError

ANSWERS = ("val_map.txt", "LOC_val_solution.csv")
# One line of either: the image's name, with or without its ending, then its class; a header line matches nothing.
_ANSWER = re.compile(r"(ILSVRC2012_val_\d{8})(?:\.\w+)?[ \t,]+(n\d{8})\b")
_VAL_IMAGE = re.compile(r"ILSVRC2012_val_(\d{8})$")


@cache
def wnids() -> tuple[str, ...]:
    """ImageNet-1k's 1000 classes as WordNet ids ("n01440764"), in the order of every network's outputs (sorted)."""
    from timm.data import ImageNetInfo  # pyright: ignore[reportPrivateImportUsage]

    return tuple(ImageNetInfo().label_names())


@cache
def subset_wnids(dataset: str) -> tuple[str, ...]:
    """The 200 classes of "imagenet_a" or "imagenet_r", sorted, as their authors list them (package data of timm)."""
    indices = (files("timm.data") / "_info" / f"{dataset}_indices.txt").read_text().split()
    return tuple(wnids()[int(index)] for index in indices)


def read_class_folders(folder: Path, expected: Mapping[str, str], dataset: str, *, exact: bool = True) -> Source:
    """List folder/<class>/**/<image>.

    Args:
        folder: holds the class folders; files beside them are ignored.
        expected: from the name of each class folder, a wnid or a number ("7", also found as "0007"), to its wnid.
        dataset: name for messages.
        exact: other folders are an error; else they are passed over.

    Returns:
        The images, the classes named by wnid.

    Raises:
        DataError: folders are missing, empty or too many (all are named).
    """
    if not folder.is_dir():
        raise DataError(f"{folder} must hold the {len(expected)} class folders of {dataset}; there is no such folder")
    found = {name: str(int(name)) if name.isdigit() else name for name in class_folders(folder)}
    missing = sorted(set(expected) - set(found.values()))
    others = sorted(name for name, plain in found.items() if plain not in expected)
    problems = [f"{len(missing)} are missing: {shortened(missing)}"] if missing else []
    problems += [f"{len(others)} are none of them: {shortened(others)}"] if others and exact else []
    if problems:
        advice = f"name the folder that does, by data_dir{' (some classes only: use dataset folder)' if exact else ''}"
        raise DataError(
            f"{folder} must hold the {len(expected)} class folders of {dataset}; {'; '.join(problems)}; {advice}"
        )
    source = scan_folder(folder, [name for name, plain in found.items() if plain in expected])
    return replace(source, classes=tuple(expected[found[name]] for name in source.classes))


def path_source(classes: Sequence[str], labels: Sequence[int], paths: list[str]) -> Source:
    """Files whose labels are known: `labels` and `paths` have one entry per image."""
    numbers = torch.tensor(labels, dtype=torch.int64)
    return Source(classes=tuple(classes), labels=numbers, names=paths, open=paths.__getitem__)


def find_val(root: Path, split: str | None) -> Path:
    """The folder of ImageNet's validation images: root/val (root/<split>), or root where it is that folder itself."""
    inside = root / (split or "val")
    if inside.is_dir() or split is not None or not root.is_dir():
        return inside
    itself = not set(wnids()).isdisjoint(class_folders(root)) or any(root.glob("ILSVRC2012_val_*"))
    return root if itself else inside


def read_val(root: Path, split: str | None, needed: Sequence[str], *, exact: bool = True) -> Source:
    """List ImageNet's validation images, in class folders or flat as they are published.

    Args:
        root: the folder that holds val, or that folder.
        split: name of the folder in root, when it is not "val".
        needed: the wnids of the classes that must be there.
        exact: other class folders are an error; else only the classes needed are read.

    Raises:
        DataError: classes are missing, or a flat folder's answers are.
    """
    folder = find_val(root, split)
    if folder.is_dir() and not class_folders(folder) and image_files(folder):
        return _read_flat(folder, root, needed)
    return read_class_folders(folder, {wnid: wnid for wnid in needed}, "imagenet", exact=exact)


def _read_flat(folder: Path, root: Path, needed: Sequence[str]) -> Source:
    places = [base / name for base in dict.fromkeys((root, folder)) for name in ANSWERS]
    place = next((place for place in places if place.is_file()), None)
    if place is None:
        raise DataError(
            f"{folder} must hold one folder per class, or beside its images {' or '.join(ANSWERS)}, which give each "
            "image's wnid; it has images only: sort them into folders, or put such a file there "
            "(ILSVRC2012_validation_ground_truth.txt does not do: it counts classes in the development kit's own order)"
        )
    answers: dict[str, str] = dict(_ANSWER.findall(place.read_text()))
    paths = image_files(folder)
    unknown = [path for path in paths if Path(path).stem not in answers]
    if unknown:
        raise DataError(f"{place} must name the class of every image; not of {shortened(unknown, 5)}")
    number = {wnid: i for i, wnid in enumerate(needed)}
    found = [(number[answers[Path(path).stem]], path) for path in paths if answers[Path(path).stem] in number]
    missing = sorted(set(needed) - {needed[label] for label, _ in found})
    if missing:
        raise DataError(
            f"{folder} must hold images of {len(needed)} classes; by {place} there are none of {shortened(missing)}"
        )
    return path_source(needed, [label for label, _ in found], [path for _, path in found])


def val_images(folder: Path) -> list[tuple[int, str]]:
    """The number (from 1) and the path of each of ImageNet's validation images, by number, in whatever folders.

    Raises:
        DataError: there are none, or files of other names among them.
    """
    paths = image_files(folder) if folder.is_dir() else []
    named = [(_VAL_IMAGE.match(os.path.splitext(os.path.basename(path))[0]), path) for path in paths]
    others = [path for match, path in named if match is None]
    if others or not paths:
        came = f"others are {shortened(others, 3)}" if others else "there are none"
        raise DataError(f"{folder} must hold ImageNet's validation images, ILSVRC2012_val_00000001.JPEG ...; {came}")
    return sorted((int(match.group(1)), path) for match, path in named if match is not None)


def real_labels(root: Path) -> list[list[int]]:
    """The reassessed labels (ReaL): for each validation image, by number, the outputs that are right; none for some.

    Read from root/real.json, the authors' file; where there is none, from the copy of it that timm carries.

    Raises:
        DataError: the file is no list of lists of numbers from 0 to 999.
    """
    place = root / "real.json"
    content = (
        place.read_bytes() if place.is_file() else pkgutil.get_data("timm.data", "_info/imagenet_real_labels.json")
    )
    try:
        sets = json.loads(content or b"")
        if not all(type(n) is int and 0 <= n < len(wnids()) for labels in sets for n in labels):
            raise ValueError("it holds something else")
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{place} must be a JSON list with a list of class numbers, 0 to 999, for each image: {error}; "
            "fetch it again, or remove it to use the copy that timm carries"
        ) from error
    return sets
