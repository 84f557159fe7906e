"""The middle in closed form against the layers' own modules and autograd, in float64."""

import pytest
import torch
from torch.testing import assert_close

from attnorm import AttentiveBatchNorm2d, AttentiveGroupNorm
from attnorm.layers.coefficients import coefficients, coefficients_backward
from attnorm.layers.middle import Options, Parameters, Statistics

SAMPLES, CHANNELS, PIXELS = 5, 8, 9
GROUPS = [None, 1, 4, CHANNELS]  # None: the batch variant; 1 is layer norm, C instance norm


def draw_layer(groups, training, **options):
    """A layer of which no parameter or buffer has its initial value."""
    torch.manual_seed(0)
    kind = AttentiveBatchNorm2d if groups is None else AttentiveGroupNorm
    counts = {} if groups is None else {"num_groups": groups}
    layer = kind(CHANNELS, num_components=4, dtype=torch.float64, **counts, **options).train(training)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
        for buffer in layer.buffers():
            if buffer.is_floating_point():
                buffer.add_(torch.rand_like(buffer))
    return layer


def arguments_for(layer, training):
    """Parameters, given statistics and options, as the layer's configuration has them."""
    logits, norm = layer.attention.logits, layer.attention.logits.norm
    parameters = Parameters(
        layer.weight,
        layer.bias,
        logits.weight,
        logits.bias,
        None if norm is None else norm.weight,
        None if norm is None else norm.bias,
    )
    batch = isinstance(layer, AttentiveBatchNorm2d)
    given = [None] * 4
    if batch and not training:
        given[:2] = layer.running_mean.clone(), layer.running_var.clone()
    if norm is not None and norm.kind == "batch" and not training:
        given[2:] = norm.running_mean.clone(), (norm.running_var + norm.eps).rsqrt()
    options = Options(
        PIXELS,
        layer.eps,
        layer.attention.var_eps,
        layer.attention.gate,
        layer.attention.logit_norm,
        1 if norm is None else norm.num_groups,
        0.0 if norm is None else norm.eps,
        0 if batch else layer.num_groups,
    )
    return parameters, Statistics(*given), options


def by_modules(layer, mean, var):
    """Scale and shift as the layer's modules make them, step by step."""
    weights = layer.attention(mean, var, PIXELS)
    mu, sigma2 = layer.standardiser(mean, var, PIXELS)
    scale = (weights @ layer.weight) * (sigma2 + layer.eps).rsqrt()
    return scale, weights @ layer.bias - scale * mu


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("logit_norm", ["batch", "layer", "group", None])
@pytest.mark.parametrize("gate", ["hard_sigmoid", "sigmoid", "softmax"])
@pytest.mark.parametrize("groups", GROUPS)
def test_values_and_gradients(groups, gate, logit_norm, training):
    """All that the closed form can be asked for; what differs are roundings of float64 sums over few values."""
    extra = {"logit_groups": 2} if logit_norm == "group" else {}
    layer = draw_layer(groups, training, gate=gate, logit_norm=logit_norm, **extra)
    parameters, given, options = arguments_for(layer, training)
    mean = torch.randn(SAMPLES, CHANNELS, dtype=torch.float64).requires_grad_()
    var = torch.rand(SAMPLES, CHANNELS, dtype=torch.float64).requires_grad_()
    dscale, dshift = torch.randn(2, SAMPLES, CHANNELS, dtype=torch.float64)
    expected = by_modules(layer, mean, var)
    live = [p for p in parameters if p is not None]
    truth = torch.autograd.grad(expected, [mean, var, *live], (dscale, dshift))
    with torch.no_grad():
        made = coefficients(mean, var, parameters, given, options)
        # The pass over x delivers sum g (x - m), which is dscale - m dshift.
        gradients = coefficients_backward(
            dscale - mean * dshift,
            dshift,
            mean,
            var,
            made,
            parameters,
            options,
            given.mean is None,
            given.logit_mean is None,
        )
    assert_close((made.scale, made.shift), expected, rtol=1e-10, atol=1e-10)
    assert [p is None for p in gradients.parameters] == [p is None for p in parameters]
    ours = [gradients.mean, gradients.var, *(g for g in gradients.parameters if g is not None)]
    for gradient, exact in zip(ours, truth, strict=True):
        assert_close(gradient, exact, rtol=1e-9, atol=1e-10)


def test_statistics_are_those_that_were_used():
    """They feed the running statistics, and the backward pass: biased, of the batch; rstd of the logits with eps."""
    layer = draw_layer(None, True)
    parameters, given, options = arguments_for(layer, True)
    mean, var = torch.randn(2, SAMPLES, CHANNELS, dtype=torch.float64)
    with torch.no_grad():
        made = coefficients(mean, var.abs(), parameters, given, options)
    mu, sigma2, logit_mean, logit_rstd = made.statistics
    assert_close(mu, mean.mean(0))
    assert_close(sigma2, var.abs().mean(0) + mean.var(0, correction=0))
    assert_close(logit_mean, made.logits.mean(0))
    assert_close(logit_rstd, (made.logits.var(0, correction=0) + options.logit_eps).rsqrt())
    assert_close(made.weights, layer.attention(mean, var.abs(), PIXELS).detach())
