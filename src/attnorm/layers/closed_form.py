"""The layer's two passes over x for eager PyTorch, with the backward pass in closed form.

Let A = scale, B = shift (N, C), L = pixels, g = dLoss/dy. Then, with m = sum(x)/L and v = sum((x-m)^2)/L,

    dB = sum g      dA = sum g*x                        one read of g and x
    dm, dv          from dA, dB by ordinary autograd    (N, C)-sized, whatever lies in between
    dx = A*g + P*x + Q,  P = 2*dv/L,  Q = dm/L - P*m    one more read of g and x, one write

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

from attnorm.layers.reference import at_least_float32, pixel_count, spread

# sum(x^2)/L - m^2 loses log10(m^2/v) digits. From this ratio on, a row is measured again around its own mean:
# at 64, float32 keeps a relative error below 1e-5 in v.
_CANCELLATION = 64.0


@dataclass(slots=True)
class Handover:
    """What the affine step's backward leaves for the moments' backward of the same layer call."""

    scale: Tensor | None = None
    dy: Tensor | None = None

    def take(self) -> tuple[Tensor, Tensor] | None:
        """Return (scale, dy) once, and let go of them."""
        scale, dy, self.scale, self.dy = self.scale, self.dy, None, None
        return None if scale is None or dy is None else (scale, dy)


def _measure(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance (N, C) of x (N, C, *spatial); accurate however far the mean is from 0."""
    spatial = tuple(range(2, x.ndim))
    wide = at_least_float32(x)
    mean = wide.mean(spatial)
    norm = cast(Tensor, torch.linalg.vector_norm(wide, dim=spatial))  # pyright: ignore[reportUnknownMemberType]
    mean_square = norm.square_() / pixel_count(x)
    var = torch.addcmul(mean_square, mean, mean, value=-1).clamp_(min=0)
    cancelled = mean.square() > _CANCELLATION * var
    if cancelled.any():
        rows = wide[cancelled].flatten(1)
        residual = rows - mean[cancelled].unsqueeze(1)
        offset = residual.mean(1)
        mean[cancelled] += offset
        var[cancelled] = (residual - offset.unsqueeze(1)).square_().mean(1)
    return mean, var


class _Moments(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, handover: Handover) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        mean, var = _measure(x)
        ctx.save_for_backward(x, mean)
        ctx.handover = handover
        return mean, var

    @staticmethod
    def backward(ctx: Any, dmean: Tensor, dvar: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        x, mean = ctx.saved_tensors
        if torch.is_grad_enabled():
            dx = spread(2 * dvar, x) * (x - spread(mean, x)) + spread(dmean, x)
            return (dx / pixel_count(x)).to(x.dtype), None
        p = dvar * (2 / pixel_count(x))
        q = torch.addcmul(dmean / pixel_count(x), p, mean, value=-1)
        dx = torch.addcmul(spread(q, x), spread(p, x), x)
        handed = ctx.handover.take()
        if handed is not None:
            scale, dy = handed
            dx = dx.addcmul_(spread(scale, x), dy)
        return dx.to(x.dtype), None


class _Affine(Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, handover: Handover
    ) -> Tensor:
        ctx.save_for_backward(x, scale)
        ctx.handover = handover
        return _apply(x, scale, shift)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, scale = ctx.saved_tensors
        spatial = tuple(range(2, x.ndim))
        wide = at_least_float32(dy)
        dscale, dshift = (wide * x).sum(spatial), wide.sum(spatial)
        if not ctx.needs_input_grad[0]:
            return None, dscale, dshift, None, None
        if torch.is_grad_enabled():
            return (spread(scale, x) * dy).to(x.dtype), dscale, dshift, None, None
        ctx.handover.scale, ctx.handover.dy = scale, dy
        return None, dscale, dshift, None, None


def _apply(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    y = torch.addcmul(spread(shift, x), x, spread(scale, x))
    return y.to(x.dtype)


class ClosedForm:
    """The two passes of one layer call. Make one for each call: the backward passes meet through it."""

    def __init__(self) -> None:
        self._handover = Handover()
        self._mean: Tensor | None = None

    def instance_moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance of every channel of every sample: (N, C) each, float32 or float64."""
        if not (torch.is_grad_enabled() and x.requires_grad):
            return _measure(x.detach())
        mean, var = _Moments.apply(x, self._handover)
        self._mean = mean
        return mean, var

    def affine(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """Return `scale * x + shift` in x's dtype and memory format; scale and shift are (N, C)."""
        if not (torch.is_grad_enabled() and (x.requires_grad or scale.requires_grad or shift.requires_grad)):
            return _apply(x, scale, shift)
        # The mean goes in unused: its edge makes autograd run the moments' backward, which writes dx, even if
        # somebody makes coefficients that do not depend on x.
        return _Affine.apply(x, scale, shift, self._mean, self._handover)
