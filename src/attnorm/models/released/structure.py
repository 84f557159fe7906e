"""Where in a checkpoint the weights are, and what else a training script put beside them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from attnorm.errors import shown
from attnorm.inert_pickle import Opaque, UnreadableError
from attnorm.models.released.archives import Archive
from attnorm.models.released.described import TensorEntry

# What wraps a network puts in front of its keys; a file may have several, such as "module.network.".
PREFIXES = ("module.", "network.", "model.", "backbone.")
HOLDERS = ("state_dict", "model")  # AOGNet-v2, mmcv and iVMCL-Release's best; iVMCL-Release's current.pth
# Names of the recorded validation accuracy, in percent.
_BEST = ("best_prec1", "best_acc1")
_REASONS = {
    "optimizer": "the optimizer's state",
    "amp": "mixed precision's state",
    "scheduler": "the schedule's state",
}


@dataclass(frozen=True)
class Found:
    """The weights of a checkpoint, by the keys that the network itself gives them.

    Attributes:
        where: "state_dict", "model" or "" for a file that is the dict itself.
        prefix: What stood in front of every key.
        entries: The tensors.
        left_out: What else there is -> why it is not used.
        epoch: Epochs that the file says were done.
        best_top1: Best validation accuracy that the file records, in percent.
        arch: The architecture as the training script called it.
    """

    where: str
    prefix: str
    entries: Mapping[str, TensorEntry | Tensor]
    left_out: dict[str, str] = field(default_factory=dict)
    epoch: int | None = None
    best_top1: float | None = None
    arch: str | None = None


def find_weights(archive: Archive) -> Found:
    """Find the dict of tensors in what was saved.

    Raises:
        UnreadableError: If there is none.
    """
    top = archive.content
    if not isinstance(top, dict):
        what = top.path if isinstance(top, Opaque) else type(top).__name__
        raise UnreadableError(f"it holds one object ({shown(what)}) instead of a dict of weights")
    where = next((name for name in HOLDERS if _tensors(top.get(name))), "")
    state = top[where] if where else top
    entries = _tensors(state)
    if not entries:
        held = ", ".join(_key(key) for key in list(top)[:5]) or "nothing"
        raise UnreadableError(f"it holds no weights, but {held}")
    facts = {where, "epoch", "arch", "meta", *_BEST}
    left_out = {_key(key): "not a tensor" for key in state if where and key not in entries}
    left_out |= {_key(k): _REASONS.get(_key(k), "not weights") for k in top if k not in facts and k not in entries}
    prefix = _common_prefix(entries)
    meta = top.get("meta")
    epoch = top.get("epoch", meta.get("epoch") if isinstance(meta, dict) else None)
    best = (_number(top.get(name), archive) for name in _BEST)
    return Found(
        where,
        prefix,
        {key[len(prefix) :]: entry for key, entry in entries.items()},
        left_out,
        epoch if type(epoch) is int and 0 <= epoch < 1 << 31 else None,
        next((value for value in best if value is not None), None),
        shown(top["arch"]) if isinstance(top.get("arch"), str) else None,
    )


def _key(key: object) -> str:
    return shown(key) if isinstance(key, str) else f"a key of type {type(key).__name__}"


def _tensors(state: Any) -> dict[str, TensorEntry | Tensor]:
    if not isinstance(state, dict):
        return {}
    return {k: v for k, v in state.items() if isinstance(k, str) and isinstance(v, (TensorEntry, Tensor))}


def _common_prefix(entries: Mapping[str, Any]) -> str:
    prefix = ""
    while True:
        longer = next((prefix + p for p in PREFIXES if all(key.startswith(prefix + p) for key in entries)), None)
        if longer is None:
            return prefix
        prefix = longer


def _number(value: Any, archive: Archive) -> float | None:
    if isinstance(value, TensorEntry):
        if value.shape not in ((), (1,)) or value.dtype.is_complex:
            return None
        value = archive.read({"": value})[""].item()
    return float(value) if type(value) in (int, float) and abs(value) <= 100 else None
