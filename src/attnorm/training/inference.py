"""`attnorm eval`: a checkpoint measured on a data set, or on several."""

import math
import sys
from dataclasses import replace
from typing import Any, cast

import torch
from torch import nn

from attnorm.data import DataConfig, ImageData, load_data, make_loader
from attnorm.errors import ConfigError, DataError, shown
from attnorm.files import write_json_atomic
from attnorm.models import published
from attnorm.training.checkpoint import CheckpointMeta, check_classifies, load_checkpoint
from attnorm.training.evaluation import Tally, evaluate
from attnorm.training.outliers import OutlierTally
from attnorm.training.processes import Processes, check_precision, choose_device, process_group
from attnorm.training.use_config import CLASSIFIER_FIELDS, DETECTOR_FIELDS, EvalConfig


def evaluate_checkpoint(config: EvalConfig) -> dict[str, Any]:
    """Loads a checkpoint and evaluates it as the run that made it did; under torchrun in several processes.

    Args:
        config: what to evaluate on what. What is not given is taken from the checkpoint.

    Returns:
        Of a detector see `attnorm.training.inference_detection`. Else checkpoint, model, dataset, `classes` (those of
        the data set), `outputs` (those of the network that compete), count, `left_out` (images without a right answer),
        top1, top5 (percent) and loss (None when not finite, or when images have several labels), and `published`: the
        authors' results of a network of that name on that data set, with recipe, top1, top5 and source. For imagenet_o,
        in place of top1, top5, loss and published, what `OutlierTally.result` gives, with the score's name. Of several
        data sets: checkpoint, model and `results`, a list of such dictionaries. Written to `config.json` too when that
        is given.

    Raises:
        ConfigError: a setting does nothing for such a network.
        CheckpointError: the checkpoint cannot be used.
        DataError: the data are missing, damaged, or of other classes or channels than the network's.
    """
    processes = Processes.from_environment()
    device = choose_device(config.device, processes)
    precision = ("bf16" if config.amp_dtype == "bfloat16" else "fp16") if config.amp else "32"
    check_precision(precision, device)
    assert config.checkpoint is not None  # a results file is measured elsewhere
    model, meta = load_checkpoint(config.checkpoint)
    check_classifies(meta, config.checkpoint)
    config.refuse_all_but(DETECTOR_FIELDS if meta.detector else CLASSIFIER_FIELDS, meta.model)
    if meta.detector is not None:
        from attnorm.training.inference_detection import evaluate_detector_checkpoint

        return evaluate_detector_checkpoint(config, cast(Any, model), meta, processes, device, precision)
    if not config.datasets and meta.dataset.startswith("hfds:"):
        raise ConfigError(
            f"dataset must be given: {config.checkpoint} names {shown(meta.dataset)}, and is not followed"
        )
    sets = [_settings(config, meta, name) for name in config.datasets or (meta.dataset,)]
    with process_group(processes, device):
        # All before the first is evaluated: what is missing is to be known at once.
        loaded = [_load(config, meta, settings) for settings in sets]
        model = model.to(device)
        if config.channels_last:
            model = model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        results = [
            {"checkpoint": config.checkpoint, "model": meta.model, "dataset": data.name, "classes": classes}
            | _measure(config, model, meta, data, precision, device)
            for data, classes in loaded
        ]
    several = {"checkpoint": config.checkpoint, "model": meta.model, "results": results}
    result = results[0] if len(results) == 1 else several
    if config.json is not None and processes.is_first:
        write_json_atomic(config.json, result)
    return result


def describe(result: dict[str, Any]) -> list[str]:
    """The result for a classification network in lines to print, the published numbers below the measured ones."""
    if "results" in result:
        return [line for one in result["results"] for line in describe(one)]
    if "aupr" in result:
        measured = (
            f"AUPR {result['aupr']:.2f}, AUROC {result['auroc']:.2f}, FPR at 95% TPR {result['fpr95']:.2f} "
            f"({result['outliers']} outliers are the positives, score {result['score']})"
        )
    else:
        measured = f"top-1 {result['top1']:.2f}, top-5 {result['top5']:.2f}"
        if result["dataset"] != "imagenet_real":
            measured += f", loss {'not finite' if result['loss'] is None else format(result['loss'], '.4f')}"
    line = f"{result['model']} on {result['dataset']}: {measured}, {result['count']} images"
    if result["left_out"]:
        line += f", {result['left_out']} without a label left out"
    if result["outputs"] != result["network_outputs"]:
        line += f", {result['outputs']} of {result['network_outputs']} outputs compete"
    elif result["classes"] < result["outputs"]:
        line += f" of {result['classes']} classes, all {result['outputs']} outputs compete"
    return [line] + [
        f"  published: top-1 {row['top1']:g}, top-5 {row['top5']:g} ({row['recipe']} recipe, {row['source']})"
        for row in result.get("published", ())
    ]


