"""A detector whose answers follow from the image alone, in one process or in several.

A module of its own, without fixtures: every process has to import it anew.
"""

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist
from torch import Tensor, nn

from attnorm.data.annotations import Category
from attnorm.training.evaluation_detection import evaluate_detector

SIZE = (60, 80)
CATEGORIES = (Category(3, "dog"), Category(7, "cat"))
IMAGES = 11


def paste(probabilities: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """The whole of each box, which ends on whole pixels."""
    masks = torch.zeros(len(boxes), *size)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = 1
    return masks


def objects(image_id: int) -> tuple[Tensor, Tensor]:
    """Boxes (3, 4) and labels (3,) of an image, at random by its id."""
    generator = torch.Generator().manual_seed(image_id)
    corners = torch.randint(0, 40, (3, 2), generator=generator)
    sides = torch.randint(5, 20, (3, 2), generator=generator)
    return torch.cat([corners, corners + sides], dim=1).float(), torch.randint(1, 3, (3,), generator=generator)


class Rule(nn.Module):
    """Finds the objects of the image whose id is its first pixel, the second two pixels beside where they are."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.roi_heads = SimpleNamespace(conventions=SimpleNamespace(paste=paste))

    def detect(self, images: list[Tensor]) -> list[dict[str, object]]:
        assert not self.training
        found = []
        for image in images:
            boxes, labels = objects(int(image[0, 0, 0]))
            boxes[1] += 2
            # Equal scores in all images: then the order of the images decides, and it must not be the processes'.
            scores = torch.tensor([0.9, 0.8, 0.7])
            found.append(
                {"boxes": boxes, "labels": labels, "scores": scores, "mask_probabilities": torch.ones(3, 28, 28),
                 "size": SIZE}
            )  # fmt: skip
        return found


def ground_truth() -> dict[str, list[dict[str, object]]]:
    """COCO's dictionary of all images; of every third one object is missing."""
    annotations = [
        {
            "id": 10 * image_id + place,
            "image_id": image_id,
            "category_id": CATEGORIES[label - 1].id,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1),
            "iscrowd": 0,
            "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
        }
        for image_id, (boxes, labels) in ((n, objects(n)) for n in range(IMAGES))
        for place, (x1, y1, x2, y2, label) in enumerate(torch.cat([boxes, labels[:, None]], dim=1).int().tolist())
        if image_id % 3 or place
    ]  # fmt: skip
    return {
        "images": [{"id": image_id, "height": SIZE[0], "width": SIZE[1]} for image_id in range(IMAGES)],
        "annotations": annotations,
        "categories": [{"id": category.id, "name": category.name} for category in CATEGORIES],
    }


def batches(image_ids: range) -> list[tuple[list[Tensor], list[dict[str, Tensor]]]]:
    """Batches of two, and an empty one, as where no image of a batch can be read."""
    images = [torch.full((3, *SIZE), image_id, dtype=torch.uint8) for image_id in image_ids]
    targets = [{"image_id": torch.tensor(image_id)} for image_id in image_ids]
    pairs = [(images[n : n + 2], targets[n : n + 2]) for n in range(0, len(images), 2)]
    return [*pairs[:1], ([], []), *pairs[1:]]


def results(image_ids: range, predictions: str | None = None) -> dict[str, object]:
    """The numbers of all processes together."""
    return evaluate_detector(
        Rule().train(),  # pyright: ignore[reportArgumentType]
        batches(image_ids),
        ground_truth(),
        device="cpu",
        categories=CATEGORIES,
        save_predictions=predictions,
    )


def process(rank: int, count: int, meeting: str, output: str) -> None:
    """One of `count` processes that meet at the file `meeting`; writes output/<rank>.json."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    dist.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=count)
    found = results(range(rank, IMAGES, count), f"{output}/predictions.json")
    Path(output, f"{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()
