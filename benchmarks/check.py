"""Fails where the layer became slower than the committed figures say, beyond the noise of the run itself.

    python -m benchmarks.check            # all layer shapes and the networks
    python -m benchmarks.check --short    # four layers, a minute: what CI runs

Never milliseconds: ratios of times taken in turns, AN against BatchNorm. A ratio's interval holds its scatter; the
noise on top of it is by how much two identical BatchNorms came out apart beside it. What is compared depends on the
machine, and the output says which:

- processor, cores, threads and torch's minor version as in the committed file: the committed ratios. A ratio is slower
  if the low end of its interval lies above the committed high end by more than the noise. It is then measured again
  with four times the rounds, and counts if it still is.
- another machine: ratios differ there for good reasons, so the committed ones are shown and not judged. Judged is what
  must hold anywhere: AN is faster than the released formulation.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from attnorm.evidence.interleaved import MIN_ROUNDS
from attnorm.training.record import environment, versions
from benchmarks import layer_cost, network_cost
from benchmarks.contenders import Case, cases
from benchmarks.record import RESULTS

MIN_NOISE = 0.05  # a few rounds can agree by chance; and what is below nobody would act on
JUDGED = ("an_bn_train", "an_bn_relu_train", "an_bn_eval", "an_bn_relu_eval")
ANYWHERE = ("released_an_train", "released_an_eval")
CONTENDERS = ("BN", "AN", "BN+ReLU", "AN+ReLU", "released AN")
SHORT = ("64x56x56", "512x7x7")

Row = Mapping[str, Any]


def noise_of(row: Row) -> float:
    """By how much two equal layers may come out apart: twice what the row's two BatchNorms did."""
    controls = [row["ratios"][key]["median"] for key in ("control_train", "control_eval") if key in row["ratios"]]
    return max([MIN_NOISE, *(2 * abs(control - 1) for control in controls)])


def slowdowns(fresh: Row, committed: Row, noise: float) -> list[str]:
    """The AN/BN ratios of a row that rose beyond the noise, each as a line that says by how much.

    Args:
        fresh: A row measured now.
        committed: The row of the same case in the committed file.
        noise: From :func:`noise_of`.
    """
    return [
        f"{_name(fresh)} {key}: {_shown(now)}, committed {_shown(then)}, noise {noise:.0%}"
        for key, now, then in _pairs(fresh, committed)
        if now["low"] > then["high"] * (1 + noise)
    ]


def visible(fresh: Row, committed: Row, noise: float) -> list[float]:
    """For each ratio of a row the smallest slowdown that would have failed, so that a blind check shows itself."""
    return [
        then["high"] * (1 + noise) / then["median"] * now["median"] / now["low"] - 1
        for _, now, then in _pairs(fresh, committed)
    ]


def _pairs(fresh: Row, committed: Row) -> list[tuple[str, Row, Row]]:
    keys = [key for key in JUDGED if key in fresh["ratios"] and key in committed["ratios"]]
    return [(key, fresh["ratios"][key], committed["ratios"][key]) for key in keys]


def _shown(ratio: Row) -> str:
    return f"{ratio['median']:.3g} [{ratio['low']:.3g}, {ratio['high']:.3g}]"


def not_faster(fresh: Row, noise: float) -> list[str]:
    """Where AN is slower than the released formulation, beyond the noise: wrong on any machine."""
    ratios = {key: fresh["ratios"][key] for key in ANYWHERE if key in fresh["ratios"]}
    return [
        f"{_name(fresh)} {key}: {_shown(ratio)}, must be above 1"
        for key, ratio in ratios.items()
        if ratio["high"] * (1 + noise) < 1
    ]


def differences(committed: Row | None) -> str:
    """In what this machine differs from the one that made the committed file, as far as ratios depend on it."""
    if committed is None:
        return "there is no committed file"
    here, there = environment(torch.device("cpu")), committed["machine"]
    keys = [key for key in ("processor", "cores", "threads") if here[key] != there[key]]
    found = [f"{key} {here[key]} here, {there[key]} there" for key in keys]
    minor = [".".join(version["torch"].split(".")[:2]) for version in (versions(), committed["versions"])]
    if minor[0] != minor[1]:
        found.append(f"torch {minor[0]} here, {minor[1]} there")
    return "; ".join(found)


def _name(row: Row) -> str:
    return f"{row['shape']} {row['layout']} {row['dtype']}" if "shape" in row else f"ResNet-50 {row['layout']}"


def _read(path: Path) -> Row | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def check_layers(committed: Row | None, wanted: Sequence[Case], rounds: int) -> list[str]:
    """Measures the cases and returns what is slower; prints what it compares and each row."""
    apart = differences(committed)
    known = {} if committed is None or apart else {_name(row): row for row in committed["rows"]}
    print(
        f"layers: judged is that AN is faster than the released formulation, not the committed ratios: {apart}"
        if apart
        else "layers: judged by the committed ratios of AN to BatchNorm, made on such a machine"
    )
    failures: list[str] = []
    seen: list[float] = []
    for case in wanted:
        row = layer_cost.measure_case(case, CONTENDERS, rounds)
        print(layer_cost.summary(row), flush=True)
        then = known.get(_name(row))
        if _judge(row, then):
            row = layer_cost.measure_case(case, CONTENDERS, 4 * rounds)
            print(f"measured again: {layer_cost.summary(row)}", flush=True)
            failures += _judge(row, then)
        seen += visible(row, then, noise_of(row)) if then is not None else []
    if seen:
        print(f"a slowdown by {statistics.median(seen):.0%} would have failed (median; the worst {max(seen):.0%})")
    return failures


def _judge(row: Row, committed: Row | None) -> list[str]:
    noise = noise_of(row)
    return not_faster(row, noise) + ([] if committed is None else slowdowns(row, committed, noise))


def check_networks(committed: Row | None, time_limit_s: float) -> list[str]:
    """As `check_layers`, for the networks' training and evaluation, in the size of the committed run."""
    apart = differences(committed)
    if committed is None or apart:
        print(f"networks: not measured, as nothing could be judged: {apart}")
        return []
    print("networks: judged by the committed ratios of resnet50_an to resnet50, made on such a machine")
    failures: list[str] = []
    for then in committed["rows"]:
        size = {"size": then["batch"], "side": then["side"]}
        now = network_cost.measure(then["layout"], then["kind"], **size, time_limit_s=time_limit_s)
        print(network_cost.summary(now), flush=True)
        failures += slowdowns(now, then, MIN_NOISE)
    return failures


def main(arguments: Sequence[str] | None = None, results: Path = RESULTS) -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Compare the cost of AN with the committed figures.")
    parser.add_argument("--short", action="store_true", help="four layers instead of all and the networks")
    parser.add_argument("--rounds", type=int, default=15, help="how often each layer is timed")
    parser.add_argument("--time-limit-s", type=float, default=60, help="for each row of the networks")
    options = parser.parse_args(arguments)
    if options.rounds < MIN_ROUNDS:
        parser.error(f"--rounds must be at least {MIN_ROUNDS}; got {options.rounds}")
    wanted = [case for case in cases() if not options.short or case.shape in SHORT]
    failures = check_layers(_read(results / "layer_cost.json"), wanted, options.rounds)
    if not options.short:
        failures += check_networks(_read(results / "network_cost.json"), options.time_limit_s)
    for line in failures:
        print(f"slower: {line}", file=sys.stderr)
    print(f"{len(failures)} slowdowns" if failures else "no slowdown beyond the noise")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
