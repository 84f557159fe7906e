"""COCO's numbers of a detector over a data set, over all processes."""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from attnorm.data.annotations import Category
from attnorm.detection.average_precision import METRICS, Backend, average_precision
from attnorm.detection.coco_entries import Entry
from attnorm.detection.detector import Detector
from attnorm.detection.results import Paste, coco_results
from attnorm.errors import DataError, JobError
from attnorm.files import write_json_atomic
from attnorm.training.evaluation import autocast, share_buffers

Loader = Iterable[tuple[Sequence[Tensor], Sequence[dict[str, Tensor]]]]


class CocoTally:
    """Result entries of the images seen, an image's masks as run lengths at once.

    Args:
        category_ids: of the labels from 1.
        paste: the detector's way from small masks to masks of the image; see `attnorm.detection.conventions`.
    """

    def __init__(self, category_ids: Sequence[int], paste: Paste) -> None:
        self.category_ids, self.paste = tuple(category_ids), paste
        self.entries: dict[int, list[Entry]] = {}  # by image

    def add(self, detection: dict[str, Any], image_id: int) -> None:
        """Takes what `Detector.detect` gave for one image."""
        self.entries[image_id] = coco_results(detection, image_id, self.category_ids, self.paste)

    def gather(self) -> dict[int, list[Entry]]:
        """The entries of every image that any process saw, by its id and in that order: each image once."""
        parts = [self.entries]
        if dist.is_initialized():
            gathered: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(gathered, self.entries)
            parts = gathered
        together = {image_id: entries for part in parts for image_id, entries in part.items()}
        return dict(sorted(together.items()))


@torch.no_grad()
def evaluate_detector(
    detector: Detector,
    loader: Loader,
    ground_truth: dict[str, Any],
    *,
    device: torch.device | str,
    precision: str = "32",
    categories: Sequence[Category],
    masks: bool = True,
    backend: Backend = "faster-coco-eval",
    save_predictions: str | None = None,
) -> dict[str, Any]:
    """Evaluates a detector; under torch.distributed every process calls it with its own part of the data.

    The numbers depend neither on how images are batched nor on how many processes share them.

    Args:
        detector: its training mode is put back afterwards.
        loader: gives images and targets, of which only `image_id` is read; a batch may be empty.
        ground_truth: COCO's images, annotations and categories of the whole data set.
        device: where to compute.
        precision: "32", "bf16" or "fp16".
        categories: of the detector's labels from 1.
        masks: measure masks too; for data that have them, and a detector that finds them.
        backend: library that computes; see `average_precision`.
        save_predictions: COCO results of all images, written to this file by the first process.

    Returns:
        `box_AP`, `box_AP50`, ... (METRICS), with masks `mask_AP`, ... too, from 0 to 1, None where undefined;
        `per_category`: a list of id, name, box_AP and mask_AP; `count` of images, `missing` images of the ground truth
        that were not seen, and `detections`. The same in every process.

    Raises:
        DataError: there are no images, or images that the ground truth does not have.
    """
    share_buffers(detector)
    tally = CocoTally([category.id for category in categories], detector.roi_heads.conventions.paste)
    was_training = detector.training
    detector.eval()
    try:
        # Each image by itself: what is found at its border depends on the padding that others in a batch would give it.
        for image, target in chain.from_iterable(zip(*batch, strict=True) for batch in loader):
            with autocast(precision, torch.device(device)):
                (detection,) = detector.detect([image.to(device, non_blocking=True)])
            if not masks:
                detection.pop("mask_probabilities", None)
            tally.add(detection, int(target["image_id"]))
    finally:
        detector.train(was_training)
    entries = tally.gather()
    outcome: list[Any] = [None]
    if not dist.is_initialized() or dist.get_rank() == 0:
        try:
            if save_predictions is not None:
                write_json_atomic(save_predictions, [entry for some in entries.values() for entry in some])
            outcome = [_numbers(entries, ground_truth, masks, backend)]
        except (OSError, JobError) as error:  # the others wait for an answer
            outcome = [error]
    if dist.is_initialized():
        dist.broadcast_object_list(outcome, src=0)
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]


def _numbers(
    entries: dict[int, list[Entry]], ground_truth: dict[str, Any], masks: bool, backend: Backend
) -> dict[str, Any]:
    if not entries:
        raise DataError("the evaluation part of the data has no images; check val_images and data_dir")
    results = [entry for some in entries.values() for entry in some]
    kinds: dict[str, Any] = {"box": average_precision(ground_truth, results, "bbox", backend=backend)}
    if masks:
        kinds["mask"] = average_precision(ground_truth, results, "segm", backend=backend)
    categories = [
        {"id": rows[0]["id"], "name": rows[0]["name"]}
        | {f"{kind}_AP": row["AP"] for kind, row in zip(kinds, rows, strict=True)}
        for rows in zip(*(found["per_category"] for found in kinds.values()), strict=True)
    ]
    return {f"{kind}_{name}": found[name] for kind, found in kinds.items() for name in METRICS} | {
        "per_category": categories,
        "count": len(entries),
        "missing": len({image["id"] for image in ground_truth["images"]} - entries.keys()),
        "detections": len(results),
    }
