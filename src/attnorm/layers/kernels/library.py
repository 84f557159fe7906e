"""The whole layer as operators of torch.library, for what must see it as one: torch.compile, FSDP, CUDA graphs.

    attnorm::attentive_norm             measure, coefficients, apply
    attnorm::attentive_norm_backward    gradient sums, coefficients backward, input gradient

Both only compute: running statistics are for the caller to update, from the statistics that come back. An operator's
schema knows tensors, numbers and names alone, so the named tuples of :mod:`attnorm.layers.middle` are flattened;
a statistic that there is none of comes back empty. Nothing here waits for the device.
"""

from typing import Any, cast

import torch
from torch import Tensor

from attnorm.layers.activation import Activation
from attnorm.layers.kernels.affine import apply
from attnorm.layers.kernels.gradients import gradient_sums, input_gradient
from attnorm.layers.kernels.layout import dense
from attnorm.layers.kernels.middle import coefficients, coefficients_backward
from attnorm.layers.kernels.moments import measure
from attnorm.layers.middle import Coefficients, Options, Parameters, Statistics
from attnorm.layers.reference import pixel_count


def attentive_norm(
    x: Tensor, parameters: Parameters, given: Statistics, options: Options, activation: Activation | None
) -> tuple[Tensor, Coefficients, Tensor, Tensor]:
    """Normalise x and apply the activation; differentiable once, in x and the parameters.

    Args:
        x: (N, C, *spatial), one that :func:`attnorm.layers.kernels.obstacle` has nothing against.
        parameters: In any floating dtype.
        given: Statistics to standardise with, None where they are taken from x.
        options: What is computed; `pixels` is that of x.
        activation: None for none.

    Returns:
        y, the coefficients with the statistics that were used, and the instance moments mean and var (N, C). All but
        y carry no gradients.
    """
    y, mean, var, *made = _forward(
        x,
        *parameters,
        *given,
        options.eps,
        options.var_eps,
        options.gate,
        options.logit_norm,
        options.logit_groups,
        options.logit_eps,
        options.num_groups,
        None if activation is None else activation.name,
        0.0 if activation is None else activation.slope,
    )
    return y, _coefficients(made, options), mean, var


@torch.library.custom_op("attnorm::attentive_norm", mutates_args=())
def _forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    logit_weight: Tensor,
    logit_bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    given_mean: Tensor | None,
    given_var: Tensor | None,
    given_logit_mean: Tensor | None,
    given_logit_rstd: Tensor | None,
    eps: float,
    var_eps: float,
    gate: str,
    logit_norm: str | None,
    logit_groups: int,
    logit_eps: float,
    num_groups: int,
    activation: str | None,
    slope: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    options = Options(pixel_count(x), eps, var_eps, gate, logit_norm, logit_groups, logit_eps, num_groups)
    parameters = Parameters(weight, bias, logit_weight, logit_bias, norm_weight, norm_bias)
    given = Statistics(given_mean, given_var, given_logit_mean, given_logit_rstd)
    x = dense(x)
    mean, var = measure(x)
    made = coefficients(mean, var, parameters, given, options)
    y = apply(x, made.scale, made.shift, _activation(activation, slope))
    # What an operator returns must be its own, so what was given is copied.
    statistics = [
        mean.new_empty(0) if used is None else used.clone() if used is own else used
        for used, own in zip(made.statistics, given, strict=True)
    ]
    return y, mean, var, *made[:4], *statistics  # pyright: ignore[reportReturnType]


@_forward.register_fake  # pyright: ignore[reportUnknownMemberType]
def _(x: Tensor, weight: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    *_, logit_norm, logit_groups, _, num_groups, _, _ = arguments
    samples, channels = x.shape[:2]
    components = weight.shape[0]

    def rows(*shape: int) -> Tensor:
        return x.new_empty(shape, dtype=torch.float32)

    per_channel = (samples, channels) if num_groups else (channels,)
    per_logit = {None: (0,), "batch": (components,)}.get(logit_norm, (samples, logit_groups))
    return (
        torch.empty_like(dense(x)),
        *(rows(samples, channels) for _ in range(4)),
        *(rows(samples, components) for _ in range(2)),
        *(rows(*per_channel) for _ in range(2)),
        *(rows(*per_logit) for _ in range(2)),
    )


@torch.library.custom_op("attnorm::attentive_norm_backward", mutates_args=())
def _backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    logit_weight: Tensor,
    logit_bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    made: list[Tensor],
    eps: float,
    var_eps: float,
    gate: str,
    logit_norm: str | None,
    logit_groups: int,
    logit_eps: float,
    num_groups: int,
    activation: str | None,
    slope: float,
    pooled: bool,
    logit_pooled: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    options = Options(pixel_count(x), eps, var_eps, gate, logit_norm, logit_groups, logit_eps, num_groups)
    parameters = Parameters(weight, bias, logit_weight, logit_bias, norm_weight, norm_bias)
    mean, var, *rest = made
    used, act = _coefficients(rest, options), _activation(activation, slope)
    x = dense(x)
    dcentred, dshift, g = gradient_sums(dy, x, mean, used.scale, used.shift, act)
    gradients = coefficients_backward(dcentred, dshift, mean, var, used, parameters, options, pooled, logit_pooled)
    dx = input_gradient(g, x, mean, used.scale, used.shift, gradients.mean, gradients.var, act)
    dparameters = [
        x.new_empty(0) if p is None or dp is None else dp.to(p.dtype)
        for p, dp in zip(parameters, gradients.parameters, strict=True)
    ]
    return dx, *dparameters  # pyright: ignore[reportReturnType]


@_backward.register_fake  # pyright: ignore[reportUnknownMemberType]
def _(dy: Tensor, x: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    parameters = cast(tuple[Tensor | None, ...], arguments[:6])
    return torch.empty_like(dense(x)), *(
        x.new_empty(0) if p is None else torch.empty_like(p, memory_format=torch.contiguous_format) for p in parameters
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, *rest = inputs
    parameters, given, ctx.options = rest[:6], rest[6:10], rest[10:]
    ctx.pooled, ctx.logit_pooled = given[0] is None, given[2] is None
    ctx.save_for_backward(x, *parameters, *output[1:])
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, dy: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    inputs = len(ctx.needs_input_grad)
    if dy is None:
        return (None,) * inputs
    x, *saved = ctx.saved_tensors
    found = _backward(dy, x, *saved[:6], saved[6:], *ctx.options, ctx.pooled, ctx.logit_pooled)
    present = zip((x, *saved[:6]), found, ctx.needs_input_grad, strict=False)
    gradients = [gradient if needed and tensor is not None else None for tensor, gradient, needed in present]
    return *gradients, *(None,) * (inputs - len(gradients))


_forward.register_autograd(_differentiate, setup_context=_save)  # pyright: ignore[reportUnknownMemberType]


def _activation(name: str | None, slope: float) -> Activation | None:
    return None if name is None else Activation(name, slope)


def _coefficients(made: list[Tensor], options: Options) -> Coefficients:
    """Gather what the operators pass on flat: scale, shift, weights, logits, and four statistics."""
    scale, shift, weights, logits, mu, sigma2, logit_mean, logit_rstd = made
    statistics = Statistics(mu, sigma2, logit_mean, logit_rstd)
    if options.logit_norm is None:
        statistics = Statistics(mu, sigma2, None, None)
    return Coefficients(scale, shift, weights, logits, statistics)
