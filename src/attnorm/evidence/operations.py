"""Every arithmetic operation of a network, counted, not its multiply-accumulates alone.

Convention, for one image in evaluation mode:

- a MAC is one multiplication with one addition in a convolution or a matrix product, those of attention included;
- an elementwise operation counts one for each element of its result (activation, addition, gate, comparison, ...);
- a reduction and a pool count one for each element that they read, windows as often as they read it; a norm of vectors
  2, for the square too;
- BatchNorm counts 4 for each element: minus the mean, over the deviation, times the weight, plus the bias. GroupNorm
  and LayerNorm count 8: their statistics are taken anew, 1 for the mean and 3 for the variance;
- Attentive Normalization counts as its definition computes it: 4 for the instance moments, 2 for the affine, and what
  little the attention and the mixture of (N, C) numbers need;
- a softmax counts 5 for each element: maximum, difference, exponential, sum, quotient;
- resizing and RoIAlign count a multiplication and an addition for each value that they read: 4 for each sample between
  pixels, 16 where it is bicubic;
- what only moves, views, selects or sorts data counts nothing: padding, indexing, top-k, suppression of overlapping
  boxes. How often the latter compare depends on the data.

The papers' convention. The AN papers print MACs for some networks, and for others MACs plus 4 for each element that
BatchNorm and 1 for each that ReLU gives, pools, sums and everything else left out: `Operations.paper`. What they would
count for AN they do not say; here it counts there as the BatchNorm that it replaces, 4 for each element.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torchvision  # noqa: F401  registers RoIAlign and the suppression of boxes
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from attnorm.errors import JobError
from attnorm.layers.attentive import AttentiveNorm
from attnorm.layers.backend import backend
from attnorm.layers.statistics import BatchStatistics

_aten = torch.ops.aten
_vision = torch.ops.torchvision
# For each element of the result.
_EACH = {
    _aten.native_batch_norm: ("batch norm", 4),
    _aten._native_batch_norm_legit_no_training: ("batch norm", 4),
    _aten.cudnn_batch_norm: ("batch norm", 4),
    _aten.native_group_norm: ("group norm", 8),
    _aten.native_layer_norm: ("layer norm", 8),
    _aten._softmax: ("softmax", 5),
    _aten._safe_softmax: ("softmax", 5),
    _aten.upsample_bilinear2d: ("resize", 8),
    _aten._upsample_bilinear2d_aa: ("resize", 8),
    _aten.upsample_bicubic2d: ("resize", 32),
}
_WINDOWS = {
    _aten.max_pool2d_with_indices: "max pool",
    _aten.max_pool2d: "max pool",
    _aten.avg_pool2d: "average pool",
}
# For each element that is read.
_READ = {
    _aten.mean: ("mean", 1),
    _aten.sum: ("sum", 1),
    _aten.cumsum: ("sum", 1),
    _aten.col2im: ("sum", 1),
    _aten.amax: ("maximum", 1),
    _aten.max: ("maximum", 1),
    _aten.all: ("all", 1),
    _aten.adaptive_max_pool2d: ("maximum", 1),
    _aten._adaptive_avg_pool2d: ("mean", 1),
    _aten.adaptive_avg_pool2d: ("mean", 1),
    _aten.linalg_vector_norm: ("vector norm", 2),
}
_RELUS = {_aten.relu, _aten.relu_}
# Elementwise, though not every torch says so.
_ELEMENTWISE = {_aten.hardtanh, _aten.hardtanh_, _aten.hardswish, _aten.hardswish_}
_MOVES = {_aten.cat, _aten.clone, _aten.copy_, _aten._to_copy, _aten.zeros_like, _aten.ones_like, _aten.fill_}
_MOVES |= {_aten.empty, _aten.empty_like, _aten.zeros, _aten.ones, _aten.full, _aten.constant_pad_nd, _aten.stack}
_MOVES |= {_aten.detach, _aten._unsafe_view, _aten.index, _aten.index_select, _aten.scalar_tensor, _aten.lift_fresh}
_MOVES |= {_aten.roll, _aten.repeat, _aten.reflection_pad2d, _aten.im2col, _aten.as_strided_, _aten.arange}
_MOVES |= {_aten.upsample_nearest2d, _aten.new_zeros, _aten.full_like, _aten.index_put_, _aten.index_fill_, _aten.rand}
_MOVES |= {_aten.sort, _aten.topk, _aten.nonzero, _aten._unique2, _vision.nms, _aten._local_scalar_dense}
_ATTENTIONS = {packet for packet in flop_registry if "attention" in str(packet) and "backward" not in str(packet)}


@dataclass(frozen=True)
class Operations:
    """Counts for one image; see the module's convention.

    Attributes:
        macs: Multiply-accumulates of convolutions and matrix products.
        elements: The other operations by kind, such as "batch norm", "relu" or "add".
        attentive: Elements that AN layers over the statistics of a batch give.
    """

    macs: int
    elements: dict[str, int]
    attentive: int = 0

    @property
    def elementwise(self) -> int:
        """All operations outside of the convolutions and matrix products."""
        return sum(self.elements.values())

    @property
    def paper(self) -> int:
        """The AN papers' other convention: MACs, 4 for each BatchNorm element and 1 for each of ReLU (and ReLU6)."""
        activations = self.elements.get("relu", 0) + self.elements.get("hardtanh", 0)
        return self.macs + self.elements.get("batch norm", 0) + 4 * self.attentive + activations


