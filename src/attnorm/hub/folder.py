"""A network in timm's layout: written to a folder with a model card, and read from one."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from torch import nn

from attnorm.errors import ConfigError
from attnorm.files import write_json_atomic, write_text_atomic
from attnorm.hub.card import Card
from attnorm.hub.config import check_licence
from attnorm.hub.results import results
from attnorm.hub.training_facts import find_facts
from attnorm.models.described_network import known_name
from attnorm.models.hub import CONFIG, WEIGHTS, check_name
from attnorm.training.checkpoint import load_checkpoint, save_checkpoint
from attnorm.training.header import CheckpointMeta
from attnorm.training.swap_source import describe_network
from attnorm.training.timm_config import timm_config

CARD = "README.md"
FILES = (CONFIG, WEIGHTS, CARD)


def load(source: str | Path) -> nn.Module:
    """Load a trained network or detector by anything that serves as a checkpoint.

    Args:
        source: A .safetensors file of this package, the name of a network that comes with it, a folder in timm's
            layout, with or without "local-dir:" before it, or "hf-hub:USER/NAME@REVISION", the revision at will.

    Returns:
        The network on the CPU in evaluation mode. Its `pretrained_cfg` says, as timm's networks do, how images are
        prepared and what the classes are called; a detector's `label_names` begin with class 1.

    Raises:
        ConfigError: That can be no name.
        CheckpointError: What lies there is missing, damaged, a pickle, or does not fit the network that it names.
        JobError: The hub does not give it.
    """
    model, meta = load_checkpoint(source)
    known = dict(getattr(model, "pretrained_cfg", {}))
    known |= {
        "input_size": (meta.in_chans, meta.image_size, meta.image_size),
        "mean": meta.mean,
        "std": meta.std,
        "crop_pct": meta.crop_pct,
        "interpolation": meta.interpolation,
        "num_classes": meta.num_classes,
        "label_names": meta.classes,
    }
    cast(Any, model).pretrained_cfg = known
    return model


def save_pretrained(
    source: nn.Module | str | Path,
    folder: str | Path,
    *,
    licence: str,
    name: str | None = None,
    record: str | Path | None = None,
    compare: str | Path | None = None,
    model_name: str | None = None,
    meta: CheckpointMeta | None = None,
) -> Path:
    """Write a network to a folder in timm's layout: config.json, model.safetensors and a model card, README.md.

    `timm.create_model("local-dir:FOLDER", pretrained=True)` builds it after `import attnorm.models`.

    Args:
        source: What :func:`load` takes; or a network.
        folder: New or empty. It is complete or absent.
        licence: Of the weights, by the hub's identifier. It is asked for, as nothing here can know it.
        name: USER/NAME that it will have on the hub, for the card.
        record: record.json of the run, for the card; the one beside the checkpoint when not given.
        compare: compare.json with the network's results over several seeds, for the card.
        model_name: Of a network that is given itself: as in `attnorm.models.create_model`, with options. Not needed
            where it is a network of timm's as it was created.
        meta: All that is to be known of a network that is given itself; by default what its `pretrained_cfg` says.

    Returns:
        The folder.

    Raises:
        ConfigError: Something of this cannot be meant.
        CheckpointError: The checkpoint cannot be used, or the network is not the one that `meta` names.
        JobError: There is no room, or the hub does not give it.
    """
    folder = Path(folder)
    check_licence(licence)
    if name is not None:
        check_name(name)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ConfigError(f"output must be a new or empty folder, and {folder} is not; name another")
    checkpoint = None if isinstance(source, nn.Module) else source
    if isinstance(source, nn.Module):
        model, meta = source, meta or _described(source, model_name)
    elif meta is not None or model_name is not None:
        raise ConfigError(f"meta and model_name are for a network that is given itself; {source} has its own")
    else:
        model, meta = load_checkpoint(source)
    facts = find_facts(checkpoint, record, meta)
    found = results(meta, facts, compare)
    card = Card(meta=meta, model=model, facts=facts, results=found, licence=licence, name=name).write()
    with _made_whole(folder) as making:
        save_checkpoint(making / WEIGHTS, model, meta)
        write_json_atomic(making / CONFIG, timm_config(model, meta, licence))
        write_text_atomic(making / CARD, card)
        load_checkpoint(making)
    return folder


def _described(model: nn.Module, model_name: str | None) -> CheckpointMeta:
    """What timm's `pretrained_cfg` knows of a network."""
    if not getattr(model, "pretrained_cfg", None):
        raise ConfigError("a network must say what it is, as timm's do; pass meta with all that is to be known of it")
    name = model_name or known_name(model)
    return replace(describe_network(name, model), model=name)


@contextmanager
def _made_whole(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` that becomes it when the block ends well, and is removed otherwise."""
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as outer:
        making = Path(outer) / folder.name  # made anew, with the permissions that a folder has
        making.mkdir()
        yield making
        if folder.exists():
            folder.rmdir()
        os.replace(making, folder)
