"""Which code runs a layer: chosen here and nowhere else, from the tensor alone.

| backend | passes over x | used by "auto" for |
|---|---|---|
| reference | plain differentiable PyTorch | compiled, exported, traced and functionally transformed code |
| closed_form | closed-form backward, PyTorch's operations (:mod:`attnorm.layers.eager`) | eager mode, any device |
| triton | closed-form backward, Triton kernels (:mod:`attnorm.layers.kernels`) | eager mode on CUDA |

The choice never changes results beyond rounding.
"""

from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, cast

import torch
from torch import Tensor

from attnorm.layers import eager, reference
from attnorm.layers.closed_form import ClosedForm
from attnorm.layers.fused import Kernels

NAMES = ("auto", "reference", "closed_form", "triton")


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
        if self.name == "reference":
            return "reference: asked for by name"
        if self.name != "auto":
            obstacle = _obstacle(self.name, x)
            return f"{self.name}: asked for by name" + ("" if obstacle is None else f", but cannot serve: {obstacle}")
        if x.is_cuda and _obstacle("triton", x) is None:
            return f"triton: eager {x.dtype} tensor on {x.device.type}"
        obstacle = _obstacle("closed_form", x)
        if obstacle is None:
            return f"closed_form: eager {x.dtype} tensor on {x.device.type}"
        return f"reference: {obstacle}"


_setting = BackendSetting("auto")


def backend(name: str | None = None) -> BackendSetting:
    """Name, force or explain the code that runs the layers.

    `backend()` returns the setting in force; `backend("reference")` forces one from here on, or within a `with`
    block; `backend("auto")` gives the choice back. `backend().explain(x)` says what would serve x.

    Compiled, exported and functionally transformed code traces the reference, whose operations the compiler fuses;
    `backend("triton")` puts the kernels into compiled code as one operator of torch.library for each layer (but for
    the attention options that have no closed form, such as head="mlp", which stay traced).

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


def kernels_for(x: Tensor) -> Kernels | None:
    """Choose the kernels that serve x; None stands for the reference, which serves empty tensors too.

    Raises:
        RuntimeError: If a backend was asked for by name that cannot serve x.
    """
    name = _setting.name
    if name == "reference" or (name != "triton" and torch.compiler.is_compiling()):
        return None
    if not torch.compiler.is_compiling() and not x.is_meta and not x.numel():
        return None
    if name == "auto":
        if x.is_cuda and _obstacle("triton", x) is None:
            return _triton_kernels()
        return eager if _obstacle("closed_form", x) is None else None
    obstacle = _obstacle(name, x)
    if obstacle is None:
        return eager if name == "closed_form" else _triton_kernels()
    raise RuntimeError(
        f"backend {name!r} was asked for by name but cannot serve this tensor ({obstacle}); "
        "use attnorm.backend('auto') or attnorm.backend('reference')"
    )


def passes_for(x: Tensor) -> Passes:
    """Choose the passes over x, between which autograd differentiates.

    Raises:
        RuntimeError: If a backend was asked for by name that cannot serve x.
    """
    kernels = kernels_for(x)
    # Compilers take the kernels as the operator of a whole layer; what has none is traced from the definition.
    return reference if kernels is None or torch.compiler.is_compiling() else ClosedForm(kernels)


def _triton_kernels() -> Kernels:
    from attnorm.layers import kernels  # imports triton, which a CPU does not need and may not have

    return cast(Kernels, kernels)


def _obstacle(name: str, x: Tensor) -> str | None:
    """Why a backend other than the reference cannot serve x, or None if it can."""
    if name == "triton" and torch.compiler.is_compiling():
        return _triton_obstacle(x)  # whose operators are made for being traced
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
    return _triton_obstacle(x) if name == "triton" else None


def _triton_obstacle(x: Tensor) -> str | None:
    from attnorm.layers import kernels

    return kernels.obstacle(x)
