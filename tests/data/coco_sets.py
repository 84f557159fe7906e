"""Small COCO-format data sets for tests."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from attnorm.data import CocoConfig, DataConfig

SQUARE = [[2.0, 3.0, 12.0, 3.0, 12.0, 9.0, 2.0, 9.0]]


def annotation(id: int, image_id: int = 1, category_id: int = 3, **more) -> dict[str, Any]:
    return {
        "id": id, "image_id": image_id, "category_id": category_id, "bbox": [2.0, 3.0, 10.0, 6.0], "area": 60.0,
        "iscrowd": 0, "segmentation": SQUARE, **more,
    }  # fmt: skip


def content(annotations=None, *, images=2, **more) -> dict[str, Any]:
    """Images 1, 2, ... of 20x16 pixels with an annotation each; categories 3 and 7."""
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 20, "height": 16} for i in range(1, images + 1)],
        "annotations": [annotation(i, i) for i in range(1, images + 1)] if annotations is None else annotations,
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
        **more,
    }


def write(root: Path, train=None, val=None) -> Path:
    """Write both parts and their images, plain colours: red = 10 * id."""
    for part, data in (("train", content() if train is None else train), ("val", content() if val is None else val)):
        (root / "annotations").mkdir(exist_ok=True)
        (root / "images" / part).mkdir(parents=True, exist_ok=True)
        (root / "annotations" / f"instances_{part}.json").write_text(json.dumps(data))
        for entry in data["images"] if isinstance(data, dict) else ():
            path = root / "images" / part / str(entry.get("file_name"))
            if not path.exists() and path.parent.is_dir():
                colour = (10 * (entry["id"] if isinstance(entry["id"], int) else 1) % 256, 0, 0)
                Image.new("RGB", (20, 16), colour).save(path)
    return root


def config(root, *, max_bad_images: int = 10, **coco) -> DataConfig:
    return DataConfig(dataset="coco", data_dir=str(root), max_bad_images=max_bad_images, coco=CocoConfig(**coco))