def _settings(config: EvalConfig, meta: CheckpointMeta, name: str) -> DataConfig:
    return DataConfig(
        dataset=name,
        data_dir=config.data_dir,
        val_split=config.val_split,
        image_size=config.image_size or meta.image_size,
        crop_pct=config.crop_pct or meta.crop_pct,
        interpolation=config.interpolation or meta.interpolation,
        max_bad_images=config.max_bad_images,
    )


def _load(config: EvalConfig, meta: CheckpointMeta, settings: DataConfig) -> tuple[ImageData, int]:
    """The data, labels numbered by the checkpoint's classes, and how many classes they are of."""
    id_dir = config.id_dir if settings.dataset == "imagenet_o" else None
    data = load_data(settings, ("val",), id_dir=id_dir)
    own = data.classes
    if own != meta.classes and set(own) <= set(meta.classes):
        data = load_data(settings, ("val",), meta.classes, id_dir=id_dir)
    _check_fit(data, meta, str(config.checkpoint))
    if data.outputs is not None:
        return data, len(data.outputs)
    if config.restrict_classes and data.classes == meta.classes:
        data = replace(data, outputs=tuple(sorted(meta.classes.index(name) for name in own)))
    return data, len(own)


def _measure(
    config: EvalConfig, model: nn.Module, meta: CheckpointMeta, data: ImageData, precision: str, device: torch.device
) -> dict[str, Any]:
    assert data.val is not None
    loader = make_loader(data.val, batch_size=config.batch_size or 256, train=False, workers=config.workers)
    outliers = data.measure == "outliers"
    measure = OutlierTally(data.outputs, config.outlier_score) if outliers else Tally(device, data.outputs)
    numbers = evaluate(
        model,
        loader,
        mean=meta.mean,
        std=meta.std,
        precision=precision,
        channels_last=config.channels_last,
        measure=measure,
    )
    known = {
        "outputs": meta.num_classes if data.outputs is None else len(data.outputs),
        "network_outputs": meta.num_classes,
        "left_out": data.left_out,
    }
    if outliers:
        return {**known, **numbers, "score": config.outlier_score}
    loss = numbers.get("loss", math.nan)
    return {
        **known,
        **numbers,
        "loss": loss if math.isfinite(loss) else None,
        "published": _published(meta.model, data.name),
    }


def _published(model: str, dataset: str) -> list[dict[str, Any]]:
    """What the authors published; both recipes where there are two, since weights do not say which they come from."""
    return [
        {"recipe": row.recipe, "top1": row.accuracy[dataset][0], "top5": row.accuracy[dataset][1], "source": row.source}
        for row in published.results(model)
        if dataset in row.accuracy
    ]


def _check_fit(data: ImageData, meta: CheckpointMeta, checkpoint: str) -> None:
    if len(data.classes) != len(meta.classes):
        raise DataError(
            f"{data.name} must have the {len(meta.classes)} classes of {checkpoint}, or some of them by the same names;"
            f" it has {len(data.classes)}; a label would mean another class"
        )
    if data.in_chans != meta.in_chans:
        raise DataError(
            f"{data.name} must have the {meta.in_chans} channels of {checkpoint}, it has {data.in_chans}; "
            "evaluate on the data that the network is made for"
        )
    if tuple(data.classes) != meta.classes:
        names = next((a, b) for a, b in zip(data.classes, meta.classes, strict=True) if a != b)
        print(
            f"attnorm: warning: classes of {data.name} and of {checkpoint} have other names (first: {names[0]!r} and "
            f"{names[1]!r}); the count is right only if their order is the same",
            file=sys.stderr,
        )
