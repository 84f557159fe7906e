"""From a released checkpoint to our network, and back to the authors' keys."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from attnorm.errors import CheckpointError, shown
from attnorm.inert_pickle import UnreadableError
from attnorm.layers.attentive import AttentiveNorm
from attnorm.models import create_model, published
from attnorm.models.released.archives import Archive, open_archive
from attnorm.models.released.described import TensorEntry
from attnorm.models.released.names import Scheme, released_names
from attnorm.models.released.recognise import Architecture, detector_parts, recognise
from attnorm.models.released.report import LoadReport, kinds_of
from attnorm.models.released.structure import Found, find_weights

_COUNTER = "num_batches_tracked"
_TORCHVISION = (
    "the keys are torchvision's, and the same in both releases: the file may come from any of them, and only whoever "
    "made it knows"
)


@dataclass(frozen=True)
class Released:
    """A released checkpoint in this package's terms.

    Attributes:
        name: Our name of the network.
        scheme: Whose keys the file has: "aognet-v2", "attentivenorm-detection" or "ivmcl-release".
        state: The network's whole state dict, under our names.
        report: What was found and what became of it.
    """

    name: str
    scheme: str
    state: dict[str, Tensor]
    report: LoadReport

    def build(self) -> nn.Module:
        """The network with these weights, on the CPU, in evaluation mode."""
        model = create_model(self.name, num_classes=self.report.num_classes, in_chans=self.report.in_chans)
        dtype = next(value.dtype for value in self.state.values() if value.is_floating_point())
        model.to(dtype).load_state_dict(self.state)
        return model.eval()


def load_released(path: str | Path, *, backbone_only: bool = False) -> nn.Module:
    """Load a checkpoint that the authors of AN released, of any of their three code bases.

    The network is recognised from the keys and shapes; it computes what the authors' code computes. The file's pickle
    is read as data: nothing in it is run. The weights stay under the authors' terms, which allow research only.

    Args:
        path: Their file (`model_best.pth.tar`, `current.pth`, ...), or one with the same keys, fine-tuned ones too.
        backbone_only: Leave out the classifier, or of a detector everything but the backbone.

    Returns:
        The network in float32, on the CPU, in evaluation mode. :func:`read_released` gives an account as well.

    Raises:
        CheckpointError: If the file is damaged, no checkpoint, of no released network, or a detector's without
            `backbone_only`.
    """
    return read_released(path, backbone_only=backbone_only).build()


def read_released(path: str | Path, *, backbone_only: bool = False, dtype: torch.dtype = torch.float32) -> Released:
    """Read a released checkpoint and say what is in it; arguments and errors as of :func:`load_released`.

    Args:
        path: The file.
        backbone_only: As there.
        dtype: Of the weights.
    """
    path = Path(path)
    with open_archive(path) as archive:
        found = find_weights(archive)
        try:
            return _read(path, archive, found, backbone_only, dtype)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None


def to_released(model: nn.Module, scheme: Scheme) -> dict[str, Tensor]:
    """The state dict of a network of this package under the authors' keys, in their order and shapes.

    Args:
        model: One of the released networks, with any number of classes and image channels.
        scheme: "aognet-v2" or "ivmcl-release".

    Raises:
        CheckpointError: If the release has no such network.
    """
    state = model.state_dict()
    for name, layer in model.named_modules():
        if isinstance(layer, AttentiveNorm) and (
            (layer.attention.gate, layer.attention.statistic) != ("hard_sigmoid", "mean_over_std")
            or layer.attention.logit_norm != "batch"
        ):
            raise CheckpointError(f"every AN layer must be the paper's, as {scheme} knows no other; {name} is {layer}")
    names = released_names(_shapes(state), scheme)
    _check(recognise({theirs: shape for theirs, (_, shape) in names.items()}), scheme, names)
    return {theirs: state[ours].reshape(shape) for theirs, (ours, shape) in names.items()}


def _read(path: Path, archive: Archive, found: Found, backbone_only: bool, dtype: torch.dtype) -> Released:
    parts = detector_parts(found.entries)
    if parts and not backbone_only:
        raise CheckpointError(
            f"the weights must be of a classification network, and these are a detector's ({', '.join(parts)}); "
            "take its backbone alone with backbone_only=True (attnorm convert --backbone-only)"
        )
    left_out = found.left_out | {f"{part} ({n} entries)": "not the backbone's" for part, n in parts.items()}
    entries = dict(found.entries)
    if parts:
        begin = "backbone."
        entries = {key.removeprefix(begin): v for key, v in entries.items() if key.partition(".")[0] not in parts}
    architecture = recognise(_shapes(entries), found.prefix)
    head = [key for key in entries if key.rpartition(".")[0] == architecture.classifier]
    if backbone_only and head:
        left_out[f"{architecture.classifier} ({len(head)} entries)"] = "the classifier, not the backbone's"
        entries = {key: entry for key, entry in entries.items() if key not in head}
    classes = architecture.num_classes if any(key in entries for key in head) else 0
    state, filled, half, classifier = _map(archive, entries, architecture, classes, dtype)
    detector = "attentivenorm-detection" if "roi_head" not in parts else "ivmcl-release"
    report = LoadReport(
        file=str(path),
        size=archive.size,
        sha256=_sha256(path),
        kind=archive.kind,
        where=found.where,
        prefix=found.prefix,
        scheme=detector if parts else architecture.scheme,
        model=architecture.model,
        names=() if parts else _names(architecture),
        num_classes=classes,
        in_chans=architecture.in_chans,
        mapped=kinds_of((key for key in state if key not in filled), classifier),
        from_half=half,
        filled_in=filled,
        left_out=left_out,
        not_finite=tuple(k for k, v in state.items() if v.is_floating_point() and not v.isfinite().all()),
        epoch=found.epoch,
        best_top1=found.best_top1,
        arch=found.arch,
        notes=(_TORCHVISION,) if architecture.torchvision else (),
    )
    return Released(architecture.model, report.scheme, state, report)


def _map(
    archive: Archive,
    entries: Mapping[str, TensorEntry | Tensor],
    architecture: Architecture,
    num_classes: int,
    dtype: torch.dtype,
) -> tuple[dict[str, Tensor], tuple[str, ...], int, str]:
    """Our state dict, the counters that were filled in, the number of half entries, and our classifier's name."""
    network = _on_meta(architecture, num_classes)
    own = network.state_dict()
    names = released_names(_shapes(own), architecture.scheme)
    refuse_misfits(architecture.scheme, architecture.model, entries, names)
    values = archive.read({theirs: entries[theirs] for theirs in names if theirs in entries})
    state: dict[str, Tensor] = {}
    filled: list[str] = []
    half = 0
    for theirs, (ours, _) in names.items():
        value = values.pop(theirs, None)
        if value is None:
            filled.append(ours)
            value = torch.zeros_like(own[ours], device="cpu")
        if own[ours].is_floating_point() != value.is_floating_point():
            raise UnreadableError(f"{shown(theirs)} is of type {value.dtype}")
        half += value.dtype in (torch.float16, torch.bfloat16)
        target = dtype if value.is_floating_point() else own[ours].dtype
        state[ours] = value.reshape(own[ours].shape).to(target, copy=True, memory_format=torch.contiguous_format)
    ordered = {key: state[key] for key in own}
    return ordered, tuple(filled), half, str(getattr(network, "pretrained_cfg", {}).get("classifier", "fc"))


