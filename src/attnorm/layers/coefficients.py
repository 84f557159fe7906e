"""The middle of the layer, between its two passes over x, forward and backward in closed form.

Everything here is (N, C)- or (N, K)-sized, so what it costs is the number of operations: autograd would run some 150
for one training step, the formulas below need about 60. With m, v the instance moments and c = L / (L - 1):

    t = (c v + var_eps)^-1/2    s = m t    logits = s V^T + b    lambda = gate(norm(logits))
    scale = r lambda W    shift = lambda B - scale mu    r = (sigma2 + eps)^-1/2

`pool` takes the mean over what shares a statistic: the N samples (batch), or the channels of a group. mu = pool(m),
sigma2 = pool(v + (m - mu)^2). With D = dLoss/dscale - mu dLoss/dshift, which the pass over x delivers without
cancellation as sum g (x - m) + (m - mu) sum g, the way back is

    dW = lambda^T (D r)    dB = lambda^T dshift    dlambda = (D r) W^T + dshift B^T    ->  dlogits  ->  ds = dlogits V
    dsigma2 = -r^2/2 pool(D scale)    dmu = -pool(dshift scale)
    dm = t ds + dmu + 2 dsigma2 (m - mu)    dv = -c/2 t^2 s ds + dsigma2

:class:`attnorm.layers.attentive.AttentiveNorm` computes the same with modules, in plain PyTorch; tests compare the
two. The forward pass can also be differentiated by autograd, twice.
"""

from functools import lru_cache
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from attnorm.layers.attention import GATES
from attnorm.layers.middle import Coefficients, Gradients, Options, Parameters, Statistics

aten = torch.ops.aten


def coefficients(
    mean: Tensor, var: Tensor, parameters: Parameters, given: Statistics, options: Options
) -> Coefficients:
    """Compute scale and shift (N, C) from instance moments (N, C)."""
    statistic = mean * _inverse_std(var, options)
    logits = F.linear(statistic, parameters.logit_weight, parameters.logit_bias)
    normed, logit_mean, logit_rstd = _normalise_logits(logits, parameters, given, options)
    weights = _gate(normed, options.gate)
    mu, sigma2 = given.mean, given.var
    if mu is None or sigma2 is None:
        mu = _pool(mean, options)
        deviation = mean - mu
        sigma2 = _pool(torch.addcmul(var, deviation, deviation), options)
    scale = (weights @ parameters.weight).mul_((sigma2 + number(options.eps, sigma2)).rsqrt_())
    shift = (weights @ parameters.bias).addcmul_(scale, mu, value=-1)
    return Coefficients(scale, shift, weights, logits, Statistics(mu, sigma2, logit_mean, logit_rstd))


def coefficients_backward(
    dcentred: Tensor,
    dshift: Tensor,
    mean: Tensor,
    var: Tensor,
    made: Coefficients,
    parameters: Parameters,
    options: Options,
    pooled: bool,
    logit_pooled: bool,
) -> Gradients:
    """Differentiate :func:`coefficients`.

    Args:
        dcentred: sum g (x - m) (N, C), where g = dLoss/d(scale x + shift).
        dshift: sum g (N, C).
        mean: m (N, C).
        var: v (N, C).
        made: What the forward pass returned.
        parameters: Those of the forward pass.
        options: Those of the forward pass.
        pooled: Whether mu and sigma2 came from the moments, not from running statistics.
        logit_pooled: Whether the logit norm's statistics came from the logits.
    """
    mu, sigma2 = cast(Tensor, made.statistics.mean), cast(Tensor, made.statistics.var)
    deviation = mean - mu
    dscale = torch.addcmul(dcentred, dshift, deviation)
    rstd = (sigma2 + number(options.eps, sigma2)).rsqrt_()
    dgain = dscale * rstd
    dweights = torch.addmm(dgain @ parameters.weight.T, dshift, parameters.bias.T)
    dlogits, dnorm_weight, dnorm_bias = _logits_backward(dweights, made, parameters, options, logit_pooled)
    inverse_std = _inverse_std(var, options)
    statistic = mean * inverse_std
    dstatistic = dlogits @ parameters.logit_weight
    dmean = dstatistic * inverse_std
    dsigma2 = torch.zeros_like(rstd)  # on running statistics nothing flows back through mu and sigma2
    if pooled:
        dsigma2.addcmul_(_pool(dscale.mul_(made.scale), options), rstd.square_(), value=-0.5)
    dvar = torch.addcmul(dsigma2, dmean * inverse_std, statistic, value=-0.5 * _unbias(options))
    if pooled:
        dmean.sub_(_pool(dshift * made.scale, options)).addcmul_(deviation, dsigma2, value=2)
    transposed = made.weights.T
    return Gradients(
        dmean,
        where_spread(dvar, mean, var),
        Parameters(
            transposed @ dgain,
            transposed @ dshift,
            dlogits.T @ statistic,
            None if parameters.logit_bias is None else dlogits.sum(0),
            dnorm_weight,
            dnorm_bias,
        ),
    )


