"""Which code runs a layer: chosen here and nowhere else, from the tensor alone.

A backend is a pair of passes over x, `instance_moments` and `affine`; what lies between them is (N, C)-sized and
common to all. The choice never changes results beyond rounding.
"""

from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol

import torch
from torch import Tensor

from attnorm.layers import reference
from attnorm.layers.closed_form import ClosedForm

NAMES = ("auto", "reference", "closed_form")


class Passes(Protocol):
    """The two passes over x of one layer call."""

    def instance_moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance (N, C) of x (N, C, *spatial)."""
        ...

    def affine(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """Return `scale * x + shift`, with scale and shift (N, C)."""
        ...


@dataclass
class BackendSetting:
    """The backend in force; as a context manager it puts back the former one on exit."""

    name: str
    _former: "BackendSetting | None" = field(default=None, repr=False)

    def __enter__(self) -> "BackendSetting":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _setting
        if self._former is not None:
            _setting = self._former

    def explain(self, x: Tensor) -> str:
        """Say in one line which backend a layer would use for x, and why."""
        obstacle = _closed_form_obstacle(x)
        if self.name != "auto":
            served = self.name == "reference" or obstacle is None
            return f"{self.name}: asked for by name" + ("" if served else f", but cannot serve: {obstacle}")
        if obstacle is None:
            return f"closed_form: eager {x.dtype} tensor on {x.device.type}"
        return f"reference: {obstacle}"


_setting = BackendSetting("auto")


def backend(name: str | None = None) -> BackendSetting:
    """Name, force or explain the code that runs the layers.

    `backend()` returns the setting in force; `backend("reference")` forces one from here on, or within a `with`
    block; `backend("auto")` gives the choice back. `backend().explain(x)` says what would serve x.

    Compiled, exported and functionally transformed code traces the reference, whose operations the compiler fuses.

    Raises:
        ValueError: For a name that does not exist.
    """
    global _setting
    if name is None:
        return _setting
    if name not in NAMES:
        raise ValueError(f"backend must be one of {', '.join(NAMES)}; got {name!r}")
    _setting = BackendSetting(name, _setting)
    return _setting


def passes_for(x: Tensor) -> Passes:
    """Choose the passes that serve x.

    Raises:
        RuntimeError: If a backend was asked for by name that cannot serve x.
    """
    if torch.compiler.is_compiling() or _setting.name == "reference":
        return reference
    obstacle = _closed_form_obstacle(x)
    if obstacle is None:
        return ClosedForm()
    if _setting.name == "auto":
        return reference
    raise RuntimeError(
        f"backend 'closed_form' was asked for by name but cannot serve this tensor ({obstacle}); "
        "use attnorm.backend('auto') or attnorm.backend('reference')"
    )


def _closed_form_obstacle(x: Tensor) -> str | None:
    """Why the closed form cannot serve x, or None if it can."""
    if type(x) not in (Tensor, torch.nn.Parameter):
        return f"a {type(x).__name__} is not an ordinary tensor"
    if x.is_meta:
        return "a meta tensor has no data"
    if torch.jit.is_tracing() or torch.compiler.is_compiling():  # pyright: ignore[reportPrivateImportUsage]
        return "the call is being traced"
    if torch._C._are_functorch_transforms_active():  # pyright: ignore[reportPrivateUsage]
        return "a torch.func transform is active"
    if torch.autograd.forward_ad._current_level >= 0:  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType]
        return "forward-mode differentiation is active"
    return None