def refuse_misfits(
    scheme: str,
    model: str,
    entries: Mapping[str, TensorEntry | Tensor],
    names: Mapping[str, tuple[str, tuple[int, ...]]],
) -> None:
    """Refuse entries that are missing (counters may be), too many, or of another shape.

    Args:
        scheme: The release.
        model: Our name of the network that they resemble.
        entries: By their keys.
        names: Those that it has: their key -> (ours, their shape).

    Raises:
        CheckpointError: Counts them and names the first of each kind.
    """
    problems = {
        "missing": [key for key in names if key not in entries and not key.endswith(_COUNTER)],
        "unexpected": [key for key in entries if key not in names],
        "of another shape": [
            f"{key} {tuple(entries[key].shape)} for {shape}"
            for key, (_, shape) in names.items()
            if key in entries and tuple(entries[key].shape) != shape
        ],
    }
    wrong = [f"{len(keys)} {what} (first: {shown(keys[0])})" for what, keys in problems.items() if keys]
    if wrong:
        raise CheckpointError(
            f"its {len(entries)} entries must be those of {scheme}'s {model}, which they "
            f"resemble, but {', '.join(wrong)}; it is another architecture, or not whole"
        )


def _check(architecture: Architecture, scheme: Scheme, names: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """Refuse a network that only resembles a released one."""
    expected = released_names(_shapes(_on_meta(architecture, architecture.num_classes).state_dict()), scheme)
    if {k: shape for k, (_, shape) in expected.items()} != {k: shape for k, (_, shape) in names.items()}:
        raise CheckpointError(
            f"the network must be one that {scheme} has; it resembles {architecture.model} but has other entries"
        )


def _on_meta(architecture: Architecture, num_classes: int) -> nn.Module:
    with torch.device("meta"):
        return create_model(architecture.model, num_classes=num_classes, in_chans=architecture.in_chans)


def _shapes(entries: Mapping[str, TensorEntry | Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(entry.shape) for key, entry in entries.items()}


def _names(architecture: Architecture) -> tuple[str, ...]:
    rows = published.results(architecture.model)
    return tuple(row.name for row in rows if row.release == architecture.scheme)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
