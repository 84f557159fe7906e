"""A data set written out as COCO-format files."""

from __future__ import annotations

from pathlib import Path

from attnorm.data.detection_data import DetectionDataset
from attnorm.files import replacing, write_json_atomic


def write_coco(dataset: DetectionDataset, root: str | Path, part: str) -> None:
    """Write root/images/<part>/<image_id>.png and root/annotations/instances_<part>.json.

    Args:
        dataset: what to write.
        root: becomes a data_dir that `load_detection` reads.
        part: the name of the part there, "train" or "val".

    Raises:
        DataError: an image is unreadable.
    """
    content = dataset.ground_truth()
    for index, entry in enumerate(content["images"]):
        entry["file_name"] = f"{entry['id']:012d}.png"
        with replacing(Path(root) / "images" / part / entry["file_name"]) as file:
            dataset.image(index).save(file, format="PNG")
    write_json_atomic(Path(root) / "annotations" / f"instances_{part}.json", content)
