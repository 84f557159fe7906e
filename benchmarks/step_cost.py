"""Where the time of AN's training step goes: the passes over x, the small middle, and what is left around them.

    python -m benchmarks.step_cost [--rounds 40] [--json FILE]

The steps of :mod:`attnorm.layers.eager` are timed inside whole training steps, in turns with nn.BatchNorm2d and a copy
of x. What remains of forward and backward is running statistics, look-ups of parameters, and autograd. Operations are
counted as they are dispatched, views aside. Writes benchmarks/results/step_cost.json.
"""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from attnorm.evidence.interleaved import MIN_ROUNDS, Interleaved, timing_dict
from attnorm.layers import attentive, eager
from benchmarks.contenders import CONTENDERS, Case, cases, layer_steps
from benchmarks.record import Record, options_of, parser
from benchmarks.traffic import copy_step

FORWARD = ("measure", "coefficients", "apply")
BACKWARD = ("gradient_sums", "coefficients_backward", "input_gradient")


class TimedKernels:
    """The eager kernels, each call of which leaves its milliseconds in `times`."""

    def __init__(self) -> None:
        self.times: dict[str, list[float]] = {name: [] for name in (*FORWARD, *BACKWARD)}

    def __getattr__(self, name: str) -> Callable[..., Any]:
        kernel, times = getattr(eager, name), self.times[name]

        def timed(*arguments: Any) -> Any:
            start = time.perf_counter()
            result = kernel(*arguments)
            times.append((time.perf_counter() - start) * 1e3)
            return result

        return timed


class Operations(TorchDispatchMode):
    """Counts the operations that do something, which views do not."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def measure_case(case: Case, rounds: int) -> dict[str, Any]:
    """Times the parts of one case; the row of the record."""
    torch.manual_seed(1)
    x, dy = case.tensor().requires_grad_(), case.tensor()
    layers = {name: CONTENDERS[name].make(case).train() for name in ("BN", "AN")}
    kernels = TimedKernels()
    with patch.object(attentive, "kernels_for", lambda _: kernels):
        steps = {name: layer_steps(layer, case, x, dy) for name, layer in layers.items()}
        timed = Interleaved({**steps, "copy": copy_step(x.detach())})
        for times in kernels.times.values():
            times.clear()  # those of the rounds that warmed up
        timed.run(rounds)
    with Operations() as forward:
        y = layers["AN"](x)
    with Operations() as backward:
        y.backward(dy)
    return {
        "shape": case.shape,
        "layout": case.layout,
        "rounds": rounds,
        "parts_ms": {name: float(f"{statistics.median(times):.4g}") for name, times in kernels.times.items()},
        "operations": {"forward": forward.count, "backward": backward.count},
        "copy_ms": timing_dict(timed.timing("copy")),
        **{
            f"{name}_{phase}_ms": timing_dict(timed.timing(name, phase))
            for name in layers
            for phase in ("forward", "backward")
        },
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    command_line = parser("Where the time of AN's training step goes.", "step_cost")
    command_line.add_argument("--rounds", type=int, default=41, help="how often each step is timed")
    options = command_line.parse_args(arguments)
    if options.rounds < MIN_ROUNDS:
        command_line.error(f"--rounds must be at least {MIN_ROUNDS}; got {options.rounds}")
    record = Record(options.json, "step-cost", "cpu", options_of(options))
    for case in cases():
        row = measure_case(case, options.rounds)
        print(row["shape"], row["layout"], row["parts_ms"], row["operations"], flush=True)
        record.add(row)
    record.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
