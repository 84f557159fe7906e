"""Weights in safetensors, whose header says what is needed to use them.

Wherever a checkpoint is read, the name of one that comes with the package (`attnorm.models.shipped`) is a path too, and
so is one in timm's layout (`attnorm.models.hub`), of this package or of timm.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from attnorm.detection.config import DetectorConfig
from attnorm.errors import CheckpointError, ConfigError, shown
from attnorm.files import replacing
from attnorm.models import hub, shipped
from attnorm.models.spec import parse_spec
from attnorm.models.torchvision_networks import is_torchvision
from attnorm.options import make_settings
from attnorm.training.header import KEY, CheckpointMeta, parse_header
from attnorm.training.timm_config import read_config

__all__ = [
    "KEY",
    "CheckpointMeta",
    "check_classifies",
    "has_header",
    "load_checkpoint",
    "load_weights",
    "read_meta",
    "save_checkpoint",
]


def save_checkpoint(path: str | Path, model: nn.Module, meta: CheckpointMeta) -> None:
    """Writes the weights of `model` to `path`, .safetensors, with `meta` in the header: complete or not at all."""
    from safetensors.torch import save_file

    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    with replacing(path) as temporary:
        save_file(weights, temporary, metadata={"format": "pt", KEY: json.dumps(asdict(meta))})


def load_checkpoint(path: str | Path) -> tuple[nn.Module, CheckpointMeta]:
    """Builds the network that a weights file names and loads its weights, on the CPU, in evaluation mode.

    Args:
        path: a .safetensors file of `save_checkpoint`, the name of a shipped one, or a place in timm's layout.

    Returns:
        The network and the file's header.

    Raises:
        CheckpointError: the file is missing, damaged, of another program, or does not fit the network it names.
    """
    file_path = hub.resolve(path)
    weights, header = _read(Path(path), file_path)
    meta = _meta(path, file_path, header)
    # Before the network is built: a number that is wrong could ask for all of the memory.
    if meta.num_classes and not any(value.shape[:1] == (meta.num_classes,) for value in weights.values()):
        count = shown(str(meta.num_classes))
        raise CheckpointError(f"{path} says num_classes {count}, and none of its weights are of as many")
    name = f"{path} ({shown(meta.model)})"
    try:
        if outline := _outline(meta):
            _refuse_misfit(outline, weights, name)
        model = _build(meta)
    except (ConfigError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, CheckpointError):
            raise
        reason = shown(" ".join(str(error).split()), 300)
        raise CheckpointError(f"{path} names a network that cannot be built: {reason}") from None
    load_weights(model, weights, name)
    return model.eval(), meta


def check_classifies(meta: CheckpointMeta, path: str | Path) -> None:
    """Refuses a backbone where a network must give classes.

    Raises:
        CheckpointError: the file's network has no classifier.
    """
    if meta.num_classes == 0:
        raise CheckpointError(
            f"{path} must be a network with a classifier, and is a backbone without one; train from it with "
            "--initial-checkpoint"
        )


def _outline(meta: CheckpointMeta) -> dict[str, Tensor]:
    """The entries of the network's state dict without their memory: a name may stand for any number of gigabytes.

    Empty for networks that cannot be built without it: torchvision's RegNets, the largest of which has 2.6 GB.
    """
    try:
        with torch.device("meta"):
            return _build(meta).state_dict()
    except NotImplementedError:
        return {}


def _build(meta: CheckpointMeta) -> nn.Module:
    source = parse_spec(meta.model).name
    if ":" in source and not is_torchvision(source):
        raise ConfigError(f"{shown(source)} lies on a hub or in a folder, where nothing is fetched from for a file")
    if meta.detector is None:
        from attnorm.models import create_model

        return create_model(meta.model, num_classes=meta.num_classes, in_chans=meta.in_chans)
    from attnorm.detection.create import create_detector

    return create_detector(
        meta.model,
        meta.num_classes,
        config=make_settings(DetectorConfig, meta.detector),
        image_mean=meta.mean,
        image_std=meta.std,
        in_chans=meta.in_chans,
    )


def has_header(path: str | Path) -> bool:
    """Whether a file is a safetensors file with this package's header; False for everything else, missing ones too."""
    return not _is_other_folder(path) and KEY in _header(hub.resolve(path))


def read_meta(path: str | Path) -> CheckpointMeta | None:
    """The header of a weights file without its weights, or in its place what config.json says; None where neither is.

    Raises:
        CheckpointError: it is damaged.
    """
    if _is_other_folder(path):
        return None
    file_path = hub.resolve(path)
    header = _header(file_path)
    return _meta(path, file_path, header) if KEY in header or hub.config_beside(file_path) else None


def _is_other_folder(path: str | Path) -> bool:
    return Path(path).is_dir() and not hub.is_place(path)


def _meta(path: str | Path, file_path: Path, header: Mapping[str, str]) -> CheckpointMeta:
    """From the header of the weights; config.json speaks where they have none."""
    config = hub.config_beside(file_path)
    if KEY in header or config is None:
        return parse_header(Path(path), header)
    return read_config(config, str(path))


def _header(file_path: Path) -> dict[str, str]:
    from safetensors import SafetensorError, safe_open

    if not file_path.is_file():  # a pipe would wait for ever
        return {}
    try:
        with safe_open(file_path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError):
        return {}


def load_weights(model: nn.Module, weights: dict[str, Tensor], name: str) -> None:
    """Loads weights that must fit exactly.

    Args:
        model: takes the weights.
        weights: its state dict, by name.
        name: what the weights are called in the message.

    Raises:
        CheckpointError: counts the entries that are missing, too many or of another shape, with an example of each.
    """
    _refuse_misfit(model.state_dict(), weights, name)
    model.load_state_dict(weights)


def _refuse_misfit(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], name: str) -> None:
    problems = {
        "missing": [key for key in own if key not in weights],
        "unexpected": [key for key in weights if key not in own],
        "of another shape": [
            f"{key} {tuple(weights[key].shape)} for {tuple(own[key].shape)}"
            for key in own
            if key in weights and weights[key].shape != own[key].shape
        ],
    }
    found = [f"{len(keys)} {what} (first: {shown(keys[0])})" for what, keys in problems.items() if keys]
    if found:
        raise CheckpointError(
            f"{name} does not fit the network: {', '.join(found)}; it belongs to another architecture"
        )


def _read(path: Path, file_path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    if not file_path.is_file():
        known = ", ".join(shipped.cards())
        hint = (
            f", nor a network of that name in the package: there are {known}"
            if known and path.suffix != ".safetensors"
            else ""
        )
        raise CheckpointError(f"a checkpoint must be a .safetensors file, and there is no file {path}{hint}")
    try:
        with safe_open(file_path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} must be a whole .safetensors file, but it cannot be read ({shown(str(error), 200)}); "
            "it is damaged, cut short or of another format: copy it again or train anew; "
            "`attnorm convert` makes one of a checkpoint that the authors of AN released"
        ) from None
