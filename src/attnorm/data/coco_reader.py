"""From a COCO JSON file to checked annotations; all that is wrong with it is said at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from attnorm.data.annotations import Annotations, Category, corners
from attnorm.data.coco_masks import MAX_SIDE, Piece, Size, area, pack, piece
from attnorm.data.json_files import read_json
from attnorm.data.problems import Problems
from attnorm.errors import DataError

Entry = dict[str, Any]

TOLERANCE = 1.0  # pixels: boxes that leave their image by less are cut to it without a word, it is rounding
BEYOND = 1e12  # no coordinate or area is as large, and a whole number can be too large for a float
EXACT = 2**53  # below it whole numbers are exact as floats, which COCO's evaluation may make of ids
LISTS = ("images", "annotations", "categories")


class _Row(NamedTuple):
    id: int
    image: int
    label: int
    box: list[float]
    area: float
    crowd: bool
    segmentation: Piece | None


class CocoReader:
    """One COCO JSON file.

    Args:
        path: of the file.
        title: the part's name in messages.

    Attributes:
        images: the entries of the images.
        categories: in the order of their ids.
        broken: problems that no setting forgives; the caller adds those of the image files.
        bad: problems of single annotations.
        notes: sentences with the counts of what was left out or changed.

    Raises:
        DataError: the file is not JSON, or not of COCO's form at all.
    """

    def __init__(self, path: Path, title: str) -> None:
        self.path, self.title = path, title
        self.broken, self.bad = Problems(), Problems()
        self.notes: list[str] = []
        images, self._entries, categories = _load(path, title)
        self.categories = self._read_categories(categories)
        self.images = self._read_images(images)

    @property
    def files(self) -> list[str]:
        """The images' file names, as the file has them."""
        return [entry["file_name"] for entry in self.images]

    def read(self, *, masks: bool, skip_bad: bool, skip_empty: bool) -> Annotations:
        """Check the annotations and pack them.

        Args:
            masks: whether masks are wanted; else segmentations are not read, and may be missing or wrong, except for
                the area of an annotation that gives none.
            skip_bad: leave unusable annotations out instead of refusing the file.
            skip_empty: leave out the images that have no annotation to learn from.

        Raises:
            DataError: all problems, in one line.
        """
        rows = self._read_rows(masks)
        self._entries = []  # those of a large file take gigabytes
        keep, reaching = self._check(rows)
        if self.broken or (self.bad and not skip_bad):
            self._refuse()
        if self.bad:
            self.notes.append(f"{self.title}: left out are {self.bad} (coco.bad_annotations skip)")
        if reaching:
            self.notes.append(f"{self.title}: {reaching} of {len(rows)} boxes reach beyond their image and are cut")
        order = np.flatnonzero(keep)
        order = order[np.argsort([rows[i].image for i in order], kind="stable")]
        return self._pack([rows[i] for i in order], skip_empty)

    def _read_categories(self, entries: list[Entry]) -> tuple[Category, ...]:
        categories: dict[int, Category] = {}
        for number, entry in enumerate(entries, 1):
            id, name = entry.get("id"), entry.get("name")
            if not _is_id(id, EXACT) or not isinstance(name, str):
                self.broken.add("categories without a number below 2^53 as id and a text as name", f"number {number}")
            elif id in categories:
                self.broken.add("categories with the id of another", str(id))
            else:
                categories[id] = Category(id, name)
        return tuple(categories[id] for id in sorted(categories))

    def _read_images(self, entries: list[Entry]) -> list[Entry]:
        images: dict[int, Entry] = {}
        for number, entry in enumerate(entries, 1):
            id, name, width, height = (entry.get(key) for key in ("id", "file_name", "width", "height"))
            if not _is_id(id, EXACT) or not isinstance(name, str) or not name:
                self.broken.add("images without a number below 2^53 as id and a text as file_name", f"number {number}")
            elif not all(_is_id(side) and 0 < side <= MAX_SIDE for side in (width, height)):
                self.broken.add(f"images without width and height from 1 to {MAX_SIDE}", f"image {id}")
            elif id in images:
                self.broken.add("images with the id of another", str(id))
            else:
                images[id] = {"id": id, "file_name": name, "size": (height, width)}
        again = len(images) - len({entry["file_name"] for entry in images.values()})
        if again:
            self.notes.append(f"{self.title}: {again} images have the file of another image")
        return list(images.values())

    def _read_rows(self, masks: bool) -> list[_Row]:
        places = {entry["id"]: (i, entry["size"]) for i, entry in enumerate(self.images)}
        labels = {category.id: label for label, category in enumerate(self.categories, 1)}
        seen: set[int] = set()
        rows: list[_Row] = []
        for number, entry in enumerate(self._entries, 1):
            try:
                row = _read_row(entry, places, labels, masks)
                if row.id in seen:
                    raise ValueError("annotations with the id of another")
            except ValueError as error:
                id = entry.get("id")
                self.bad.add(str(error), f"annotation {id}" if _is_id(id) else f"number {number}")
            else:
                seen.add(row.id)
                rows.append(row)
        return rows

    def _check(self, rows: list[_Row]) -> tuple[np.ndarray, int]:
        """Which rows are good, bool (A,), and how many of their boxes reach beyond their image."""
        sizes = np.array([entry["size"] for entry in self.images]).reshape(-1, 2)
        sizes = sizes[[row.image for row in rows]] if rows else sizes[:0]
        boxes = np.array([row.box for row in rows]).reshape(-1, 4)
        inside = corners(boxes, sizes)
        no_area = (boxes[:, 2:] <= 0).any(1)
        missing = np.array([row.segmentation is None for row in rows], dtype=bool)
        wrong = {
            "boxes without area": no_area,
            "boxes outside their image": ~no_area & (inside[:, 2:] <= inside[:, :2]).any(1),
            "annotations without a segmentation, which others have": missing & (not missing.all()),
        }
        for kind, found in wrong.items():
            for i in np.flatnonzero(found):
                self.bad.add(kind, f"annotation {rows[i].id}")
        keep = ~np.logical_or.reduce(list(wrong.values()))
        beyond = np.maximum(-boxes[:, :2], boxes[:, :2] + boxes[:, 2:] - sizes[:, ::-1]).max(1, initial=0) > TOLERANCE
        return keep, int((beyond & keep).sum())

    def _refuse(self) -> None:
        problems = "; ".join(str(problems) for problems in (self.broken, self.bad) if problems)
        leave = ", or leave such annotations out with coco.bad_annotations skip" if self.bad else ""
        raise DataError(f"{self.title}: {self.path} must be free of errors; it has {problems}: mend it{leave}")

    def _pack(self, rows: list[_Row], skip_empty: bool) -> Annotations:
        learnable = np.zeros(len(self.images), dtype=np.int64)
        np.add.at(learnable, [row.image for row in rows if not row.crowd], 1)
        kept = np.flatnonzero(learnable) if skip_empty else np.arange(len(self.images))
        if not len(kept) or not rows:
            raise DataError(
                f"{self.title}: {self.path} must have images with annotations; it has {len(self.images)} images and "
                f"{len(rows)} usable annotations: name another file"
            )
        self._count(rows, learnable, skip_empty)
        place = np.full(len(self.images), -1)
        place[kept] = np.arange(len(kept))
        rows = [row for row in rows if place[row.image] >= 0]
        images = [self.images[i] for i in kept]
        per_image = np.bincount([place[row.image] for row in rows], minlength=len(kept))
        pieces = [row.segmentation for row in rows if row.segmentation]
        return Annotations(
            categories=self.categories,
            files=[entry["file_name"] for entry in images],
            image_ids=np.array([entry["id"] for entry in images], dtype=np.int64),
            sizes=np.array([entry["size"] for entry in images], dtype=np.int64),
            starts=np.concatenate(([0], per_image.cumsum())),
            boxes=np.array([row.box for row in rows], dtype=np.float64),
            labels=np.array([row.label for row in rows], dtype=np.int64),
            areas=np.array([row.area for row in rows], dtype=np.float64),
            crowd=np.array([row.crowd for row in rows], dtype=bool),
            segmentations=pack(pieces) if pieces else None,
        )

    def _count(self, rows: list[_Row], learnable: np.ndarray, skip_empty: bool) -> None:
        """Put in the notes what is not to be learnt from."""
        empty, crowds = int((learnable == 0).sum()), sum(row.crowd for row in rows)
        if empty:
            left_out = " and are left out (coco.empty_images keep keeps them)" if skip_empty else ""
            self.notes.append(
                f"{self.title}: {empty} of {len(learnable)} images have no annotations to learn from{left_out}"
            )
        if crowds:
            self.notes.append(
                f"{self.title}: {crowds} of {len(rows)} annotations are crowds: not learnt from, and no error where "
                "they are detected"
            )


