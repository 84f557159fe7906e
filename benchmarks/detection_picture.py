"""What detectors find, beside what is there: a row for each of the first images of a data set."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from faster_coco_eval.core import mask as coco
from PIL import Image

from attnorm.data import CocoConfig, DataConfig, load_detection
from attnorm.detection.draw import draw_detections
from attnorm.files import replacing

IMAGES = 3
WIDTH = 420  # of each picture, in pixels
GAP = 6
SCORE = 0.5  # below, what was found is not drawn

Entries = list[dict[str, Any]]


def by_image(entries: Sequence[dict[str, Any]]) -> dict[int, Entries]:
    """Annotations or results by their image's id."""
    grouped: dict[int, Entries] = {}
    for entry in entries:
        grouped.setdefault(entry["image_id"], []).append(entry)
    return grouped


def draw(data_dir: Path, coco_files: CocoConfig, results: Iterable[Path], output: Path) -> None:
    """Save the picture.

    Args:
        data_dir: A COCO-format data set.
        coco_files: Names its evaluation part.
        results: Results files on it, a column each after that of the ground truth.
        output: PNG file.
    """
    part = load_detection(DataConfig(dataset="coco", data_dir=str(data_dir), coco=coco_files), ("val",)).val
    assert part is not None
    truth = part.ground_truth()
    names = {category["id"]: category["name"] for category in truth["categories"]}
    objects = by_image(truth["annotations"])
    found = [by_image(json.loads(path.read_text(encoding="utf-8"))) for path in results]
    rows: list[list[Image.Image]] = []
    for place, image in enumerate(truth["images"][:IMAGES]):
        picture = part.image(place)
        columns = [[_as_found(entry, picture) for entry in objects.get(image["id"], ())]]
        columns += [[entry for entry in each.get(image["id"], ()) if entry["score"] > SCORE] for each in found]
        drawn = [draw_detections(picture, entries, names) for entries in columns]
        rows.append([each.resize((WIDTH, round(each.height * WIDTH / each.width))) for each in drawn])
    with replacing(output) as temporary:
        _sheet(rows).save(temporary, format="png", optimize=True)


def _sheet(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    height = sum(row[0].height + GAP for row in rows) - GAP
    sheet = Image.new("RGB", (len(rows[0]) * (WIDTH + GAP) - GAP, height), "white")
    top = 0
    for row in rows:
        for column, each in enumerate(row):
            sheet.paste(each, (column * (WIDTH + GAP), top))
        top += row[0].height + GAP
    return sheet


def _as_found(entry: dict[str, Any], picture: Image.Image) -> dict[str, Any]:
    """An annotation as an entry of a results file: a score, and the mask as compressed run lengths."""
    mask = entry["segmentation"]
    if isinstance(mask, list):
        mask = coco.merge(coco.frPyObjects(mask, picture.height, picture.width))  # pyright: ignore
    elif isinstance(mask["counts"], list):
        mask = coco.frPyObjects(mask, picture.height, picture.width)  # pyright: ignore
    return {**entry, "segmentation": mask, "score": 1.0}
