"""The whole layer as one autograd node, for the configurations whose middle is known in closed form.

Forward: measure, coefficients, apply. Backward: gradient sums, coefficients backward, input gradient. The passes come
from a module of kernels (:mod:`attnorm.layers.eager`, or :mod:`attnorm.layers.kernels` in Triton). Saved for backward
are x, tensors of the sizes (N, C) and (N, K), and the parameters; with an activation nothing more.

Other configurations (an MLP head, statistics pooled over processes, hooks on the attention) go the longer way through
:class:`attnorm.layers.closed_form.ClosedForm` and autograd.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd import Function

from attnorm.layers import reference
from attnorm.layers.activation import Activation
from attnorm.layers.coefficients import coefficients
from attnorm.layers.middle import Coefficients, Gradients, Options, Parameters, Statistics


class Kernels(Protocol):
    """The passes over x, and what lies between them; their meaning is given in :mod:`attnorm.layers.eager`."""

    def measure(self, x: Tensor) -> tuple[Tensor, Tensor]: ...  # noqa: D102

    def coefficients(  # noqa: D102
        self, mean: Tensor, var: Tensor, parameters: Parameters, given: Statistics, options: Options
    ) -> Coefficients: ...

    def apply(self, x: Tensor, scale: Tensor, shift: Tensor, activation: Activation | None) -> Tensor: ...  # noqa: D102

    def gradient_sums(  # noqa: D102
        self, dy: Tensor, x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor, activation: Activation | None
    ) -> tuple[Tensor, Tensor, Tensor]: ...

    def coefficients_backward(  # noqa: D102
        self,
        dcentred: Tensor,
        dshift: Tensor,
        mean: Tensor,
        var: Tensor,
        made: Coefficients,
        parameters: Parameters,
        options: Options,
        pooled: bool,
        logit_pooled: bool,
    ) -> Gradients: ...

    def input_gradient(  # noqa: D102
        self,
        g: Tensor,
        x: Tensor,
        mean: Tensor,
        scale: Tensor,
        shift: Tensor,
        dmean: Tensor,
        dvar: Tensor,
        activation: Activation | None,
    ) -> Tensor: ...


class Call(NamedTuple):
    """What one call of the layer computes with, beside x and the parameters."""

    kernels: Kernels
    given: Statistics
    options: Options
    activation: Activation | None


def attentive_norm(x: Tensor, parameters: Parameters, call: Call) -> tuple[Tensor, Coefficients]:
    """Normalise x (N, C, *spatial), N and L at least 1, and apply the activation.

    Returns:
        y, and the coefficients with the statistics that were used, which carry no gradients.
    """
    with without_autocast(x):
        if torch.compiler.is_compiling():
            return _operator(x, parameters, call)
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, *parameters)):
            out: list[Coefficients] = []
            return _AttentiveNorm.apply(x, *parameters, call, out), out[0]
        y, _, _, made = _forward(x, parameters, call)
        return y, made


def _operator(x: Tensor, parameters: Parameters, call: Call) -> tuple[Tensor, Coefficients]:
    """The same as one operator of torch.library, which compilers take as it is; only Triton's kernels have one."""
    from attnorm.layers.kernels import library

    y, made, _, _ = library.attentive_norm(x, parameters, call.given, call.options, call.activation)
    return y, made


def _forward(x: Tensor, parameters: Parameters, call: Call) -> tuple[Tensor, Tensor, Tensor, Coefficients]:
    mean, var = call.kernels.measure(x)
    made = call.kernels.coefficients(mean, var, _in_dtype_of(mean, parameters), call.given, call.options)
    return call.kernels.apply(x, made.scale, made.shift, call.activation), mean, var, made


def _gradients(
    dy: Tensor,
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    made: Coefficients,
    parameters: Parameters,
    call: Call,
    needs_dx: bool,
) -> tuple[Tensor | None, Gradients]:
    kernels, given, options, activation = call
    scale, shift = made.scale, made.shift
    dcentred, dshift, g = kernels.gradient_sums(dy, x, mean, scale, shift, activation)
    gradients = kernels.coefficients_backward(
        dcentred,
        dshift,
        mean,
        var,
        made,
        _in_dtype_of(mean, parameters),
        options,
        given.mean is None,
        given.logit_mean is None,
    )
    if not needs_dx:  # the first layer of a network, or one behind a frozen stem
        return None, gradients
    return kernels.input_gradient(g, x, mean, scale, shift, gradients.mean, gradients.var, activation), gradients


class _AttentiveNorm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *arguments: Any) -> Tensor:  # type: ignore[override]
        *tensors, call, out = arguments
        parameters = Parameters(*tensors)
        y, mean, var, made = _forward(x, parameters, call)
        out.append(made)
        ctx.call = call
        ctx.save_for_backward(x, *parameters, mean, var, *made[:4], *made.statistics)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, *saved = ctx.saved_tensors
        parameters, (mean, var, *made) = Parameters(*saved[:6]), saved[6:]
        with without_autocast(x):
            if torch.is_grad_enabled():
                return *_differentiable_gradients(x, parameters, ctx.call, dy, ctx.needs_input_grad), None, None
            coefficients = Coefficients(*made[:4], statistics=Statistics(*made[4:]))
            dx, gradients = _gradients(dy, x, mean, var, coefficients, parameters, ctx.call, ctx.needs_input_grad[0])
        dparameters = (
            None if parameter is None or gradient is None else gradient.to(parameter.dtype)
            for parameter, gradient in zip(parameters, gradients.parameters, strict=True)
        )
        return dx, *dparameters, None, None


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Autocast would run the (N, C)-sized products in half precision; coefficients stay in float32."""
    kind = x.device.type
    if kind != "meta" and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


def _in_dtype_of(mean: Tensor, parameters: Parameters) -> Parameters:
    dtype = mean.dtype
    return Parameters(*[p if p is None or p.dtype == dtype else p.to(dtype) for p in parameters])  # pyright: ignore[reportArgumentType]


def _differentiable_gradients(
    x: Tensor, parameters: Parameters, call: Call, dy: Tensor, needed: tuple[bool, ...]
) -> list[Tensor | None]:
    """Gradients that can be differentiated again: those of the plain formulas, computed anew."""
    mean, var = reference.instance_moments(x)
    made = coefficients(mean, var, _in_dtype_of(mean, parameters), call.given, call.options)
    y = reference.affine(x, made.scale, made.shift)
    if call.activation is not None:
        y = call.activation(y)
    inputs = [t for t, need in zip((x, *parameters), needed, strict=False) if need and t is not None]
    found = iter(torch.autograd.grad(y, inputs, dy, create_graph=True, allow_unused=True))
    return [next(found) if need else None for need in needed[:7]]
