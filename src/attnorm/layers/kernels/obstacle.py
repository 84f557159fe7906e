"""What keeps a tensor from the Triton kernels."""

from importlib.util import find_spec

import torch
from torch import Tensor

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def obstacle(x: Tensor) -> str | None:
    """Why the Triton kernels cannot serve x, or None if they can.

    Tensor subclasses, meta tensors and tracing are no matter of these kernels: :mod:`attnorm.layers.backend` looks.
    """
    if find_spec("triton") is None:
        return "triton is not installed"
    from attnorm.layers.kernels.layout import interpreted  # needs triton

    if not x.is_cuda and not (x.device.type == "cpu" and interpreted()):
        return f"a tensor on {x.device.type} is not on a CUDA device"
    if x.is_cuda and interpreted():
        return "Triton's interpreter was switched on (TRITON_INTERPRET=1) and works on the CPU"
    if x.dtype not in _DTYPES:
        return f"{x.dtype} is not float32, float16 or bfloat16"
    if x.ndim < 3:
        return f"a {x.ndim}-D tensor has no spatial dimension"
    if x.is_cuda and torch.cuda.get_device_capability(x.device)[0] < 7:
        return "Triton needs a CUDA device of compute capability 7.0 or later"
    return None
