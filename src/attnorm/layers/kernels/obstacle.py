"""What keeps a tensor from the Triton kernels."""

from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def obstacle(x: Tensor) -> str | None:
    """Why the Triton kernels cannot serve x, or None if they can.

    Tensor subclasses, meta tensors and tracing are no matter of these kernels: :mod:`attnorm.layers.backend` looks.
    """
    if x.dtype not in _DTYPES:
        return f"{x.dtype} is not float32, float16 or bfloat16"
    if x.ndim < 3:
        return f"a {x.ndim}-D tensor has no spatial dimension"
    return _device_obstacle(x.device.type, x.device.index)


@torch.compiler.assume_constant_result  # pyright: ignore[reportUnknownMemberType]
def _device_obstacle(kind: str, index: int | None) -> str | None:
    return _cached_device_obstacle(kind, index)


@cache  # finding out that triton is installed takes longer than a small layer
def _cached_device_obstacle(kind: str, index: int | None) -> str | None:
    if find_spec("triton") is None:
        return "triton is not installed"
    from attnorm.layers.kernels.layout import interpreted  # needs triton

    if kind not in ("cuda", "cpu") or (kind == "cpu" and not interpreted()):
        return f"a tensor on {kind} is not on a CUDA device"
    if kind == "cpu":
        return None
    if interpreted():
        return "Triton's interpreter was switched on (TRITON_INTERPRET=1) and works on the CPU"
    if torch.cuda.get_device_capability(index)[0] < 7:
        return "Triton needs a CUDA device of compute capability 7.0 or later"
    return None
