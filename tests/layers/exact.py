"""The definition in float64 for the property tests, and how far rounding may take a result away from it.

How much an output or a gradient depends on the last bit of what goes in is measured, not guessed: the definition is
computed again with every input moved by one rounding, up or down by chance. A result in float32 is right if it is not
much farther away than that. So where a case is ill-conditioned (batch statistics of nearly equal logits, |mean| far
above the spread) the bar follows, and where it is not the bar stays at some roundings.
"""

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

_KINKS = {"relu": (0.0,), "relu6": (0.0, 6.0), "silu": (), "hard_swish": (-3.0, 3.0), "leaky_relu": (0.0,)}
_ACTIVATIONS = {"relu": F.relu, "relu6": F.relu6, "silu": F.silu, "hard_swish": F.hardswish, "leaky_relu": F.leaky_relu}

_MOVES = 4  # times that the inputs are moved
# The fast paths round some dozen times on the way, in sums of up to a thousand terms, and four moves do not find the
# worst direction. What is wrong rather than rounded is off by thousands.
_SAFETY = 100

# Where rounding may move a logit by more than this (batch statistics of logits that differ by rounding alone), the
# mixture is chance, and its gradients are not compared.
_DOUBT = 1.0


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


def _exactly(tensor: Tensor, eps: float) -> Tensor:
    return tensor


def _moved(seed: int) -> Noise:
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


def run(case: Case, layer: nn.Module, x: Tensor, noise: Noise = _exactly, measuring: Noise = _exactly) -> Run:
    """Compute the definition with the layer's parameters and statistics, none of which it changes.

    Statistics are measured with a noise of their own: where the spread is below the rounding of the mean, noise would
    make a spread and so hide what a rounded mean does.
    """
    eps, eps_x = _eps(x)
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
        if noise is not _exactly:
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
    elif noise is not _exactly:
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
    return Run(inputs, y, z, bends, buffers, noise, _grain(x.dtype))


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


def _grain(dtype: torch.dtype) -> float:
    info = torch.finfo(dtype)
    return info.smallest_normal * info.eps


def _eps(x: Tensor) -> tuple[float, float]:
    """One rounding of what is computed in (float32 at least), and of x's dtype."""
    if x.dtype == torch.float64:  # several: in float64 itself, moves of less than one would be none
        return 4 * torch.finfo(x.dtype).eps, 4 * torch.finfo(x.dtype).eps
    return torch.finfo(torch.float32).eps / 2, torch.finfo(x.dtype).eps / 2


@dataclass
class Exact:
    """What a call must come to, and by how much each number may differ."""

    truth: Tensors
    allowed: Tensors
    dy: Tensor
    grain: float  # what is lost below the normal numbers of the dtype that is computed in, 1 / sqrt(eps) times or K

    @property
    def has_gradients(self) -> bool:
        """Whether there are any to compare with."""
        return "grad x" in self.truth


def exact(case: Case, layer: nn.Module, x: Tensor, dy: Tensor) -> Exact:
    """The definition's output "y", gradients "grad ..." and buffers for a gradient dy of the output.

    Where an activation bends within reach of rounding its derivative is not one number: dy is set to 0 there, and the
    result holds that dy. Where a gate does so, a logit is in doubt, or the activation's input is beyond x's dtype, no
    gradients are returned.
    """
    eps_x = _eps(x)[1]
    true = run(case, layer, x)
    moved = [run(case, layer, x, _moved(i), _moved(i + _MOVES) if i < 2 else _exactly) for i in range(_MOVES)]
    held = true.z.abs() < torch.finfo(x.dtype).max  # by x's dtype, in which the activation is computed
    reach = _by_channel(_farthest(true.z, [m.z for m in moved])) * _SAFETY
    dy = dy.clone(memory_format=torch.preserve_format) if case.activation else dy
    for kink in _KINKS[case.activation] if case.activation else ():
        dy[(true.z - kink).abs() <= reach + 4 * eps_x * abs(kink)] = 0
    certain = bool(held.all())
    for i, (value, places) in enumerate(true.bends):
        doubt = _SAFETY * _farthest(value, [m.bends[i][0] for m in moved]).max()
        certain &= bool(doubt < _DOUBT) and all(bool(((value - at).abs() > doubt).all()) for at in places)
    truth, others = {"y": true.y, **true.buffers}, [{"y": m.y, **m.buffers} for m in moved]
    if certain:
        truth |= true.gradients(dy.double(), 0.0)
        others = [other | m.gradients(dy.double(), eps_x) for other, m in zip(others, moved, strict=True)]
    allowed = {
        name: _SAFETY * _by_channel(_farthest(value, [other[name] for other in others]))
        for name, value in truth.items()
    }
    allowed["y"] = 1.5 * reach  # no activation is steeper, but beside a kink the moves may miss the steeper side
    truth["y"] = truth["y"].masked_fill(~held, torch.inf)
    grain = 2**6 * torch.finfo(torch.float64 if x.dtype == torch.float64 else torch.float32).smallest_normal
    return Exact({name: value.detach() for name, value in truth.items()}, allowed, dy, grain)


def _farthest(value: Tensor, others: list[Tensor]) -> Tensor:
    return torch.stack([(other - value).abs() for other in others]).amax(0).detach().double()


def _by_channel(error: Tensor) -> Tensor:
    """The largest error of each channel, dimension 1, since chance may spare one number of many; or of all."""
    dims = [d for d in range(error.ndim) if d != 1] if error.ndim > 1 else [0] if error.ndim else []
    return error.amax(dims, keepdim=True) if dims and error.numel() else error


def assert_right(found: Tensors, expected: Exact) -> None:
    """Each number that its dtype can hold is as exact as rounding allows, so neither inf nor NaN."""
    for name, truth in expected.truth.items():
        if name not in found:
            continue
        ours = found[name]
        assert ours.shape == truth.shape, name
        if not ours.is_floating_point():
            assert torch.equal(ours, truth), name
            continue
        info = torch.finfo(ours.dtype)
        allowed = expected.allowed[name] + 4 * info.eps * truth.abs() + 4 * _grain(ours.dtype) + expected.grain
        held = truth.abs() + allowed < info.max
        # Not `>`, which no NaN fulfils.
        wrong = held & ~((ours.detach().double() - truth).abs() <= allowed)
        assert not wrong.any(), (
            f"{name}: {ours[wrong][:3].tolist()} is not {truth[wrong][:3].tolist()}; "
            f"the error may be {allowed[wrong][:3].tolist()}"
        )
