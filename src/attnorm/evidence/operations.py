"""Every arithmetic operation of a network, counted, not its multiply-accumulates alone.

Convention, for one image in evaluation mode:

- a MAC is one multiplication with one addition in a convolution or a matrix product;
- an elementwise operation counts one for each element of its result (activation, addition, gate, ...);
- a reduction and a pool count one for each element that they read, windows as often as they read it;
- BatchNorm counts 4 for each element: minus the mean, over the deviation, times the weight, plus the bias. GroupNorm
  and LayerNorm count 8: their statistics are taken anew, 1 for the mean and 3 for the variance;
- Attentive Normalization counts as its definition computes it: 4 for the instance moments, 2 for the affine, and what
  little the attention and the mixture of (N, C) numbers need;
- what only moves or views data counts nothing.

The AN papers print MACs for some networks, and for others MACs plus 4 for each element that BatchNorm and 1 for each
that ReLU gives; the latter are MACs plus the two entries "batch norm" and "relu" of `Operations.elements`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from attnorm.errors import JobError
from attnorm.layers.backend import backend

_aten = torch.ops.aten
_NORMS = {
    _aten.native_batch_norm: ("batch norm", 4),
    _aten._native_batch_norm_legit_no_training: ("batch norm", 4),
    _aten.native_group_norm: ("group norm", 8),
    _aten.native_layer_norm: ("layer norm", 8),
}
_WINDOWS = {
    _aten.max_pool2d_with_indices: "max pool",
    _aten.max_pool2d: "max pool",
    _aten.avg_pool2d: "average pool",
}
_REDUCTIONS = {
    _aten.mean: "mean",
    _aten.sum: "sum",
    _aten.amax: "maximum",
    _aten.adaptive_max_pool2d: "maximum",
    _aten._adaptive_avg_pool2d: "mean",
    _aten.adaptive_avg_pool2d: "mean",
}
_RELUS = {_aten.relu, _aten.relu_}
# Elementwise, though torch 2.11 does not say so.
_ELEMENTWISE = {_aten.hardtanh, _aten.hardtanh_}
# Maximum, difference, exponential, sum, quotient.
_SOFTMAX = {_aten._softmax: ("softmax", 5)}
_PRODUCTS = {_aten.convolution, _aten.mm, _aten.addmm, _aten.bmm, _aten.baddbmm}
_MOVES = {_aten.cat, _aten.clone, _aten.copy_, _aten._to_copy, _aten.zeros_like, _aten.ones_like, _aten.fill_}
_MOVES |= {_aten.empty, _aten.empty_like, _aten.zeros, _aten.ones, _aten.full, _aten.constant_pad_nd, _aten.stack}
_MOVES |= {_aten.detach, _aten._unsafe_view, _aten.index, _aten.index_select, _aten.scalar_tensor, _aten.lift_fresh}


@dataclass(frozen=True)
class Operations:
    """Counts for one image; see the module's convention.

    Attributes:
        macs: Multiply-accumulates of convolutions and matrix products.
        elements: The other operations by kind, such as "batch norm", "relu" or "add".
    """

    macs: int
    elements: dict[str, int]

    @property
    def elementwise(self) -> int:
        """All operations outside of the convolutions and matrix products."""
        return sum(self.elements.values())


def count_operations(model: nn.Module, input_size: Sequence[int]) -> Operations:
    """Count the operations of one forward pass of one image.

    Args:
        model: The network, on any device; on "meta" nothing is computed. Its mode is put back afterwards.
        input_size: (C, H, W) of the image.

    Raises:
        JobError: The network has an operation that the convention does not name.
    """
    parameter = next(model.parameters(), torch.empty(0))
    image = torch.zeros(1, *input_size, device=parameter.device, dtype=parameter.dtype)
    was_training = model.training
    model.eval()
    counter = _Counter()
    try:
        with torch.no_grad(), backend("reference"), FlopCounterMode(display=False) as flops, counter:
            model(image)
    finally:
        model.train(was_training)
    return Operations(flops.get_total_flops() // 2, dict(sorted(counter.elements.items())))


class _Counter(TorchDispatchMode):
    """Adds up the element operations of everything that PyTorch executes under it."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        kind, count = _element_operations(func, args, out)
        if count:
            self.elements[kind] += count
        return out


def _element_operations(func: Any, args: Sequence[Any], out: Any) -> tuple[str, int]:
    """The kind and the number of element operations of one call of an operator."""
    packet = func.overloadpacket
    result: Tensor | None = out if isinstance(out, Tensor) else out[0] if isinstance(out, tuple) else None
    if func.is_view or packet in _MOVES or packet in _PRODUCTS or result is None:
        return "", 0
    if packet in _NORMS or packet in _SOFTMAX:
        kind, each = (_NORMS | _SOFTMAX)[packet]
        return kind, each * result.numel()
    if packet in _WINDOWS:
        window = args[1] if len(args[1]) == 2 else args[1] * 2
        return _WINDOWS[packet], prod(window) * result.numel()
    if packet in _REDUCTIONS:
        return _REDUCTIONS[packet], args[0].numel()
    if torch.Tag.pointwise in func.tags or packet in _ELEMENTWISE:
        return "relu" if packet in _RELUS else packet.__name__.rstrip("_"), result.numel()
    raise JobError(f"every operation must be in the counting convention, and {func} is not; add it to {__name__}")
