"""The middle of the layer on a CUDA device: Triton kernels where they fit, PyTorch's where not; chosen here alone."""

import torch
from torch import Tensor

from attnorm.layers import coefficients as pytorch
from attnorm.layers.kernels import middle_backward, middle_forward
from attnorm.layers.kernels.launch import LARGEST_BATCH, LARGEST_MIXTURE
from attnorm.layers.middle import Coefficients, Gradients, Options, Parameters, Statistics


def serves(samples: int, components: int, options: Options) -> bool:
    """Whether the Triton kernels serve N samples and K components.

    They do not where K or N is too large for one program, nor the logit norm "group", which only the first release of
    the refactored networks used; :mod:`attnorm.layers.coefficients` then does, in some 20 launches more.
    """
    return components <= LARGEST_MIXTURE and samples <= LARGEST_BATCH and options.logit_norm != "group"


def coefficients(
    mean: Tensor, var: Tensor, parameters: Parameters, given: Statistics, options: Options
) -> Coefficients:
    """Compute scale and shift (N, C) from instance moments (N, C), both float32.

    Arguments and result are those of :func:`attnorm.layers.coefficients.coefficients`. Without samples the result is
    empty and statistics that would have to be taken are those of mean 0 and variance 1.
    """
    components = parameters.weight.shape[0]
    if not mean.numel():
        return _without_samples(mean, components, given, options)
    if serves(mean.shape[0], components, options):
        return middle_forward.coefficients(mean.contiguous(), var.contiguous(), parameters, given, options)
    return pytorch.coefficients(mean, var, _float32(parameters), given, options)


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
    """Differentiate :func:`coefficients`; see :func:`attnorm.layers.coefficients.coefficients_backward`.

    The gradients of the parameters are float32.
    """
    if not mean.numel():
        zeros = (None if p is None else torch.zeros_like(p, dtype=mean.dtype) for p in parameters)
        return Gradients(torch.zeros_like(mean), torch.zeros_like(var), Parameters(*zeros))  # pyright: ignore[reportArgumentType]
    arguments = (dcentred.contiguous(), dshift.contiguous(), mean.contiguous(), var.contiguous(), made)
    if serves(mean.shape[0], parameters.weight.shape[0], options):
        return middle_backward.coefficients_backward(*arguments, parameters, options, pooled, logit_pooled)
    return pytorch.coefficients_backward(*arguments, _float32(parameters), options, pooled, logit_pooled)


def _float32(parameters: Parameters) -> Parameters:
    return Parameters(*(None if p is None else p.float() for p in parameters))  # pyright: ignore[reportArgumentType]


def _without_samples(mean: Tensor, components: int, given: Statistics, options: Options) -> Coefficients:
    mu, sigma2, logit_mean, logit_rstd = given
    channels = mean.shape[1]
    if mu is None or sigma2 is None:
        shape = mean.shape if options.num_groups else (channels,)
        mu, sigma2 = mean.new_zeros(shape), mean.new_ones(shape)
    if options.logit_norm is None:
        logit_mean = logit_rstd = None
    elif options.logit_norm != "batch":
        shape = (0, options.logit_groups)
        logit_mean, logit_rstd = mean.new_empty(shape), mean.new_empty(shape)
    elif logit_mean is None or logit_rstd is None:
        logit_mean = mean.new_zeros(components)
        logit_rstd = torch.full_like(logit_mean, (1 + options.logit_eps) ** -0.5)
    empty = mean.new_empty((0, components))
    statistics = Statistics(mu, sigma2, logit_mean, logit_rstd)
    return Coefficients(mean.new_empty(0, channels), mean.new_empty(0, channels), empty, empty.clone(), statistics)
