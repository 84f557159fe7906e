"""The layer's two passes over x for eager PyTorch, with the backward pass in closed form and autograd in between.

Let A = scale, B = shift (N, C), L = pixels, g = dLoss/dy. Then, with m = sum(x)/L and v = sum((x-m)^2)/L,

    dB = sum g      dA = sum g*x                        one read of g and x
    dm, dv          from dA, dB by ordinary autograd    (N, C)-sized, whatever lies in between
    dx = A*g + 2*dv/L * (x - m) + dm/L                  one more read of g and x, one write

So the traffic is BatchNorm's: forward two reads and one write of x, backward four reads and one write. Saved for
backward are x and (N, C)-sized tensors. The affine step's backward leaves A and g in a :class:`Handover`, where the
moments' backward, which autograd always runs later, finds them and writes dx once.

Under `create_graph=True` nothing is handed over and both backward passes are written in differentiable operations,
so that double backward works.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function

from attnorm.layers.coefficients import where_spread
from attnorm.layers.fused import Kernels
from attnorm.layers.reference import at_least_float32, pixel_count, spread


@dataclass(slots=True)
class Handover:
    """What the affine step's backward leaves for the moments' backward of the same layer call."""

    kernels: Kernels
    scale: Tensor | None = None
    g: Tensor | None = None

    def take(self) -> tuple[Tensor, Tensor] | None:
        """Return (scale, g) once, and let go of them."""
        scale, g, self.scale, self.g = self.scale, self.g, None, None
        return None if scale is None or g is None else (scale, g)


class _Moments(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, handover: Handover) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        mean, var = handover.kernels.measure(x)
        ctx.save_for_backward(x, mean, var)
        ctx.handover = handover
        return mean, var

    @staticmethod
    def backward(ctx: Any, dmean: Tensor, dvar: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        x, mean, var = ctx.saved_tensors
        handed = None if torch.is_grad_enabled() else ctx.handover.take()
        if handed is None:
            dx = spread(2 * dvar, x) * (x - spread(mean, x)) + spread(dmean, x)
            return (dx / pixel_count(x)).to(x.dtype), None
        scale, g = handed
        dvar = where_spread(dvar, mean, var)
        return ctx.handover.kernels.input_gradient(g, x, mean, scale, scale, dmean, dvar, None), None


class _Affine(Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, handover: Handover
    ) -> Tensor:
        ctx.save_for_backward(x, scale, shift, mean)
        ctx.handover = handover
        return handover.kernels.apply(x, scale, shift, None)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, scale, shift, mean = ctx.saved_tensors
        if torch.is_grad_enabled():
            spatial, wide = tuple(range(2, x.ndim)), at_least_float32(dy)
            dx = (spread(scale, x) * dy).to(x.dtype) if ctx.needs_input_grad[0] else None
            return dx, (wide * x).sum(spatial), wide.sum(spatial), None, None
        dcentred, dshift, g = ctx.handover.kernels.gradient_sums(dy, x, mean, scale, shift, None)
        dscale = torch.addcmul(dcentred, mean, dshift)
        if ctx.needs_input_grad[0]:
            ctx.handover.scale, ctx.handover.g = scale, g
        return None, dscale, dshift, None, None


class ClosedForm:
    """The two passes of one layer call. Make one for each call: the backward passes meet through it."""

    def __init__(self, kernels: Kernels) -> None:
        self._handover = Handover(kernels)
        self._mean: Tensor | None = None

    def instance_moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance of every channel of every sample: (N, C) each, float32 or float64."""
        if torch.is_grad_enabled() and x.requires_grad:
            mean, var = _Moments.apply(x, self._handover)
        else:
            mean, var = self._handover.kernels.measure(x.detach())
        self._mean = mean
        return mean, var

    def affine(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """Return `scale * x + shift` in x's dtype and memory format; scale and shift are (N, C)."""
        if not (torch.is_grad_enabled() and (x.requires_grad or scale.requires_grad or shift.requires_grad)):
            return self._handover.kernels.apply(x, scale, shift, None)
        # The mean goes in without a gradient of its own: its edge makes autograd run the moments' backward, which
        # writes dx, even if somebody makes coefficients that do not depend on x.
        return _Affine.apply(x, scale, shift, cast(Tensor, self._mean), self._handover)
