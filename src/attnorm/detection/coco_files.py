"""COCO's JSON of ground truth and of results: read, checked as a whole, and brought to what evaluation needs.

Whoever evaluates trusts nothing here: the libraries behind `average_precision` crash, or worse, compute, on entries
that are damaged.
"""

import json
from pathlib import Path
from typing import Any, Literal

from attnorm.detection.run_lengths import check_size
from attnorm.errors import DataError

IouType = Literal["bbox", "segm"]
Entry = dict[str, Any]
FARTHEST = 1e5  # pixels; the outline of a polygon is walked pixel by pixel, so it must end somewhere
MOST = 2.0**53  # up to there JSON's numbers are exact, and fit what they are given to


def read_json(path: str | Path) -> Any:
    """The content of a JSON file.

    Raises:
        DataError: there is no such file, or it is not JSON.
    """
    try:
        return json.loads(Path(path).read_bytes())
    except OSError as error:
        raise DataError(f"{path} must be a JSON file, and it cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} must be JSON, and it is not: {error}; it is damaged or cut short") from None


class Problems:
    """Mistakes by kind, for one line that names them all: how many of each, and where the first ones are."""

    def __init__(self) -> None:
        self.places: dict[str, list[str]] = {}

    def add(self, kind: str, place: str) -> None:
        """Notes one mistake."""
        self.places.setdefault(kind, []).append(place)

    def refuse(self, must: str, shown: int = 3) -> None:
        """Raises a DataError when there are any; `must` says what should have been."""
        if self.places:
            kinds = [
                f"{len(places)} {kind} ({', '.join(places[:shown])}{', ...' if len(places) > shown else ''})"
                for kind, places in self.places.items()
            ]
            raise DataError(f"{must}; got {'; '.join(kinds)}")


def checked_ground_truth(content: Any, iou_type: IouType, masks: Any, name: str) -> dict[str, list[Entry]]:
    """What evaluation needs of a COCO file of instances, in new dictionaries; annotations are numbered from 1.

    Args:
        content: of the file: images, annotations, categories.
        iou_type: boxes or masks.
        masks: module of COCO's mask functions.
        name: the file's, for messages.

    Raises:
        DataError: in one line everything that is wrong.
    """
    lists = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in lists):
        raise DataError(f"{name} must be COCO's JSON of instances: an object with the lists {', '.join(lists)}")
    problems = Problems()
    images = _by_id(content["images"], "images", problems)
    categories = _by_id(content["categories"], "categories", problems)
    for number, image in images.items():
        if iou_type == "segm" and not all(_is_side(image.get(side)) for side in ("height", "width")):
            problems.add("images without height and width", f"id {number}")
    problems.refuse(f"{name} must be sound COCO JSON of instances")
    checker = _Checker(iou_type, images, categories, masks)
    # The number 0 would read as "no match" in pycocotools.
    annotations = [
        checker.annotation(entry, f"annotations[{place}]") | {"id": place + 1}
        for place, entry in enumerate(content["annotations"])
    ]
    checker.problems.refuse(f"{name} must be sound COCO JSON of instances")
    return {
        "images": [
            {"id": key, "height": image.get("height"), "width": image.get("width")} for key, image in images.items()
        ],
        "annotations": annotations,
        "categories": [{"id": key, "name": str(category.get("name", key))} for key, category in categories.items()],
    }


def checked_results(
    content: Any, ground_truth: dict[str, list[Entry]], iou_type: IouType, masks: Any, name: str
) -> dict[str, list[Entry]]:
    """COCO result entries as the ground truth's counterpart, in new dictionaries.

    Args:
        content: list of image_id, category_id, score and bbox or segmentation.
        ground_truth: of `checked_ground_truth`.
        iou_type: boxes or masks. Of entries with both, the size of a mask is then the mask's area, not the box's.
        masks: module of COCO's mask functions.
        name: the file's, for messages.

    Raises:
        DataError: in one line everything that is wrong.
    """
    if not isinstance(content, list):
        raise DataError(f"{name} must be a list of COCO results; got {type(content).__name__}")
    images = {image["id"]: image for image in ground_truth["images"]}
    categories = {category["id"]: category for category in ground_truth["categories"]}
    checker = _Checker(iou_type, images, categories, masks)
    entries = [checker.result(entry, f"entry {n}") | {"id": n + 1} for n, entry in enumerate(content)]
    checker.problems.refuse(f"{name} must be COCO results ({iou_type}) of the ground truth's images and categories")
    return {**ground_truth, "annotations": entries}


