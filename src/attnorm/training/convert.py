"""`attnorm convert`: from the authors' checkpoints to this package's, and to either of their key schemes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from attnorm import __version__
from attnorm.data.folder import MEAN, STD
from attnorm.detection.released import ReleasedDetector, read_released, to_released
from attnorm.errors import CheckpointError, ConfigError
from attnorm.files import replacing, write_json_atomic
from attnorm.models import published
from attnorm.models.released import LoadReport, Released
from attnorm.training.checkpoint import CheckpointMeta, has_header, load_checkpoint, save_checkpoint
from attnorm.training.convert_detector import describe_detector
from attnorm.training.header import class_names
from attnorm.training.use_config import ConvertConfig

LICENCE = (
    "weights that the authors of AN released stay under their terms, which allow research only, and their release "
    "mentions a pending patent; converting relicenses nothing"
)
_BICUBIC = (
    "the authors resized with bicubic interpolation for the 120-epoch weights of this network and bilinear for the "
    "200-epoch ones, and keys cannot tell which these are: the file says bilinear, `attnorm eval --interpolation "
    "bicubic` is the other"
)


def convert(config: ConvertConfig) -> str:
    """Converts a checkpoint and writes the result, complete or not at all.

    Args:
        config: what to read, what to write. An authors' file becomes this package's or, of a network, the other
            scheme's; a file of `attnorm train` becomes an authors'.

    Returns:
        What was read and written, in lines for a person; with `config.json` a file has it for programs.

    Raises:
        ConfigError: the output's name does not fit its format.
        CheckpointError: the input is no checkpoint of a released network, or the scheme asked for does not have it.
    """
    if Path(config.input).resolve() == Path(config.output).resolve():
        raise ConfigError(f"output must be another file than input; got {config.output} for both")
    if has_header(config.input):
        return _from_attnorm(config)
    released = read_released(config.input, backbone_only=config.backbone_only)
    report = replace(released.report, notes=(*released.report.notes, *_notes(released), LICENCE))
    provenance = provenance_of(report)
    if config.to != "attnorm":
        entries = _named(released.build(), config)
        _save_released(config.output, entries, provenance)
    elif isinstance(released, ReleasedDetector):
        meta = describe_detector(released, provenance)
        save_checkpoint(config.output, released.build(), meta)
        provenance = meta.provenance or {}
    else:
        save_checkpoint(config.output, released.build(), describe(released, config.dataset))
    if config.json is not None:
        content = {**report.to_dict(), "published": provenance["published"]}
        write_json_atomic(config.json, {"output": config.output, "to": config.to, **content})
    return f"{report}\nwritten      {config.output} ({config.to})"


def _notes(released: Released | ReleasedDetector) -> list[str]:
    # An epoch beyond the 120th can only be of the longer recipe.
    either = released.name == "aognet_12m" and (released.report.epoch or 0) <= 120
    return [_BICUBIC] if either else []


def describe(released: Released, dataset: str = "imagenet") -> CheckpointMeta:
    """The header of a released network's checkpoint: the authors' evaluation of ImageNet, and where it comes from.

    Args:
        released: what was read.
        dataset: the data set that its classes are of.
    """
    report = released.report
    # A network for other channels was fine-tuned on images of which nothing is known.
    mean, std = (MEAN, STD) if report.in_chans == 3 else ((0.5,) * report.in_chans,) * 2
    return CheckpointMeta(
        model=released.name,
        num_classes=report.num_classes,
        in_chans=report.in_chans,
        classes=class_names(report.num_classes, dataset),
        dataset=dataset,
        image_size=224,
        mean=mean,
        std=std,
        crop_pct=0.875,
        interpolation="bilinear",
        epoch=report.epoch or 0,
        attnorm_version=__version__,
        provenance=provenance_of(report),
    )


def provenance_of(report: LoadReport) -> dict[str, Any]:
    """Where converted weights come from, ready for JSON: the file, its names in the release, published accuracy."""
    rows = [row for row in published.results(report.model) if row.name in report.names]
    return {
        "file": Path(report.file).name,
        "sha256": report.sha256,
        "size": report.size,
        "scheme": report.scheme,
        "released_as": list(report.names),
        "epoch": report.epoch,
        "best_top1": report.best_top1,
        # A fine-tuned network has no published numbers.
        "published": [
            {
                "name": row.name,
                "recipe": row.recipe,
                "source": row.source,
                "top1": row.accuracy["imagenet"][0],
                "top5": row.accuracy["imagenet"][1],
            }
            for row in rows
            if report.num_classes == 1000 and report.in_chans == 3
        ],
        "licence": LICENCE,
    }


def _from_attnorm(config: ConvertConfig) -> str:
    if config.to == "attnorm":
        raise CheckpointError(
            f"input must be an authors' checkpoint, and {config.input} is attnorm's already: use it as it is, or give "
            "--to aognet-v2 or --to ivmcl-release, of a detector --to attentivenorm-detection"
        )
    if config.backbone_only:
        raise ConfigError("backbone_only is for the authors' files; an attnorm checkpoint is converted whole")
    model, meta = load_checkpoint(config.input)
    entries = _named(model, config)
    source = {"file": Path(config.input).name, "model": meta.model, "dataset": meta.dataset, "epoch": meta.epoch}
    _save_released(config.output, entries, meta.provenance or source)
    if config.json is not None:
        write_json_atomic(config.json, {"output": config.output, "to": config.to, "entries": len(entries), **source})
    return f"{config.input}: {meta.model}, {len(entries)} entries\nwritten      {config.output} ({config.to})"


def _named(model: nn.Module, config: ConvertConfig) -> dict[str, Tensor]:
    assert config.to != "attnorm"
    try:
        return to_released(model, config.to)
    except CheckpointError as error:
        raise CheckpointError(f"{config.input} cannot have keys of {config.to}: {error}") from None


def _save_released(path: str, entries: dict[str, Tensor], provenance: dict[str, Any]) -> None:
    import torch

    with replacing(path) as temporary:
        torch.save({"state_dict": entries, "provenance": provenance}, temporary)
