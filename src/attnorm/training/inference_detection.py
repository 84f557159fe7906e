"""`attnorm eval` for detection: a detector's checkpoint on a data set, or a results file against its ground truth."""

from collections.abc import Sequence
from typing import Any

import torch

from attnorm.data import DataConfig, load_detection, make_loader
from attnorm.data.annotations import Category
from attnorm.data.coco_config import CocoConfig
from attnorm.detection import published
from attnorm.detection.average_precision import METRICS, average_precision
from attnorm.detection.detector import Detector
from attnorm.errors import ConfigError, shown
from attnorm.files import write_json_atomic
from attnorm.training.checkpoint import CheckpointMeta
from attnorm.training.evaluation_detection import evaluate_detector
from attnorm.training.processes import Processes, process_group
from attnorm.training.use_config import EvalConfig

FEW = 20  # categories, whose AP is printed without being asked for
COCO_VAL2017 = (5000, 80)  # images and categories
NAMES = {"box": "boxes", "mask": "masks"}


def evaluate_detector_checkpoint(
    config: EvalConfig,
    detector: Detector,
    meta: CheckpointMeta,
    processes: Processes,
    device: torch.device,
    precision: str,
) -> dict[str, Any]:
    """Evaluates a detector that was loaded; under torchrun in several processes.

    Returns:
        checkpoint, model, dataset, what `evaluate_detector` gives, `notes` on the data, and `published`: on COCO's
        val2017 the authors' results of a detector of that name with these heads: box_AP and mask_AP in percent, source.
        Written to `config.json` too when that is given.

    Raises:
        ConfigError: several data sets, or one that is not for detection, or a size that no image gets.
        DataError: the data are missing, damaged, or of other categories than the detector's.
    """
    if len(config.datasets) > 1:
        raise ConfigError(f"a detector is measured on one data set at a time; got dataset {config.dataset}")
    _check_data(config, config.dataset or meta.dataset, meta.model)
    settings = DataConfig(
        dataset=config.dataset or meta.dataset,
        data_dir=config.data_dir,
        image_size=config.image_size,
        max_bad_images=config.max_bad_images,
        coco=CocoConfig(val_annotations=config.annotations, val_images=config.images),
    )
    with process_group(processes, device):
        data = load_detection(settings, ("val",), _categories(meta), masks=detector.has_masks)
        assert data.val is not None
        loader = make_loader(data.val, batch_size=1, train=False, workers=config.workers)
        numbers = evaluate_detector(
            detector.to(device),
            loader,
            data.val.ground_truth(),
            device=device,
            precision=precision,
            categories=data.categories,
            masks=data.has_masks,
            backend=config.backend,
            save_predictions=config.save_predictions,
        )
    result = {"checkpoint": config.checkpoint, "model": meta.model, "dataset": data.name, **numbers}
    known = data.name == "coco" and (numbers["count"], len(data.categories)) == COCO_VAL2017
    rows = published.results(meta.model, detector.config) if known else ()
    result |= {
        "notes": list(data.notes),
        "published": [{"box_AP": row.box_AP, "mask_AP": row.mask_AP, "source": row.source} for row in rows],
    }
    if config.json is not None and processes.is_first:
        write_json_atomic(config.json, result)
    return result


def _check_data(config: EvalConfig, dataset: str, model: str) -> None:
    """Refuses settings of the data that would do nothing."""
    if config.val_split is not None:
        raise ConfigError(f"val_split is for classification, and {model} detects: name the part by annotations")
    if dataset != "shapes":
        if config.image_size is not None:
            raise ConfigError(
                f"image_size is for shapes and for classification: {model} resizes by its own min_size; leave it out"
            )
        return
    for name in ("data_dir", "annotations", "images"):
        if getattr(config, name) is not None:
            raise ConfigError(
                f"{name} does nothing for dataset shapes, which is drawn; to measure other data add --dataset coco"
            )


def evaluate_predictions(config: EvalConfig) -> dict[str, Any]:
    """Measures a results file.

    Returns:
        annotations, predictions, iou_type and what `average_precision` gives. Written to `config.json` too when that is
        given.

    Raises:
        DataError: a file cannot be read, or evaluated; all that is wrong, in one line.
    """
    assert config.annotations is not None
    assert config.predictions is not None
    iou_type = config.iou_type or "bbox"
    result = {
        "annotations": config.annotations,
        "predictions": config.predictions,
        "iou_type": iou_type,
        **average_precision(config.annotations, config.predictions, iou_type, backend=config.backend),
    }
    if config.json is not None:
        write_json_atomic(config.json, result)
    return result


def describe(result: dict[str, Any], *, per_category: bool = False) -> list[str]:
    """Either result in lines to print: percent, with one decimal.

    Args:
        result: of the functions above.
        per_category: print the AP of each category even of many.
    """
    if "predictions" in result:
        kinds = {"": "boxes" if result["iou_type"] == "bbox" else "masks"}
        title = f"{result['predictions']}: {result['images']} images, {result['detections']} detections"
    else:
        kinds = {f"{kind}_": name for kind, name in NAMES.items() if f"{kind}_AP" in result}
        title = f"{result['model']} on {result['dataset']}: {result['count']} images, {result['detections']} detections"
        if result["missing"]:
            title += f"; {result['missing']} images not seen, where nothing counts as found"
    lines = [
        title,
        *(f"  {note}" for note in result.get("notes", ())),
        *_table("percent", METRICS, [(name, [result[f"{kind}{m}"] for m in METRICS]) for kind, name in kinds.items()]),
    ]
    lines += [
        f"  published: box AP {row['box_AP']:.1f}, mask AP {row['mask_AP']:.1f} ({row['source']})"
        for row in result.get("published", ())
    ]
    categories = result["per_category"]
    if per_category or len(categories) <= FEW:
        rows = [(shown(row["name"]), [row[f"{kind}AP"] for kind in kinds]) for row in categories]
        lines += ["", *_table("AP by category", list(kinds.values()), rows)]
    return lines


def _table(title: str, columns: Sequence[str], rows: Sequence[tuple[str, list[float | None]]]) -> list[str]:
    wide = max(len(name) for name in (title, *(name for name, _ in rows)))
    cells = [(name, ["-" if value is None else f"{100 * value:.1f}" for value in row]) for name, row in rows]
    return [f"{name:<{wide}}" + "".join(f"{cell:>7}" for cell in row) for name, row in [(title, columns), *cells]]


def _categories(meta: CheckpointMeta) -> tuple[Category, ...]:
    return tuple(Category(id, name) for id, name in zip(meta.category_ids or (), meta.classes, strict=True))
