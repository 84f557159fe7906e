"""From the gradients of scale and shift to those of the moments and the parameters: two launches, three for groups.

First the mixture's side (:mod:`attnorm.layers.kernels.mixture_backward`), then the attention's
(:mod:`attnorm.layers.kernels.attention_backward`). Between them lie dmu, dsigma2 and the parts of dlambda; all is small
and what it costs is launches.
"""
# pyright: basic, reportPrivateImportUsage=false, reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# Triton's language has no types that a checker could follow.

import torch
import triton
from torch import Tensor

from attnorm.layers.kernels.attention_backward import attention_kernel
from attnorm.layers.kernels.launch import middle_settings
from attnorm.layers.kernels.mixture_backward import group_kernel, mixture_kernel
from attnorm.layers.middle import Coefficients, Gradients, Options, Parameters

_GROUP_CHANNELS = 1024  # of a group, that a program takes at a time


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
    """As in :mod:`attnorm.layers.coefficients`, for what :func:`attnorm.layers.kernels.middle.serves`.

    The first four, (N, C), are contiguous.
    """
    samples, channels = mean.shape
    components = parameters.weight.shape[0]
    settings = middle_settings(samples, channels, components)
    blocks = triton.cdiv(channels, settings.block_channels)
    mu, sigma2, logit_mean, logit_rstd = made.statistics
    mu_stride = channels if options.num_groups else 0
    assert mu is not None
    dmean, dvar = torch.empty_like(mean), torch.empty_like(mean)
    dweight, dbias, dlogit_weight = (mean.new_empty((components, channels)) for _ in range(3))
    dlogit_bias, dnorm_weight, dnorm_bias = (mean.new_empty(components) for _ in range(3))
    dmu, dsigma2 = torch.empty_like(mu), torch.empty_like(mu)
    parts = mean.new_empty((blocks, samples, components))
    with torch.cuda.device_of(mean):
        mixture_kernel[(blocks,)](
            dcentred,
            dshift,
            mean,
            made.scale,
            made.weights,
            parameters.weight.contiguous(),
            parameters.bias.contiguous(),
            mu,
            sigma2,
            dweight,
            dbias,
            dmu,
            dsigma2,
            parts,
            samples,
            channels,
            components,
            mu_stride,
            options.eps,
            POOL=pooled and not options.num_groups,
            **settings.constants(),
        )
        if options.num_groups:
            size = channels // options.num_groups
            group_kernel[(samples * options.num_groups,)](
                dcentred,
                dshift,
                mean,
                made.scale,
                mu,
                sigma2,
                dmu,
                dsigma2,
                size,
                options.eps,
                BLOCK=min(triton.next_power_of_2(size), _GROUP_CHANNELS),
                num_warps=1 if size <= 128 else 4,
            )
        attention_kernel[(blocks,)](
            parts,
            made.logits,
            made.weights,
            logit_mean,
            logit_rstd,
            parameters.norm_weight,
            parameters.logit_weight.contiguous(),
            mean,
            var,
            mu,
            dmu,
            dsigma2,
            dmean,
            dvar,
            dlogit_weight,
            None if parameters.logit_bias is None else dlogit_bias,
            dnorm_weight,
            dnorm_bias,
            samples,
            channels,
            components,
            blocks,
            mu_stride,
            options.pixels / max(options.pixels - 1, 1),
            options.var_eps,
            GATE=options.gate,
            LOGIT_NORM=options.logit_norm or "none",
            POOL=pooled,
            LOGIT_POOL=logit_pooled,
            **settings.constants(),
        )
    normed = options.logit_norm is not None
    return Gradients(
        dmean,
        dvar,
        Parameters(
            dweight,
            dbias,
            dlogit_weight,
            None if parameters.logit_bias is None else dlogit_bias,
            dnorm_weight if normed else None,
            dnorm_bias if normed else None,
        ),
    )