class _Checker:
    """Annotations and results one by one, of their keys those that evaluation reads; collects what is wrong."""

    def __init__(self, iou_type: IouType, images: dict[int, Entry], categories: dict[int, Entry], masks: Any) -> None:
        self.iou_type, self.images, self.categories, self.masks = iou_type, images, categories, masks
        self.problems = Problems()

    def annotation(self, entry: Any, place: str) -> Entry:
        instance = self._instance(entry, place)
        if instance is None:
            return {}
        crowd = entry.get("iscrowd", 0)
        if crowd not in (0, 1):
            self.problems.add("with an iscrowd other than 0 and 1", place)
        if not is_number(entry.get("area")):
            self.problems.add("without a finite area", place)
        return instance | {"area": entry.get("area"), "iscrowd": int(crowd == 1)}

    def result(self, entry: Any, place: str) -> Entry:
        instance = self._instance(entry, place)
        if instance is None:
            return {}
        if not is_number(entry.get("score")):
            self.problems.add("without a finite score", place)
        box = instance.get("bbox")
        area = box[2] * box[3] if box else float(self.masks.area(instance["segmentation"]))
        return instance | {"score": entry.get("score"), "area": area, "iscrowd": 0}

    def _instance(self, entry: Any, place: str) -> Entry | None:
        """Image, category and shape; None where there is no telling."""
        if not isinstance(entry, dict):
            return self.problems.add("that are no objects", place)
        image, category = entry.get("image_id"), entry.get("category_id")
        if type(image) is not int or image not in self.images:
            return self.problems.add("of unknown images", f"image_id {image!r} in {place}")
        if type(category) is not int or category not in self.categories:
            return self.problems.add("of unknown categories", f"category_id {category!r} in {place}")
        key = "bbox" if self.iou_type == "bbox" else "segmentation"
        if key not in entry:
            return self.problems.add(f"without {key}", place)
        shape = entry[key]
        if self.iou_type == "segm":
            try:
                shape = _rle(shape, self.images[image]["height"], self.images[image]["width"], self.masks)
            except ValueError as error:
                return self.problems.add("whose segmentation is not one of their image", f"{place}: {error}")
        elif not _is_box(shape):
            return self.problems.add("whose bbox is not x, y, width, height: finite, no negative side", place)
        return {"image_id": image, "category_id": category, key: shape}


def is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MOST


def _by_id(entries: list[Any], name: str, problems: Problems) -> dict[int, Entry]:
    found: dict[int, Entry] = {}
    for place, entry in enumerate(entries):
        number = entry.get("id") if isinstance(entry, dict) else None
        if type(number) is not int or number in found or not is_number(number):
            problems.add(f"{name} without an id of their own", f"{name}[{place}]")
        else:
            found[number] = entry
    if not entries:
        problems.add("empty list", name)
    return found


def _is_side(value: Any) -> bool:
    return type(value) is int and 0 < value < FARTHEST


def _is_box(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(map(is_number, box)) and min(box[2:]) >= 0


def _rle(segmentation: Any, height: int, width: int, masks: Any) -> Entry:
    """A mask given as polygons, run lengths or their compressed text, as the last of these.

    Raises:
        ValueError: it is none of them, or not of an image of that size.
    """
    if isinstance(segmentation, dict):
        check_size(segmentation, height, width)
        rle = {"size": [height, width], "counts": segmentation["counts"]}
        return masks.frPyObjects(rle, height, width) if isinstance(rle["counts"], list) else rle
    if not isinstance(segmentation, list) or not segmentation or not all(map(_is_polygon, segmentation)):
        raise ValueError("it must be an RLE or polygons x, y, x, y, ... of three points or more")
    return masks.merge(masks.frPyObjects(segmentation, height, width))


def _is_polygon(points: Any) -> bool:
    good = isinstance(points, list) and len(points) >= 6 and len(points) % 2 == 0
    return good and all(is_number(value) and abs(value) < FARTHEST for value in points)
