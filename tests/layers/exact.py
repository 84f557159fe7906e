"""The definition in float64 for the property tests, exactly, or with each step moved by up to one rounding."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnorm.layers.attention import GATES
from attnorm.layers.reference import attentive_norm, mean_over_std
from tests.layers.fuzzed_cases import Case

Tensors = dict[str, Tensor]
Noise = Callable[[Tensor, float], Tensor]

_ACTIVATIONS = {"relu": F.relu, "relu6": F.relu6, "silu": F.silu, "hard_swish": F.hardswish, "leaky_relu": F.leaky_relu}


@dataclass
class Run:
    """One computation of the definition up to the output, which can still be differentiated."""

    inputs: Tensors  # x and the parameters, float64
    y: Tensor
    z: Tensor  # before the activation
    bends: list[tuple[Tensor, tuple[float, ...]]]  # logits and hidden values, and where a derivative jumps
    buffers: Tensors
    noise: Noise
    grain: float  # the least number of x's dtype

    def gradients(self, dy: Tensor, eps: float) -> Tensors:
        """The gradients of all inputs."""
        # Behind the activation the gradient is kept in x's dtype, below whose least number there is nothing.
        grain = torch.full_like(self.z, self.grain)
        found = torch.autograd.grad(
            [self.y, self.z],
            list(self.inputs.values()),
            [self.noise(dy, eps), self.noise(grain, 1.0) - grain],
            allow_unused=True,
            materialize_grads=True,
        )
        return {f"grad {name}": gradient for name, gradient in zip(self.inputs, found, strict=True)}


def exactly(tensor: Tensor, eps: float) -> Tensor:
    return tensor


def moved(seed: int) -> Noise:
    generator = torch.Generator().manual_seed(seed)

    def part(tensor: Tensor) -> Tensor:  # of a rounding; not all or nothing, or two might cancel exactly
        drawn = torch.rand(tensor.shape, generator=generator, dtype=torch.float64) * 2 - 1
        if seed % 2 and tensor.ndim > 2:  # the same for a whole row: as an error of its mean would be
            return drawn[(...,) + (slice(1),) * (tensor.ndim - 2)]
        return drawn

    def noise(tensor: Tensor, eps: float) -> Tensor:
        # Drawn anew for the way back: what is invariant to scale would stay so exactly if they were the same.
        backward = tensor * (1 + eps * part(tensor))
        return backward + (tensor * (1 + eps * part(tensor)) - backward).detach()

    return noise


def run(case: Case, layer: nn.Module, x: Tensor, noise: Noise = exactly, measuring: Noise = exactly) -> Run:
    """Compute the definition with the layer's parameters and statistics, none of which it changes.

    Statistics are measured with a noise of their own: where the spread is below the rounding of the mean, noise would
    make a spread and so hide what a rounded mean does.
    """
    eps, eps_x = roundings(x)
    inputs = {"x": x.detach().double()}
    inputs |= {name: noise(p.detach().double(), eps) for name, p in layer.named_parameters()}
    inputs = {name: tensor.requires_grad_() for name, tensor in inputs.items()}
    buffers = {
        n: b.clone() if n.endswith("tracked") else noise(b.double(), max(eps, torch.finfo(b.dtype).eps / 2))
        for n, b in layer.named_buffers()
    }
    bends: list[tuple[Tensor, tuple[float, ...]]] = []
    maps = inputs["x"].flatten(2) if x.ndim > 2 else inputs["x"].unsqueeze(2)
    batch = case.mode == "train"

    def linear(name: str, values: Tensor) -> Tensor:
        prefix = f"attention.{name}."
        logits = noise(F.linear(values, inputs[prefix + "weight"], inputs.get(prefix + "bias")), eps)
        if case.attention["logit_norm"] is None:
            return logits
        weight, bias = inputs[prefix + "norm.weight"], inputs[prefix + "norm.bias"]
        # A sample's groups of logits along dimension 2, the batch along dimension 0.
        by_batch = case.attention["logit_norm"] == "batch"
        grouped = logits.view(len(logits), 1 if by_batch else int(str(case.attention.get("logit_groups", 1))), -1)
        mean, var = _moments(grouped, 0 if by_batch else 2, measuring, eps)
        if by_batch and prefix + "norm.running_mean" in buffers:
            if batch:
                momentum = 0.1 if case.group else case.momentum
                _follow(logits.detach(), buffers, prefix + "norm.", momentum, noise, eps)
            else:
                mean, var = buffers[prefix + "norm.running_mean"], buffers[prefix + "norm.running_var"]
        return noise(((noise(grouped, eps) - mean) * (var + 1e-5).rsqrt()).view_as(logits) * weight + bias, eps)

    def measure() -> tuple[Tensor, Tensor]:
        mean, var = _moments(maps, 2, measuring, eps)
        return mean.squeeze(2), var.squeeze(2)

    def attend(statistic: Tensor) -> Tensor:
        if noise is not exactly:
            statistic = mean_over_std(*measure(), maps.shape[2], 1e-3)
        if case.attention["statistic"] != "mean_over_std":
            statistic = measuring(maps, eps).mean(2)
        if case.attention["statistic"] == "mean_plus_max":
            statistic = statistic + maps.amax(2)
        if case.attention["head"] == "mlp":
            hidden = linear("hidden", statistic)
            bends.append((hidden, (0.0,)))
            statistic = hidden.relu()
        logits = linear("logits", statistic)
        weights = noise(GATES[str(case.attention["gate"])](logits), eps)
        bends.append((logits, (-3.0, 3.0) if case.attention["gate"] == "hard_sigmoid" else ()))
        if case.attention["gate"] == "hard_sigmoid":
            return weights
        # The other gates' derivatives are made from lambda, such as lambda (1 - lambda), with the rounding of a 1.
        return weights + _slack(logits, eps, noise)

    given, num_groups = None, case.num_groups or None
    if not case.group and not batch and case.tracked:
        given = buffers["running_mean"].clone(), buffers["running_var"].clone()
    elif noise is not exactly:
        # Moved apart from the maps that they standardise: dx is a difference of what flows back through either.
        mean, var = measure()
        given, num_groups = _pooled(mean, var, case.num_groups, measuring, eps), None
    # A bfloat16 dx is a sum of two terms that are rounded to bfloat16 as well.
    affine = noise(maps, eps) + _slack(maps, eps_x if x.dtype == torch.bfloat16 else eps, noise)
    z = attentive_norm(affine, inputs["weight"], inputs["bias"], attend, num_groups=num_groups, running=given)
    z = noise(z.view(x.shape), eps_x)
    if not case.group and batch and case.tracked:
        _follow(maps.detach(), buffers, "", case.momentum, noise, eps)
    y = z if case.activation is None else _ACTIVATIONS[case.activation](z)
    return Run(inputs, y, z, bends, buffers, noise, grain_of(x.dtype))


def _slack(tensor: Tensor, eps: float, noise: Noise) -> Tensor:
    """Zeros, through which a share `eps` of the gradient flows back to the tensor, up or down by chance."""
    slack = noise(tensor, eps) - tensor
    return slack - slack.detach()


def _moments(x: Tensor, dim: int, noise: Noise, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and biased variance along one dimension, which stays.

    What flows back through the variance has (x - m) in it, and so the rounding of m. No gradient need flow through
    that m, since sum(x - m) = 0.
    """
    mean = noise(x, eps).mean(dim, keepdim=True)
    return mean, (noise(x, eps) - noise(mean, eps).detach()).square().mean(dim, keepdim=True)


