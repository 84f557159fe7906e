"""What one layer costs: Attentive Normalization against BatchNorm, SE, GroupNorm and the released formulation.

    python -m benchmarks.layer_cost [--rounds 40] [--json FILE]

For every shape of ResNet-50 where AN stands, in both memory layouts and in float32 and bfloat16: all layers are checked
against their definition in float64, then timed in turns. Writes benchmarks/results/layer_cost.json.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from attnorm.evidence.interleaved import MIN_ROUNDS, Interleaved, timing_dict
from attnorm.evidence.memory import saved_bytes
from benchmarks.contenders import CONTENDERS, Case, cases, checked, compiler, layer_steps, twin
from benchmarks.record import Record, options_of, parser
from benchmarks.targets import LAYER_RATIOS
from benchmarks.traffic import copy_step, traffic

CONTROL = "BN again"  # a second nn.BatchNorm2d: how far apart two equal layers come out
# In bfloat16 there are no targets, only the question whether the picture is the same.
BFLOAT16 = ("BN", "AN", "BN+ReLU", "AN+ReLU", "released AN")


def measure_case(case: Case, names: Sequence[str], rounds: int, control: bool = True) -> dict[str, Any]:
    """Check and time the named contenders on one case, in training and in evaluation.

    Returns:
        The row of the record: times, ratios, bytes, and in "notes" who was not measured, and why.
    """
    torch.manual_seed(1)
    x, dy = case.tensor(), case.tensor()
    measurable, notes = _measurable(names)
    contenders: dict[str, dict[str, Any]] = {name: {} for name in measurable}
    row: dict[str, Any] = {**asdict(case), "shape": case.shape, "rounds": rounds, "x_bytes": x.nbytes, "notes": notes}
    ratios: dict[str, dict[str, float]] = {}
    for kind in ("train", "eval"):
        inputs = x.detach().clone().requires_grad_(kind == "train")
        modules = _modules(case, measurable, kind == "train", inputs, dy)
        if kind == "train":
            for name, module in modules.items():
                contenders[name]["saved_bytes"] = _saved(module, case, inputs)
        for name in measurable:
            if not CONTENDERS[name].compiled:  # whose operations a dispatch mode does not see
                step = layer_steps(modules[name], case, inputs, dy)
                contenders[name][f"{kind}_traffic"] = traffic(lambda step=step: list(step()))
        if control and "BN" in modules:
            modules[CONTROL] = twin(modules["BN"])
        steps = {name: layer_steps(module, case, inputs, dy) for name, module in modules.items()}
        timed = Interleaved({**steps, "copy": copy_step(x)}, case.device)
        timed.run(rounds)
        _keep_times(timed, measurable, kind, contenders)
        row[f"{kind}_copy_ms"] = timing_dict(timed.timing("copy"))
        ratios |= _ratios(timed, kind)
        torch.compiler.reset()  # every case compiles the same code anew, and Dynamo gives up after eight times
    return {**row, "contenders": contenders, "ratios": ratios}


def _measurable(names: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    missing = [name for name in names if CONTENDERS[name].compiled and compiler() is None]
    return [name for name in names if name not in missing], dict.fromkeys(missing, "no compiler")


def _modules(case: Case, names: Sequence[str], training: bool, x: Tensor, dy: Tensor) -> dict[str, nn.Module]:
    return {name: checked(CONTENDERS[name], case, training, x, dy) for name in names}


def _saved(module: nn.Module, case: Case, x: Tensor) -> int:
    with saved_bytes(module) as count, case.autocast():
        y = module(x)
        del y
    return count.total


def _keep_times(timed: Interleaved, names: Sequence[str], kind: str, contenders: dict[str, dict[str, Any]]) -> None:
    for name in names:
        contenders[name][f"{kind}_ms"] = timing_dict(timed.timing(name))
        if kind == "train":
            for phase in ("forward", "backward"):
                contenders[name][f"{phase}_ms"] = timing_dict(timed.timing(name, phase))


def _ratios(timed: Interleaved, kind: str) -> dict[str, dict[str, float]]:
    """The ratios whose two sides were timed."""
    wanted = {key: (a, b) for key, (a, b, _) in LAYER_RATIOS.items() if key.endswith(kind)}
    wanted[f"control_{kind}"] = (CONTROL, "BN")
    present = {key: pair for key, pair in wanted.items() if set(pair) <= set(timed.steps)}
    return {key: timed.ratio(*pair).as_dict() for key, pair in present.items()}


def summary(row: Mapping[str, Any]) -> str:
    """One line for the terminal."""
    shown = "  ".join(
        f"{key} {ratio['median']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]" for key, ratio in row["ratios"].items()
    )
    return f"{row['shape']} {row['layout']} {row['dtype']}: {shown}"


def measure_layers(rounds: int, keep: Callable[[dict[str, Any]], None]) -> None:
    """All cases; each row goes to `keep` as soon as it is measured."""
    for dtype, names in (("float32", tuple(CONTENDERS)), ("bfloat16", BFLOAT16)):
        for case in cases(dtype):
            row = measure_case(case, names, rounds)
            print(summary(row), flush=True)
            keep(row)


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    command_line = parser("What an AN layer costs in time and memory.", "layer_cost")
    command_line.add_argument("--rounds", type=int, default=41, help="how often each layer is timed")
    options = command_line.parse_args(arguments)
    if options.rounds < MIN_ROUNDS:
        command_line.error(f"--rounds must be at least {MIN_ROUNDS}; got {options.rounds}")
    record = Record(options.json, "layer-cost", "cpu", options_of(options))
    measure_layers(options.rounds, record.add)
    record.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
