"""How far rounding may take a result of the layers away from the definition.

How much an output or a gradient depends on the last bit of what goes in is measured, not guessed: the definition is
computed again with every step moved by up to one rounding, up or down by chance. A result in float32 is right if it is
not much farther away than that. So where a case is ill-conditioned (batch statistics of nearly equal logits, |mean| far
above the spread) the bar follows, and where it is not the bar stays at some roundings.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tests.layers.exact import Tensors, exactly, grain_of, moved, roundings, run
from tests.layers.fuzzed_cases import Case

_KINKS = {"relu": (0.0,), "relu6": (0.0, 6.0), "silu": (), "hard_swish": (-3.0, 3.0), "leaky_relu": (0.0,)}

_MOVES = 4  # times that the inputs are moved
# The fast paths round some dozen times on the way, in sums of up to a thousand terms, and four moves do not find the
# worst direction. What is wrong rather than rounded is off by thousands.
_SAFETY = 100

# Where rounding may move a logit by more than this (batch statistics of logits that differ by rounding alone), the
# mixture is chance, and its gradients are not compared.
_DOUBT = 1.0


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
    eps_x = roundings(x)[1]
    true = run(case, layer, x)
    runs = [run(case, layer, x, moved(i), moved(i + _MOVES) if i < 2 else exactly) for i in range(_MOVES)]
    held = true.z.abs() < torch.finfo(x.dtype).max  # by x's dtype, in which the activation is computed
    reach = _by_channel(_farthest(true.z, [m.z for m in runs])) * _SAFETY
    dy = dy.clone(memory_format=torch.preserve_format) if case.activation else dy
    for kink in _KINKS[case.activation] if case.activation else ():
        dy[(true.z - kink).abs() <= reach + 4 * eps_x * abs(kink)] = 0
    certain = bool(held.all())
    for i, (value, places) in enumerate(true.bends):
        doubt = _SAFETY * _farthest(value, [m.bends[i][0] for m in runs]).max()
        certain &= bool(doubt < _DOUBT) and all(bool(((value - at).abs() > doubt).all()) for at in places)
    truth, others = {"y": true.y, **true.buffers}, [{"y": m.y, **m.buffers} for m in runs]
    if certain:
        truth |= true.gradients(dy.double(), 0.0)
        others = [other | m.gradients(dy.double(), eps_x) for other, m in zip(others, runs, strict=True)]
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
        allowed = expected.allowed[name] + 4 * info.eps * truth.abs() + 4 * grain_of(ours.dtype) + expected.grain
        held = truth.abs() + allowed < info.max
        # Not `>`, which no NaN fulfils.
        wrong = held & ~((ours.detach().double() - truth).abs() <= allowed)
        assert not wrong.any(), (
            f"{name}: {ours[wrong][:3].tolist()} is not {truth[wrong][:3].tolist()}; "
            f"the error may be {allowed[wrong][:3].tolist()}"
        )
