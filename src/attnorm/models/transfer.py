"""Weights taken over from another network: fine-tuning with other classes, a detector's backbone, a whole detector.

What has the same name and shape is taken, and an account is given of everything else. Names need not agree to the
letter: a feature network of timm calls "stages.0" "stages_0" or keeps the network under "model", a detector has it
under "backbone.body".
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import timm
from torch import Tensor, nn

from attnorm.errors import CheckpointError, ConfigError, JobError
from attnorm.models import create_model, hub
from attnorm.models.released import read_released
from attnorm.models.released.archives import open_archive
from attnorm.models.released.recognise import detector_parts
from attnorm.models.released.structure import find_weights
from attnorm.models.spec import parse_spec
from attnorm.models.torchvision_networks import is_torchvision

BODY = "backbone.body."  # where a detector of this package has its backbone's network
# What may stand in front of a network's names, in either of the two state dicts.
_PREFIXES = ("", "model.", BODY, f"{BODY}model.")
_COUNTER = ".num_batches_tracked"  # files of old versions of torch, and frozen norms, have none


@dataclass(frozen=True, kw_only=True)
class TransferReport:
    """What became of every entry of both networks; `str` of it is for a person.

    Attributes:
        source: Where the weights come from.
        taken: Entries of the network that now have the source's values.
        missing: Entries of the network that the source does not have; they stay as they were.
        other_shape: Entries that both have, in different shapes -> which; they stay as they were.
        left_out: Entries of the source that the network does not have.
    """

    source: str
    taken: tuple[str, ...]
    missing: tuple[str, ...]
    other_shape: dict[str, str]
    left_out: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        total = len(self.taken) + len(self.missing) + len(self.other_shape)
        shapes = [f"{name} {shapes}" for name, shapes in self.other_shape.items()]
        rows = {
            "not in the source": self.missing,
            "of another shape": shapes,
            "left out of the source": self.left_out,
        }
        lines = [f"{self.source}: {len(self.taken)} of the network's {total} entries taken"]
        lines += [f"  {len(names)} {what}: {_first(names)}" for what, names in rows.items() if names]
        return "\n".join(lines)


def take_weights(model: nn.Module, source: str | Path | Mapping[str, Tensor], *, name: str = "") -> TransferReport:
    """Take over all weights that fit, in place.

    Args:
        model: A classification network, a feature network of timm, or a detector.
        source: A checkpoint of `attnorm train`, one that comes with the package by its name, one of timm or
            torchvision, one in timm's layout (`attnorm.models.hub`), or one that the authors of AN released; or a state
            dict. Of a classification network or of a detector: the part that both have is used.
        name: What the report calls the source; its path when not given.

    Returns:
        What was taken and what was not.

    Raises:
        CheckpointError: If the file cannot be read, or not the whole backbone fits: of a classification network all
            but the classifier, of a detector the network under its pyramid. Nothing is changed then.
    """
    name = name or (str(source) if isinstance(source, (str, Path)) else "the weights given")
    own = model.state_dict()
    needed = _needed(model, own)
    problem = ""
    for entries in [source] if isinstance(source, Mapping) else _readings(hub.resolve(source)):
        pairs = _pairs(own, entries)
        report = _compare(name, own, entries, pairs)
        misfits = [key for key in needed if key in report.missing or key in report.other_shape]
        if not misfits:
            model.load_state_dict({key: entries[pairs[key]] for key in report.taken}, strict=False)
            return report
        shown = _first([f"{key} {report.other_shape.get(key, 'missing')}" for key in misfits])
        problem = problem or f"{len(misfits)} of its {len(needed)} entries do not fit ({shown})"
    raise CheckpointError(
        f"{name} must have the weights of the whole backbone, but {problem}; take a checkpoint of the same network"
    )


def pretrained_weights(name: str, in_chans: int = 3, **options: Any) -> dict[str, Tensor]:
    """The weights of :func:`pretrained_network`."""
    return pretrained_network(name, in_chans=in_chans, **options).state_dict()


def pretrained_network(name: str, **options: Any) -> nn.Module:
    """A network with the weights that timm or torchvision publishes of it, fetched or from the library's cache.

    Args:
        name: The network, or one of its sets of weights, such as "resnet50.a1_in1k".
        **options: Arguments of the network, such as `in_chans`, for which timm adapts the first convolution.

    Raises:
        ConfigError: If there are none.
        JobError: If they cannot be fetched.
    """
    registered = parse_spec(name).name
    if timm.is_model(registered) and not timm.is_model_pretrained(registered):
        raise ConfigError(
            f"pretrained needs weights that timm publishes; it has none of {name}: give a checkpoint file"
        )
    try:
        return create_model(name, pretrained=True, **options)
    except ConfigError:
        raise
    except Exception as error:  # which one, depends on the library that downloads
        cause = (str(error).splitlines() or [""])[0]
        raise JobError(
            f"the weights of {name} must be in {'torchvision' if is_torchvision(registered) else 'timm'}'s cache or on "
            f"the network, and could not be fetched ({type(error).__name__}: {cause}): go online once, or give a "
            "checkpoint file"
        ) from error


def _readings(path: Path) -> Iterator[Mapping[str, Tensor]]:
    """A file's weights by the names that they have there, then by ours if the authors of AN released it."""
    with open_archive(path) as archive:
        found = find_weights(archive)
        entries = archive.read(found.entries)
    yield entries
    try:
        yield read_released(path, backbone_only=bool(detector_parts(entries))).state
    except CheckpointError:
        return


def _needed(model: nn.Module, own: Mapping[str, Tensor]) -> list[str]:
    """The entries of the backbone."""
    keys = [key for key in own if not key.endswith(_COUNTER)]
    if any(key.startswith(BODY) for key in keys):
        return [key for key in keys if key.startswith(BODY)]
    classifier = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    classifiers = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    return [key for key in keys if not key.startswith(tuple(f"{layer}." for layer in classifiers))]


def _pairs(own: Mapping[str, Tensor], entries: Mapping[str, Tensor]) -> dict[str, str]:
    """Our entry -> the source's, under the prefixes that make most entries fit."""

    def fitting(prefixes: tuple[str, str]) -> int:
        ours, theirs = _names(own, prefixes[0]), _names(entries, prefixes[1])
        return sum(own[ours[n]].shape == entries[theirs[n]].shape for n in ours.keys() & theirs.keys())

    our_prefix, their_prefix = max(product(_PREFIXES, _PREFIXES), key=fitting)
    ours, theirs = _names(own, our_prefix), _names(entries, their_prefix)
    return {ours[name]: theirs[name] for name in ours if name in theirs}


def _names(keys: Mapping[str, Tensor], prefix: str) -> dict[str, str]:
    """Name without prefix, and alike whether timm flattened the network or not -> key."""
    return {key[len(prefix) :].replace(".", "_"): key for key in keys if key.startswith(prefix)}


def _compare(
    name: str, own: Mapping[str, Tensor], entries: Mapping[str, Tensor], pairs: Mapping[str, str]
) -> TransferReport:
    taken = [ours for ours, theirs in pairs.items() if own[ours].shape == entries[theirs].shape]
    known = set(pairs.values())
    return TransferReport(
        source=name,
        taken=tuple(taken),
        missing=tuple(key for key in own if key not in pairs),
        other_shape={
            ours: f"{tuple(entries[theirs].shape)} for {tuple(own[ours].shape)}"
            for ours, theirs in pairs.items()
            if own[ours].shape != entries[theirs].shape
        },
        left_out=tuple(key for key in entries if key not in known),
    )


def _first(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
