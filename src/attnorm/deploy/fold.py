"""AN for inference: everything that is constant once a network is trained is multiplied out beforehand.

In evaluation the standardisation of :class:`~attnorm.layers.norm.AttentiveBatchNorm2d` is an affine transform with
constants, and so is the norm on its logits. With `rstd = 1 / sqrt(running_var + eps)`,

    scale = lambda @ (weight * rstd)                          (N, K) @ (K, C)
    shift = lambda @ (bias - running_mean * weight * rstd)    (N, K) @ (K, C)
    y     = scale * x + shift

and the logits' norm, likewise the gate's `(z + 3) / 6`, become part of the projection in front of them. What is left
depends on the sample: its moments, three small matrix products, one multiplication and one addition per pixel. Exact
algebra: outputs are equal to rounding.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnorm.layers.attention import GATES, ChannelAttention, LogitLayer
from attnorm.layers.attentive import AttentiveNorm
from attnorm.layers.norm import AttentiveBatchNorm2d, AttentiveGroupNorm
from attnorm.layers.norm_act import AttentiveBatchNormAct2d, AttentiveGroupNormAct
from attnorm.layers.reference import degrees_of_freedom, pixel_count, spread
from attnorm.layers.walk import named_modules, set_module


def fold_norm(model: nn.Module) -> nn.Module:
    """A copy of a network for inference, with the constants of its AN layers multiplied out; see this module.

    Layers whose outputs depend on the rest of the batch (`track_running_stats=False`) stay as they are.

    Args:
        model: Any network. It is not changed.

    Returns:
        The copy, in evaluation mode; its outputs are those of `model.eval()` to rounding. It cannot be trained.
    """
    model = copy.deepcopy(model).eval()
    folded: dict[int, nn.Module] = {}
    for name, module in named_modules(model, remove_duplicate=False):
        if isinstance(module, AttentiveNorm) and _is_constant(module):
            if id(module) not in folded:
                folded[id(module)] = _fold(module)
            if not name:
                return folded[id(module)]
            set_module(model, name, folded[id(module)])
    return model.requires_grad_(False)


class FoldedNorm(nn.Module):
    """An AN layer for inference.

    Args:
        layer: In evaluation mode, with running statistics if it is standardised by those of the batch.

    Shape:
        (N, C, *spatial) -> (N, C, *spatial).
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, layer: AttentiveNorm) -> None:
        super().__init__()
        attention = layer.attention
        self.statistic, self.var_eps = attention.statistic, attention.var_eps
        self.attend = _folded_attention(attention)
        weight, bias = layer.weight.double(), layer.bias.double()
        if isinstance(layer, AttentiveBatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            weight = weight * (layer.running_var.double() + layer.eps).rsqrt()
            bias = bias - layer.running_mean.double() * weight
        # Transposed, as F.linear takes them.
        self.register_buffer("weight", weight.T.contiguous().to(layer.weight.dtype))
        self.register_buffer("bias", bias.T.contiguous().to(layer.bias.dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x."""
        maps = x.unsqueeze(2) if x.ndim == 2 else x
        axes = tuple(range(2, maps.ndim))
        mean = maps.mean(axes, keepdim=True)
        # Centred first, see attnorm.layers.reference; the norm is one pass, a sum of squares would be two.
        squares = torch.linalg.vector_norm(maps - mean, dim=axes).square()
        mean, pixels = mean.flatten(1), pixel_count(maps)
        if self.statistic == "mean_over_std":
            statistic = mean / (squares / degrees_of_freedom(pixels) + self.var_eps).sqrt()
        else:
            statistic = mean if self.statistic == "mean" else mean + maps.amax(axes)
        weights = self.attend(statistic)
        gamma, beta = F.linear(weights, self.weight), F.linear(weights, self.bias)
        scale, shift = self.standardise(gamma, beta, mean, squares / pixels)
        y = maps * spread(scale, maps) + spread(shift, maps)
        return y.squeeze(2) if x.ndim == 2 else y

    def standardise(self, gamma: Tensor, beta: Tensor, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        """The scale and shift of x from those of the standardised x and the instance moments, all (N, C)."""
        return gamma, beta


class FoldedGroupNorm(FoldedNorm):
    """AN over groups of channels for inference, whose standardisation depends on the sample."""

    def __init__(self, layer: AttentiveGroupNorm) -> None:
        super().__init__(layer)
        self.num_groups, self.eps = layer.num_groups, layer.eps

    def standardise(self, gamma: Tensor, beta: Tensor, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        """With the statistics of each group, broadcast over its channels rather than repeated."""
        groups = (self.num_groups, -1)
        means = mean.unflatten(1, groups)
        pooled = means.mean(2, keepdim=True)
        pooled_var = (var.unflatten(1, groups) + (means - pooled).square()).mean(2, keepdim=True)
        scale = gamma.unflatten(1, groups) / (pooled_var + self.eps).sqrt()
        return scale.flatten(1), beta - (scale * pooled).flatten(1)


def _is_constant(layer: AttentiveNorm) -> bool:
    """Whether the layer's statistics over the batch, and its attention's, are known beforehand."""
    kept = not isinstance(layer, AttentiveBatchNorm2d) or layer.running_mean is not None
    return kept and all(norm.running_mean is not None for norm in layer.attention.batch_norms())


def _fold(layer: AttentiveNorm) -> nn.Module:
    folded = FoldedGroupNorm(layer) if isinstance(layer, AttentiveGroupNorm) else FoldedNorm(layer)
    if isinstance(layer, (AttentiveBatchNormAct2d, AttentiveGroupNormAct)):
        return nn.Sequential(folded, layer.drop, layer.act)
    return folded


def _folded_attention(attention: ChannelAttention) -> nn.Module:
    """From the channel statistic (N, C) to the mixture weights (N, K)."""
    layers: list[nn.Module] = []
    if attention.hidden is not None:
        layers += [*_folded_logits(attention.hidden), nn.ReLU()]
    layers += _folded_logits(attention.logits)
    last = layers[-1]
    if attention.gate == "hard_sigmoid" and isinstance(last, nn.Linear):
        with torch.no_grad():
            last.weight.div_(6)
            last.bias.add_(3).div_(6)
        return nn.Sequential(*layers, nn.Hardtanh(0, 1))
    return nn.Sequential(*layers, Gate(attention.gate))


@torch.no_grad()
def _folded_logits(layer: LogitLayer) -> list[nn.Module]:
    """The projection, and the norm behind it unless that is part of it now."""
    weight = layer.weight.double()
    bias = weight.new_zeros(weight.shape[0]) if layer.bias is None else layer.bias.double()
    norm = layer.norm
    if norm is not None and norm.kind == "batch":
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight.double() * (norm.running_var.double() + norm.eps).rsqrt()
        weight, bias = weight * scale[:, None], (bias - norm.running_mean.double()) * scale + norm.bias.double()
    linear = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device, dtype=layer.weight.dtype)
    linear.weight.copy_(weight)
    linear.bias.copy_(bias)
    return [linear] if norm is None or norm.kind == "batch" else [linear, norm]


class Gate(nn.Module):
    """One of attnorm.layers.attention.GATES as a module."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, logits: Tensor) -> Tensor:
        """Mixture weights from logits, both (N, K)."""
        return GATES[self.name](logits)