def where_spread(dvar: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    """The gradient of variances (N, C), but 0 where the spread is below the rounding of the mean.

    In dx it is multiplied by x - m, which is 0 there. The pass over x computes slope x - slope m, of which the rounding
    would remain, and 1 / var_eps makes that slope steep.
    """
    return dvar.masked_fill(var <= (mean * torch.finfo(mean.dtype).eps).square_(), 0)


@lru_cache(maxsize=256)
def _number(value: float, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(value, dtype=dtype)


def number(value: float, like: Tensor) -> Tensor:
    """A 0-dimensional CPU tensor of the dtype of `like`, to compute with in place of a Python number.

    A Python number becomes a tensor of another dtype, which is converted, in every operation; where it is (N, C)-sized
    that takes as long as the operation itself.
    """
    return _number(value, like.dtype)


def _unbias(options: Options) -> float:
    return options.pixels / max(options.pixels - 1, 1)


def _inverse_std(var: Tensor, options: Options) -> Tensor:
    return torch.add(number(options.var_eps, var), var, alpha=_unbias(options)).rsqrt_()


def _pool(values: Tensor, options: Options) -> Tensor:
    """The mean of (N, C) values over the samples (C,), or over the channels of each group, spread out again (N, C)."""
    samples, channels = values.shape
    if not options.num_groups:
        return values.sum(0).mul_(number(1 / samples, values))
    grouped = values.view(samples, options.num_groups, channels // options.num_groups)
    return grouped.mean(2).repeat_interleave(grouped.shape[2], 1)


def _gate(normed: Tensor, gate: str) -> Tensor:
    if gate == "hard_sigmoid" and not normed.requires_grad:
        return F.hardsigmoid(normed)  # one operation instead of three, but without a second derivative
    return GATES[gate](normed)


def _normalise_logits(
    logits: Tensor, parameters: Parameters, given: Statistics, options: Options
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    if options.logit_norm is None:
        return logits, None, None
    weight, bias = parameters.norm_weight, parameters.norm_bias
    if options.logit_norm != "batch":
        samples, components = logits.shape
        return aten.native_group_norm(
            logits, weight, bias, samples, components, 1, options.logit_groups, options.logit_eps
        )
    if given.logit_mean is None or given.logit_rstd is None:
        return aten.native_batch_norm(logits, weight, bias, None, None, True, 0.0, options.logit_eps)
    assert weight is not None
    assert bias is not None
    gain = weight * given.logit_rstd
    return torch.addcmul(bias - gain * given.logit_mean, logits, gain), given.logit_mean, given.logit_rstd


def _logits_backward(
    dweights: Tensor, made: Coefficients, parameters: Parameters, options: Options, pooled: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """From the gradient of lambda to those of the logits before their norm, and of the norm's weight and bias."""
    weights, logits = made.weights, made.logits
    if options.gate == "hard_sigmoid":  # of slope 1/6, but flat where lambda is 0 or 1
        dnormed = aten.hardtanh_backward(dweights, weights, 0.0, 1.0).mul_(number(1 / 6, weights))
    elif options.gate == "sigmoid":
        dnormed = aten.sigmoid_backward(dweights, weights)
    else:
        dnormed = aten._softmax_backward_data(dweights, weights, 1, weights.dtype)
    if options.logit_norm is None:
        return dnormed, None, None
    mean, rstd = made.statistics.logit_mean, made.statistics.logit_rstd
    assert mean is not None
    assert rstd is not None
    weight, everything = parameters.norm_weight, [True, True, True]
    if options.logit_norm != "batch":
        samples, components = logits.shape
        return aten.native_group_norm_backward(
            dnormed, logits, mean, rstd, weight, samples, components, 1, options.logit_groups, everything
        )
    if pooled:
        return aten.native_batch_norm_backward(
            dnormed, logits, weight, None, None, mean, rstd, True, options.logit_eps, everything
        )
    dweight = (dnormed * (logits - mean)).sum(0).mul_(rstd)
    return dnormed * (cast(Tensor, weight) * rstd), dweight, dnormed.sum(0)
