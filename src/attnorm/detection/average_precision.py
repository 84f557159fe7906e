"""COCO's average precision and recall of boxes and masks, and the average precision of each category."""

import io
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Literal

from attnorm.data.json_files import read_json
from attnorm.detection.coco_entries import Entry, IouType, checked_ground_truth, checked_results
from attnorm.errors import ConfigError

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
Backend = Literal["faster-coco-eval", "pycocotools"]


def average_precision(
    ground_truth: str | Path | dict[str, Any],
    results: str | Path | list[Entry],
    iou_type: IouType,
    *,
    backend: Backend = "faster-coco-eval",
) -> dict[str, Any]:
    """COCO's twelve numbers and the average precision (AP) of each category; at most 100 detections of each image.

    Args:
        ground_truth: COCO's JSON of instances, or its content.
        results: COCO's JSON of results, or its content. May be empty.
        iou_type: "bbox" compares boxes, "segm" masks.
        backend: library that computes; both give the same numbers.

    Returns:
        The numbers by the names in METRICS, from 0 to 1: AP, the mean over overlaps (intersection over union) from 0.5
        to 0.95; AP50 and AP75 at one overlap; APs, APm and APl of instances below 32² pixels, up to 96², and above;
        AR1, AR10 and AR100, recall with so many detections of an image; ARs, ARm and ARl of the three sizes. None where
        the ground truth has no such instance. Besides `per_category`: a list of id, name and AP, by id; and the counts
        `images`, `instances` (crowds left out) and `detections`.

    Raises:
        DataError: files that cannot be read, or content that cannot be evaluated; all that is wrong, in one line.
        ConfigError: the library is not installed.
    """
    tools = _tools(backend)
    truth_name = str(ground_truth) if isinstance(ground_truth, str | Path) else "the ground truth"
    results_name = str(results) if isinstance(results, str | Path) else "the list of results"
    truth_content = read_json(ground_truth) if isinstance(ground_truth, str | Path) else ground_truth
    content = read_json(results) if isinstance(results, str | Path) else results
    truth = checked_ground_truth(truth_content, iou_type, tools.masks, truth_name)
    found = checked_results(content, truth, iou_type, tools.masks, results_name)
    counts = {
        "images": len(truth["images"]),
        "instances": sum(not annotation["iscrowd"] for annotation in truth["annotations"]),
        "detections": len(found["annotations"]),
    }
    return _evaluate(truth, found, iou_type, tools) | counts


class _Tools:
    """The same three parts of either library."""

    def __init__(self, coco: Any, evaluation: Any, masks: Any) -> None:
        self.coco, self.evaluation, self.masks = coco, evaluation, masks


def _tools(backend: Backend) -> _Tools:
    if backend == "faster-coco-eval":
        from faster_coco_eval import COCO, COCOeval_faster
        from faster_coco_eval.core import mask

        return _Tools(COCO, COCOeval_faster, mask)
    if backend != "pycocotools":
        raise ConfigError(f"backend must be faster-coco-eval or pycocotools; got {backend!r}")
    try:
        from pycocotools import coco, cocoeval, mask
    except ImportError:
        raise ConfigError(
            "backend pycocotools needs a package that is not installed: `pip install 'attnorm[cocoapi]'`, "
            "or take the backend faster-coco-eval, which gives the same numbers"
        ) from None
    return _Tools(coco.COCO, cocoeval.COCOeval, mask)


def _evaluate(
    truth: dict[str, list[Entry]], found: dict[str, list[Entry]], iou_type: IouType, tools: _Tools
) -> dict[str, Any]:
    with redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        evaluation = tools.evaluation(_indexed(truth, tools), _indexed(found, tools), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    names = {category["id"]: category["name"] for category in truth["categories"]}
    precision = evaluation.eval["precision"]  # (overlaps, recalls, categories, sizes, numbers of detections)
    per_category = []
    for place, number in enumerate(sorted(names)):
        values = precision[:, :, place, 0, -1]
        values = values[values > -1]
        ap = float(values.mean()) if values.size else None
        per_category.append({"id": number, "name": names[number], "AP": ap})
    numbers = (float(value) for value in evaluation.stats[: len(METRICS)])
    # Both libraries write -1 for a mean of nothing.
    return {name: None if value == -1 else value for name, value in zip(METRICS, numbers, strict=True)} | {
        "per_category": per_category
    }


def _indexed(content: dict[str, list[Entry]], tools: _Tools) -> Any:
    """The library's data set of that content. Its own reader of results fails on an empty list."""
    data = tools.coco()
    data.dataset = content
    data.createIndex()
    return data
