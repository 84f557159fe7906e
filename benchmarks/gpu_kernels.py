"""The kernels one by one: are their values right on this device, and how near to a copy's bandwidth do they come?

| pass | reads and writes, in sizes of x |
|---|---|
| measure: mean and variance | 1 read |
| apply: act(scale x + shift) | 1 read, 1 write |
| gradient_sums: sum g (x - m), sum g | 2 reads |
| input_gradient | 2 reads, 1 write |
"""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from attnorm.evidence.interleaved import Ratio
from attnorm.layers import eager
from attnorm.layers.activation import Activation
from benchmarks.contenders import Case, relative_error

MOVES = {"measure": 1, "apply": 2, "gradient_sums": 2, "input_gradient": 3}
# float32: sums of some thousand terms; half precision: one rounding of the result, 2^-11 and 2^-8, and some of the
# elements of g whose sign of scale x + shift rounding decides.
TOLERANCE = {"float32": 1e-4, "float16": 2e-3, "bfloat16": 1e-2}
CYCLED_BYTES = 512 * 2**20  # inputs taken in turn, so that they come from memory and not from the device's cache
CALLS = 20  # of a kernel in one CUDA graph
REPLAYS = 15

Passes = dict[str, Callable[[Tensor, Tensor], Any]]


def passes(kernels: Any, case: Case, activation: Activation | None, wide: bool = False) -> Passes:
    """The four passes as functions of (x, dy), with made-up coefficients (N, C), the same for every `kernels`.

    `input_gradient` takes for dy the third of what `gradient_sums` returns, which for the Triton kernels is dy itself.

    Args:
        kernels: attnorm.layers.kernels, or attnorm.layers.eager for the truth.
        case: Gives N and C.
        activation: Fused into all but `measure`.
        wide: Coefficients in float64.
    """
    generator = torch.Generator().manual_seed(2)

    def made() -> Tensor:
        values = torch.randn(case.batch, case.channels, generator=generator)
        return values.to(device=case.device, dtype=torch.float64 if wide else torch.float32)

    mean, scale, shift, dmean, dvar = (made() for _ in range(5))

    return {
        "measure": lambda x, _: kernels.measure(x),
        "apply": lambda x, _: kernels.apply(x, scale, shift, activation),
        "gradient_sums": lambda x, dy: kernels.gradient_sums(dy, x, mean, scale, shift, activation),
        "input_gradient": lambda x, g: kernels.input_gradient(g, x, mean, scale, shift, dmean, dvar, activation),
    }


def kernel_errors(kernels: Any, case: Case, activation: Activation | None) -> dict[str, float]:
    """Relative error of every pass against the same formulas in float64."""
    torch.manual_seed(1)
    x, dy = case.tensor(), case.tensor()
    got = _results(passes(kernels, case, activation), x, dy)
    truth = _results(passes(eager, case, activation, wide=True), x.double(), dy.double())
    return {name: max(relative_error(a, b) for a, b in zip(got[name], truth[name], strict=True)) for name in MOVES}


def _results(steps: Passes, x: Tensor, dy: Tensor) -> dict[str, tuple[Tensor, ...]]:
    dcentred, dshift, g = steps["gradient_sums"](x, dy)
    return {
        "measure": tuple(steps["measure"](x, dy)),
        "apply": (steps["apply"](x, dy),),
        "gradient_sums": (dcentred, dshift),
        "input_gradient": (steps["input_gradient"](x, g),),
    }


def check_kernels(kernels: Any, cases: Sequence[Case]) -> tuple[float, list[str]]:
    """All passes on all cases, without and with a ReLU.

    Returns:
        The largest error as a share of what is allowed, and a line for everything above it.
    """
    worst, wrong = 0.0, list[str]()
    for case in cases:
        for activation in (None, Activation("relu")):
            for name, error in kernel_errors(kernels, case, activation).items():
                worst = max(worst, error / TOLERANCE[case.dtype])
                if not error <= TOLERANCE[case.dtype]:
                    fused = "" if activation is None else f" with {activation.name}"
                    wrong.append(f"{name}{fused}, {case.name}: relative error {error:.2g}")
    return worst, wrong


def small_cases(device: str) -> list[Case]:
    """An even and an odd size in both layouts; few, as every one is compiled anew. The test suite has the others."""
    sizes = ((64, 56, "float32"), (64, 56, "bfloat16"), (17, 7, "float32"), (17, 7, "float16"))
    return [
        Case(channels=channels, side=side, components=10, layout=layout, dtype=dtype, batch=4, device=device)
        for channels, side, dtype in sizes
        for layout in ("NCHW", "channels_last")
    ]


def graph_seconds(calls: Sequence[Callable[[], object]]) -> list[float]:
    """Seconds per call on the device, in each replay of a CUDA graph of the calls: without the time to launch them."""
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):  # what compiles or allocates for ever must do so before the capture
        for call in calls[:2]:
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    graph.replay()
    seconds: list[float] = []
    for _ in range(REPLAYS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        seconds.append(begin.elapsed_time(end) / 1000 / len(calls))
    return seconds


def copy_bandwidth(device: str, size: int = 2**30) -> float:
    """Bytes per second of a copy of `size` bytes between two places in the device's memory, read and write counted."""
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = graph_seconds([lambda: target.copy_(source)] * CALLS)
    return 2 * size / statistics.median(seconds)


def shares(kernels: Any, case: Case, activation: Activation | None, bandwidth: float) -> dict[str, Ratio]:
    """The share of the copy bandwidth at which each pass moves the bytes that it must.

    Args:
        kernels: attnorm.layers.kernels.
        case: The layer.
        activation: Fused into all but `measure`.
        bandwidth: Bytes per second of a copy.
    """
    torch.manual_seed(1)
    first = case.tensor()
    pairs = [(first, case.tensor())]
    while len(pairs) < CALLS and 2 * len(pairs) * first.nbytes < CYCLED_BYTES:
        pairs.append((case.tensor(), case.tensor()))
    measured: dict[str, Ratio] = {}
    for name, step in passes(kernels, case, activation).items():
        cycle = (pairs[i % len(pairs)] for i in range(CALLS))
        calls = [lambda step=step, pair=pair: step(*pair) for pair in cycle]
        ideal = MOVES[name] * first.nbytes / bandwidth
        measured[name] = Ratio.of_values([ideal / seconds for seconds in graph_seconds(calls)])
    return measured