def count_operations(model: nn.Module, input_size: Sequence[int]) -> Operations:
    """Count the operations of one forward pass of one image.

    Args:
        model: The network, on any device; on "meta" nothing is computed. Its mode is put back afterwards.
        input_size: (C, H, W) of the image.

    Raises:
        JobError: The network has an operation that the convention does not name.
    """
    parameter = next(model.parameters(), torch.empty(0))
    return count_in(model, torch.zeros(1, *input_size, device=parameter.device, dtype=parameter.dtype))


def count_in(model: nn.Module, images: Any) -> Operations:
    """Count the operations of a forward pass in evaluation mode.

    Args:
        model: As in `count_operations`. A detector's heads work for each detection: let all of them through
            (score_threshold 0), and what is counted is the most that an image can ask for.
        images: What the model takes: a batch (1, C, H, W), or for a detector a list of one image.

    Raises:
        JobError: As in `count_operations`.
    """
    with counting(model) as counter:
        model(images)
    return counter.result()


@contextmanager
def counting(model: nn.Module) -> Iterator["Counting"]:
    """Counts what a model computes inside the block: in evaluation mode, without gradient, AN by its definition."""
    was_training = model.training
    model.eval()
    counter = Counting()
    hooks = [
        module.register_forward_hook(counter.see_attentive)
        for module in model.modules()
        if isinstance(module, AttentiveNorm) and isinstance(module, BatchStatistics)
    ]
    try:
        with torch.no_grad(), backend("reference"), counter:
            yield counter
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()


class Counting(TorchDispatchMode):
    """Adds up the operations of everything that PyTorch executes under it."""

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0
        self.elements: Counter[str] = Counter()
        self.attentive = 0

    def result(self) -> Operations:
        """What was counted up to now."""
        return Operations(self.macs, dict(sorted(self.elements.items())), self.attentive)

    def see_attentive(self, module: nn.Module, args: Any, out: Tensor) -> None:
        """A forward hook of AN layers."""
        self.attentive += out.numel()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func.overloadpacket in flop_registry:
            self.macs += int(flop_registry[func.overloadpacket](*args, **kwargs, out_val=out)) // 2
        kind, count = _element_operations(func, args, out)
        if count:
            self.elements[kind] += count
        return out


def _element_operations(func: Any, args: Sequence[Any], out: Any) -> tuple[str, int]:
    """The kind and the number of element operations of one call of an operator."""
    packet = func.overloadpacket
    if packet in _ATTENTIONS:
        query, key = args[:2]  # (N, heads, L, E) and (N, heads, S, E)
        return "softmax", 5 * math.prod(query.shape[:-1]) * key.shape[-2]
    result: Tensor | None = out if isinstance(out, Tensor) else out[0] if isinstance(out, tuple) else None
    if func.is_view or packet in _MOVES or packet in flop_registry or result is None:
        return "", 0
    if packet in _EACH:
        kind, each = _EACH[packet]
        return kind, each * result.numel()
    if packet in _READ:
        kind, each = _READ[packet]
        return kind, each * args[0].numel()
    if packet in _WINDOWS:
        window = args[1] if len(args[1]) == 2 else args[1] * 2
        return _WINDOWS[packet], math.prod(window) * result.numel()
    if packet is _vision.roi_align:
        return "RoIAlign", 8 * _samples(*args) * result.shape[1]
    if torch.Tag.pointwise in func.tags or packet in _ELEMENTWISE:
        return "relu" if packet in _RELUS else packet.__name__.strip("_"), result.numel()
    raise JobError(f"every operation must be in the counting convention, and {func} is not; add it to {__name__}")


def _samples(features: Tensor, rois: Tensor, scale: float, height: int, width: int, ratio: int, aligned: bool) -> int:
    """Points at which RoIAlign reads each channel: ratio x ratio in each bin, or as many as its pixels where 0."""
    if ratio > 0:
        return len(rois) * height * width * ratio**2
    sides = (rois[:, 3:] - rois[:, 1:3]).double() * scale  # (R, 2): width, height
    if not aligned:
        sides = sides.clamp(min=1)
    bins = torch.tensor([width, height], dtype=torch.float64, device=rois.device)
    return int((sides / bins).ceil().clamp(min=0).prod(dim=1).sum()) * height * width
