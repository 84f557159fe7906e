"""COCO's JSON of ground truth and of results: read, checked as a whole, and brought to what evaluation needs.

Whoever evaluates trusts nothing here: the libraries behind `average_precision` crash, or worse, compute, on entries
that are damaged.
"""

from collections.abc import Callable
from typing import Any, Literal

from attnorm.data.coco_masks import piece
from attnorm.data.problems import Problems
from attnorm.errors import DataError

IouType = Literal["bbox", "segm"]
Entry = dict[str, Any]
MOST = 2.0**53  # up to there JSON's whole numbers are exact
MASKS = 2**31  # bytes of run lengths that a file's masks may take, ten times what COCO's 860,000 do


def checked_ground_truth(content: Any, iou_type: IouType, masks: Any, name: str) -> dict[str, list[Entry]]:
    """What evaluation needs of a COCO file of instances, in new dictionaries; annotations are numbered from 1.

    Args:
        content: of the file: images, annotations, categories. Where an annotation has no area, it is the mask's or, for
            want of a mask, the box's.
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
        if not all(type(image.get(side)) is int and 0 < image[side] < MOST for side in ("height", "width")):
            problems.add("images without height and width", f"id {number}")
    _refuse(problems, f"{name} must be sound COCO JSON of instances")
    checker = _Checker(iou_type, images, categories, masks, name)
    # The number 0 would read as "no match" in pycocotools.
    annotations = checker.checked(checker.annotation, content["annotations"], "annotations[{}]")
    _refuse(checker.problems, f"{name} must be sound COCO JSON of instances")
    return {
        "images": [{"id": n, "height": image["height"], "width": image["width"]} for n, image in images.items()],
        "annotations": annotations,
        "categories": [{"id": n, "name": str(category.get("name", n))} for n, category in categories.items()],
    }


def checked_results(
    content: Any, ground_truth: dict[str, list[Entry]], iou_type: IouType, masks: Any, name: str
) -> dict[str, list[Entry]]:
    """COCO result entries as the ground truth's counterpart, in new dictionaries.

    Args:
        content: list of image_id, category_id, score and bbox or segmentation.
        ground_truth: of `checked_ground_truth`.
        iou_type: boxes or masks. Of entries with both, the area of a mask is then the mask's, not the box's.
        masks: module of COCO's mask functions.
        name: the file's, for messages.

    Raises:
        DataError: in one line everything that is wrong.
    """
    if not isinstance(content, list):
        raise DataError(f"{name} must be a list of COCO results; got {type(content).__name__}")
    images = {image["id"]: image for image in ground_truth["images"]}
    categories = {category["id"]: category for category in ground_truth["categories"]}
    checker = _Checker(iou_type, images, categories, masks, name)
    entries = checker.checked(checker.result, content, "entry {}")
    _refuse(checker.problems, f"{name} must be COCO results ({iou_type}) of the ground truth's images and categories")
    return {**ground_truth, "annotations": entries}


class _Checker:
    """Annotations and results one by one, of their keys those that evaluation reads; collects what is wrong."""

    def __init__(
        self, iou_type: IouType, images: dict[int, Entry], categories: dict[int, Entry], masks: Any, name: str
    ) -> None:
        self.name, self.iou_type, self.images, self.categories, self.masks = name, iou_type, images, categories, masks
        self.problems = Problems()
        self.bytes = 0  # of run lengths so far: a polygon of a hundred bytes can take a million

    def checked(self, read: Callable[[Any], Entry], entries: list[Any], place: str) -> list[Entry]:
        """The good ones of the entries, as `read` gives them, numbered from 1; the others are problems."""
        found: list[Entry] = []
        for number, entry in enumerate(entries):
            try:
                found.append(read(entry) | {"id": number + 1})
            except ValueError as error:
                self.problems.add(str(error), place.format(number))
        return found

    def annotation(self, entry: Any) -> Entry:
        """One of the ground truth; raises as `_instance`."""
        instance = self._instance(entry)
        if entry.get("iscrowd", 0) not in (0, 1):
            raise ValueError("entries with an iscrowd other than 0 and 1")
        if "area" in entry and not _is_number(entry["area"]):
            raise ValueError("entries without a finite area")
        area = entry["area"] if "area" in entry else self._given_area(entry)
        return instance | {"area": area, "iscrowd": int(entry.get("iscrowd", 0))}

    def result(self, entry: Any) -> Entry:
        """One of the results; raises as `_instance`."""
        instance = self._instance(entry)
        if not _is_number(entry.get("score")):
            raise ValueError("entries without a finite score")
        return instance | {"score": entry["score"], "area": self._area(instance), "iscrowd": 0}

    def _instance(self, entry: Any) -> Entry:
        """Image, category and shape.

        Raises:
            ValueError: says what is wrong, in the plural.
        """
        if not isinstance(entry, dict):
            raise ValueError("entries that are no objects")
        image, category = entry.get("image_id"), entry.get("category_id")
        if type(image) is not int or image not in self.images:
            raise ValueError("entries of unknown images")
        if type(category) is not int or category not in self.categories:
            raise ValueError("entries of unknown categories")
        key = "bbox" if self.iou_type == "bbox" else "segmentation"
        if not entry.get(key):
            raise ValueError(f"entries without {key}")
        if key == "bbox" and not _is_box(entry["bbox"]):
            raise ValueError("boxes that are not x, y, width, height: finite, no side negative")
        shape = entry["bbox"] if key == "bbox" else self._rle(entry["segmentation"], image)
        return {"image_id": image, "category_id": category, key: shape}

    def _rle(self, segmentation: Any, image: int) -> Entry:
        """A mask given as polygons, run lengths or their compressed text, as the last of these."""
        size = (self.images[image]["height"], self.images[image]["width"])
        data, polygons = piece(segmentation, size)
        if polygons:
            rle = self.masks.merge(self.masks.frPyObjects(segmentation, *size))
        else:
            rle = {"size": list(size), "counts": data.decode()}
        self.bytes += len(rle["counts"])
        if self.bytes > MASKS:
            raise DataError(
                f"the masks of {self.name} take more than {MASKS >> 30} GiB as run lengths: cut it into parts"
            )
        return rle

    def _given_area(self, entry: Entry) -> float:
        """Pixels of the mask or, where there is none, of the box."""
        if entry.get("segmentation"):
            return self._area({"segmentation": self._rle(entry["segmentation"], entry["image_id"])})
        return self._area({"bbox": entry["bbox"]})

    def _area(self, instance: Entry) -> float:
        if "segmentation" in instance:
            return float(self.masks.area(instance["segmentation"]))
        return instance["bbox"][2] * instance["bbox"][3]


def _refuse(problems: Problems, must: str) -> None:
    if problems:
        raise DataError(f"{must}; it has {problems}")


def _by_id(entries: list[Any], name: str, problems: Problems) -> dict[int, Entry]:
    found: dict[int, Entry] = {}
    for place, entry in enumerate(entries):
        number = entry.get("id") if isinstance(entry, dict) else None
        if type(number) is not int or number in found or not 0 <= number < MOST:
            problems.add(f"{name} without an id of their own, a whole number below 2^53", f"{name}[{place}]")
        else:
            found[number] = entry
    if not entries:
        problems.add("empty lists", name)
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MOST  # not so of NaN


def _is_box(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(map(_is_number, box)) and min(box[2:]) >= 0
