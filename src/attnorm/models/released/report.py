"""What was found in a released checkpoint and what became of each entry, for a person and as JSON."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

_KINDS = {"legacy": "torch, before 1.6", "zip": "torch, from 1.6 on", "safetensors": "safetensors"}


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """An account of a released checkpoint; `str` of it is for a person.

    Attributes:
        file: Its path.
        size: In bytes.
        sha256: Of the file.
        kind: "legacy", "zip" or "safetensors".
        where: Under which entry the weights were; "": the file is the dict itself.
        prefix: What stood in front of every key.
        scheme: "aognet-v2", "attentivenorm-detection" or "ivmcl-release".
        model: Our name of the network.
        names: The names that the release gives to networks with these keys.
        num_classes: Of the network that was made; 0: no classifier.
        in_chans: Image channels.
        mapped: Entries used, by kind: "convolutions", "norms", "AN", "SE", "classifier".
        from_half: How many of them were in half precision.
        filled_in: Counters that old versions of torch do not have, set to 0.
        left_out: What was not used -> why.
        not_finite: Entries with values that are not finite numbers.
        epoch: Epochs done, as the file says.
        best_top1: Best validation accuracy in percent, as the file says.
        arch: The architecture's name in the file.
        notes: What else to know.
    """

    file: str
    size: int
    sha256: str
    kind: str
    where: str
    prefix: str
    scheme: str
    model: str
    names: tuple[str, ...]
    num_classes: int
    in_chans: int
    mapped: dict[str, int]
    from_half: int
    filled_in: tuple[str, ...]
    left_out: dict[str, str]
    not_finite: tuple[str, ...]
    epoch: int | None
    best_top1: float | None
    arch: str | None
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        facts = {
            "epoch": self.epoch,
            "best top-1": None if self.best_top1 is None else f"{self.best_top1:.2f}",
            "arch": self.arch,
        }
        rows = {
            "file": f"{self.file} ({self.size / 1e6:.1f} MB, {_KINDS[self.kind]})",
            "sha256": self.sha256,
            "weights": (f"under {self.where!r}" if self.where else "the file itself")
            + (f", every key behind {self.prefix!r}" if self.prefix else ""),
            "says": ", ".join(f"{name} {value}" for name, value in facts.items() if value is not None),
            "scheme": self.scheme,
            "network": f"{self.model}, "
            + (f"{self.num_classes} classes" if self.num_classes else "without classifier")
            + f", {self.in_chans} image channels",
            "known as": " or ".join(self.names),
            "mapped": f"{sum(self.mapped.values())} entries: "
            + ", ".join(f"{count} {kind}" for kind, count in self.mapped.items()),
            "from half": f"{self.from_half} entries, now float32" if self.from_half else "",
            "filled in": f"{len(self.filled_in)} counters of batches, with 0" if self.filled_in else "",
            "left out": "; ".join(f"{what}: {why}" for what, why in self.left_out.items()),
            "NOT FINITE": ", ".join(self.not_finite[:3]) + (", ..." if len(self.not_finite) > 3 else ""),
            "note": f"\n{'':13}".join(self.notes),
        }
        return "\n".join(f"{name:<12} {value}" for name, value in rows.items() if value)


def kinds_of(keys: Iterable[str], classifier: str) -> dict[str, int]:
    """How many entries of each kind there are among our keys.

    Args:
        keys: Of a whole network.
        classifier: Our name of its last layer.
    """
    keys = list(keys)
    attentive = {key.partition(".attention.")[0] for key in keys if ".attention." in key}
    norms = {key.removesuffix(".running_mean") for key in keys if key.endswith(".running_mean")}

    def kind(key: str) -> str:
        module = key.rpartition(".")[0]
        if module in attentive or key.partition(".attention.")[0] in attentive:
            return "AN"
        if module == classifier:
            return "classifier"
        if ".se." in key:
            return "SE"
        return "norms" if module in norms else "convolutions"

    counts = Counter(kind(key) for key in keys)
    return {name: counts[name] for name in ("convolutions", "norms", "AN", "SE", "classifier") if counts[name]}
