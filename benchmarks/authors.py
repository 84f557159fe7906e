"""Attentive Normalization computed the way the released layer computes it, as a yardstick for time.

Written from the formulas of the method and from a description of which operations the released layer is made of; no
released code was read or copied. Its steps each go over x by themselves:

    x_hat = BatchNorm(x) without affine             s = avgpool(x) / sqrt(var(x) + 1e-3), var unbiased
    lambda = hard_sigmoid(BatchNorm(conv1x1(s)))    y = (lambda @ weight) * x_hat + lambda @ bias

Source: X. Li, W. Sun, T. Wu, "Attentive Normalization", ECCV 2020, arXiv 1908.01259.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnorm import AttentiveBatchNorm2d


class ReleasedFormulation(nn.Module):
    """The layer of the released ImageNet networks: batch standardisation, hard sigmoid, norm on the logits.

    Args:
        num_features: C.
        num_components: K.

    Shape:
        (N, C, H, W) -> (N, C, H, W), with more than one pixel: the unbiased variance of one is 0/0, as released.
    """

    running_mean: Tensor
    running_var: Tensor
    eps = 1e-5
    var_eps = 1e-3
    momentum = 0.1

    def __init__(self, num_features: int, num_components: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(1 + 0.1 * torch.randn(num_components, num_features))
        self.bias = nn.Parameter(0.1 * torch.randn(num_components, num_features))
        self.project = nn.Conv2d(num_features, num_components, 1, bias=False)
        self.norm = nn.BatchNorm2d(num_components)
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    @classmethod
    def like(cls, layer: AttentiveBatchNorm2d) -> "ReleasedFormulation":
        """The same function as `layer`, with copies of its parameters; the layer's defaults are assumed."""
        logits = layer.attention.logits
        assert logits.norm is not None
        made = cls(layer.num_features, layer.num_components).to(layer.weight.dtype)
        with torch.no_grad():
            made.weight.copy_(layer.weight)
            made.bias.copy_(layer.bias)
            made.project.weight.copy_(logits.weight[:, :, None, None])
            made.norm.weight.copy_(logits.norm.weight)
            made.norm.bias.copy_(logits.norm.bias)
        return made

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (N, C, H, W)."""
        standardised = F.batch_norm(
            x, self.running_mean, self.running_var, None, None, self.training, self.momentum, self.eps
        )
        pooled = F.adaptive_avg_pool2d(x, 1)
        statistic = pooled * (x.var((2, 3), keepdim=True) + self.var_eps).rsqrt()
        logits = self.norm(self.project(statistic))
        weights = (F.relu6(logits + 3) / 6).flatten(1)
        gamma, beta = weights @ self.weight, weights @ self.bias
        return gamma[:, :, None, None] * standardised + beta[:, :, None, None]