def _load(path: Path, title: str) -> list[list[Entry]]:
    """The lists of images, annotations and categories."""
    try:
        content = read_json(path)
    except DataError as error:
        raise DataError(f"{title}: {error}") from None
    wrong = [name for name in LISTS if not _is_list_of_entries(content, name)]
    if wrong:
        raise DataError(
            f"{title}: {path} must be a COCO file, with lists of objects called {', '.join(LISTS)}; wrong or missing: "
            f"{', '.join(wrong)}: export it again as COCO instances"
        )
    return [content[name] for name in LISTS]


def _is_list_of_entries(content: Any, name: str) -> bool:
    entries = content.get(name) if isinstance(content, dict) else None
    return isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)


def _is_id(value: Any, beyond: int = 2**63) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < beyond


def _read_row(entry: Entry, places: Mapping[int, tuple[int, Size]], labels: Mapping[int, int], masks: bool) -> _Row:
    """One annotation.

    Args:
        entry: as the file has it.
        places: from an image's id to its place and size.
        labels: from a category's id to its label.
        masks: whether to keep the mask.

    Raises:
        ValueError: it cannot be used; the message says what it is, in the plural.
    """
    if not _is_id(entry.get("id")):
        raise ValueError("annotations without a number as id")
    if not _is_id(image := entry.get("image_id")) or image not in places:
        raise ValueError("annotations of unknown images")
    if not _is_id(category := entry.get("category_id")) or category not in labels:
        raise ValueError("annotations of unknown categories")
    place, size = places[image]
    box, crowd = entry.get("bbox"), entry.get("iscrowd", 0)
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_finite, box)):
        raise ValueError("boxes that are not four finite numbers")
    if type(crowd) is not int or crowd not in (0, 1):
        raise ValueError("annotations with iscrowd other than 0 and 1")
    segmentation = entry.get("segmentation")
    pixels = entry.get("area")
    mask = piece(segmentation, size) if segmentation and (masks or pixels is None) else None
    if mask and not mask[1] and area(mask, size) == 0:
        raise ValueError("RLEs without a pixel of the object")
    if pixels is None:
        pixels = area(mask, size) if mask else box[2] * box[3]
    elif not _is_finite(pixels) or pixels < 0:
        raise ValueError("areas that are not a finite number from 0")
    return _Row(entry["id"], place, labels[category], box, pixels, crowd == 1, mask if masks else None)


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < BEYOND  # not so of NaN
