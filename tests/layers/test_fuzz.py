"""Properties of the layers over thousands of drawn cases: the fast paths against the definition in float64."""

import copy
from collections import Counter
from importlib.util import find_spec

import pytest
import torch
from hypothesis import given
from torch import Tensor, nn

from attnorm import backend
from tests.fuzz import fuzzed
from tests.layers.fuzzed_cases import Case, cases, make_layer, make_tensors
from tests.layers.rounding import assert_right, exact


def step(layer: nn.Module, x: Tensor, dy: Tensor | None) -> dict[str, Tensor]:
    """Output, the buffers after it, and the gradients of what wants one."""
    y = layer(x)
    found = {"y": y, **dict(layer.named_buffers())}
    wanted = {n: p for n, p in (("x", x), *layer.named_parameters()) if p.requires_grad}
    if dy is None or not wanted:
        return found
    gradients = torch.autograd.grad(y, list(wanted.values()), dy, allow_unused=True, materialize_grads=True)
    return found | {f"grad {n}": g for n, g in zip(wanted, gradients, strict=True)}


def check(case: Case, name: str, tally: Counter[str]) -> None:
    tally["inputs"] += 1
    layer, (x, dy) = make_layer(case), make_tensors(case)
    before = copy.deepcopy(layer.state_dict())
    with backend(name):
        if case.is_refused():
            with pytest.raises(ValueError, match=r"more than 1 value|at least 2 samples"):
                layer(x)
            assert_unchanged(layer, before)
            return
        if 0 in case.shape:
            found = step(layer, x, dy)
            assert found["y"].shape == x.shape
            assert not any(g.any() for n, g in found.items() if n.startswith("grad"))
            assert_unchanged(layer, before)
            return
        expected = exact(case, layer, x, dy)
        found = step(layer, x, expected.dy)
    assert found["y"].dtype == x.dtype
    if has_room(case):
        assert all(result.isfinite().all() for result in found.values())
    assert_right(found, expected)
    tally["gradients"] += expected.has_gradients
    assert all(is_laid_out_as(x, found[name]) for name in ("y", "grad x") if name in found)


def has_room(case: Case) -> bool:
    """Whether no result can be beyond its dtype: float16 is small, and float64's values do not fit all parameters."""
    return (
        torch.float16 not in (case.dtype, case.layer_dtype) and (case.dtype, case.layer_dtype).count(torch.float64) != 1
    )


def assert_unchanged(layer: nn.Module, before: dict[str, Tensor]) -> None:
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name]), f"{name} changed"


def is_laid_out_as(x: Tensor, result: Tensor) -> bool:
    """Whether a result is channels_last or contiguous as x is; of other strides nothing is promised."""
    if x.is_contiguous():
        return result.is_contiguous()
    return not x.movedim(1, -1).is_contiguous() or result.movedim(1, -1).is_contiguous()


@fuzzed(300)
@given(case=cases())
def test_the_fast_path_is_the_definition(case, tally):
    """Whatever comes in, output, running statistics and gradients are float64's up to rounding, and never NaN."""
    check(case, "auto", tally)


TRITON = {"dtypes": [torch.float32, torch.bfloat16, torch.float16], "least_dims": 1, "most_channels": 20}


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
@fuzzed(25, 500)
@given(case=cases(**TRITON))
def test_triton_is_the_definition(case, tally):
    """The same of the kernels, by Triton's interpreter where there is no CUDA device."""
    check(case, "triton", tally)