def _pooled(mean: Tensor, var: Tensor, groups: int, noise: Noise, eps: float) -> tuple[Tensor, Tensor]:
    """Statistics of the batch (C,), or of groups of channels (N, C), from instance moments (N, C)."""
    if not groups:
        mu, between = _moments(mean, 0, noise, eps)
        return mu.squeeze(0), (var.mean(0) + between).squeeze(0)
    shape = (len(mean), groups, mean.shape[1] // groups)
    mu, between = _moments(mean.view(shape), 2, noise, eps)
    sigma2 = var.view(shape).mean(2, keepdim=True) + between
    return mu.expand(shape).flatten(1), sigma2.expand(shape).flatten(1)


def _follow(x: Tensor, buffers: Tensors, prefix: str, momentum: float | None, noise: Noise, eps: float) -> None:
    """Let running statistics follow those of x (N, C, *), as torch's batch norm does."""
    count = buffers[prefix + "num_batches_tracked"].add_(1).item()
    rate = 1 / count if momentum is None else momentum
    var, mean = torch.var_mean(noise(x, eps).transpose(0, 1).flatten(1), 1)
    for name, new in (("running_mean", mean), ("running_var", var)):
        running = buffers[prefix + name]
        buffers[prefix + name] = running + noise(rate * (noise(new, eps) - running), eps)


def grain_of(dtype: torch.dtype) -> float:
    info = torch.finfo(dtype)
    return info.smallest_normal * info.eps


def roundings(x: Tensor) -> tuple[float, float]:
    """One rounding of what is computed in (float32 at least), and of x's dtype."""
    if x.dtype == torch.float64:  # several: in float64 itself, moves of less than one would be none
        return 4 * torch.finfo(x.dtype).eps, 4 * torch.finfo(x.dtype).eps
    return torch.finfo(torch.float32).eps / 2, torch.finfo(x.dtype).eps / 2
