"""Everything that a CUDA device can tell about AN, in under nine minutes: values first, then time, then energy.

    python -m benchmarks.gpu [--parts values,kernels,...] [--time-limit-s 520] [--json FILE]

Runs on any CUDA device. A part that fails is recorded with its reason, the others go on, and the exit code is 1; a part
for which no time is left is recorded as skipped. Writes benchmarks/results/gpu_cost.json after every part.
"""

import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import torch

from benchmarks.gpu_layers import DEVICE, Entry, Settings, kernels_alone, layers, values
from benchmarks.gpu_networks import energy, network
from benchmarks.record import Record, options_of, parser
from benchmarks.targets import GPU_TARGETS

# In order of importance, with the seconds that each needs: it is begun only if they are left.
PARTS: dict[str, tuple[Callable[[Settings], Iterator[Entry]], float]] = {
    "values": (values, 0),
    "kernels": (kernels_alone, 20),
    "layers": (layers, 20),
    "network": (network, 60),
    "energy": (energy, 70),
    "compiled": (lambda settings: network(settings, compiled=True), 150),
    "compiled_kernels": (lambda settings: network(settings, compiled=True, backend="triton"), 150),
}


def run_part(part: str, settings: Settings, seconds_left: float) -> dict[str, Any]:
    """The row of one part: its entries as far as it came, "failed" or "skipped" with the reason."""
    measure, needed = PARTS[part]
    row: dict[str, Any] = {"part": part, "entries": []}
    if seconds_left < needed:
        reason = f"skipped: {seconds_left:.0f} s left, {needed:.0f} needed"
        return {**row, "entries": [{"name": part, "text": reason}], "skipped": reason}
    try:
        for item in measure(settings):
            row["entries"].append(item)
            print(f"{part}: {shown(item)}", flush=True)
    except Exception as error:  # whatever it is, it must not cost the figures of the other parts
        traceback.print_exc()
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        row["entries"].append({"name": part, "text": f"failed: {reason}"})
        row["failed"] = reason
    return row


def shown(item: Mapping[str, Any]) -> str:
    """One line for the terminal."""
    if "ratio" not in item:
        return f"{item['name']}: {item['text']}"
    value, target = item["ratio"], GPU_TARGETS.get(item["target"])
    wanted = "" if target is None else f" ({target}: {'met' if target.met(value['median']) else 'missed'})"
    return f"{item['name']}: {value['median']:.3f} [{value['low']:.3f}, {value['high']:.3f}]{wanted}"


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    command_line = parser("What AN costs on a CUDA device.", "gpu_cost")
    command_line.add_argument("--parts", default=",".join(PARTS), help="which, in this order")
    command_line.add_argument("--batch-size", type=int, default=256)
    command_line.add_argument("--side", type=int, default=224, help="height and width of the networks' images")
    command_line.add_argument("--time-limit-s", type=float, default=520)
    options = command_line.parse_args(arguments)
    parts = options.parts.split(",")
    if unknown := [part for part in parts if part not in PARTS]:
        command_line.error(f"--parts knows {', '.join(PARTS)}; got {', '.join(unknown)}")
    if not torch.cuda.is_available():
        print("benchmarks.gpu needs a CUDA device, and torch finds none: nothing was measured", file=sys.stderr)
        return 1
    torch.backends.cudnn.benchmark = True  # as training scripts do; convolutions at their best leave the norms most
    settings = Settings(batch_size=options.batch_size, side=options.side)
    record = Record(options.json, "gpu-cost", DEVICE, options_of(options))
    record.content["versions"]["triton"] = version("triton")
    start = time.perf_counter()
    failed = False
    for part in parts:
        row = run_part(part, settings, options.time_limit_s - (time.perf_counter() - start))
        row["seconds"] = round(time.perf_counter() - start, 1)
        print(f"{part}: done after {row['seconds']:.0f} s", flush=True)
        failed |= "failed" in row
        record.add(row)
    record.finish()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
