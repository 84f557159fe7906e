"""What training on 8, 64 and 512 GPUs needs, reckoned into docs/scale.md.

    python -m benchmarks.scale            # renew what stands between the markers `<!-- scale NAME:begin -->`
    python -m benchmarks.scale --check    # exit 1 where the page is out of date

Measured here and read from benchmarks/results/: decoding per core, memory while shards are read, what a step sends.
Assumed: :mod:`benchmarks.assumptions`. Reckoned: everything else, by :mod:`benchmarks.scale_model`.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attnorm.options import make_settings
from attnorm.recipes import read_recipe
from attnorm.training.config import TrainConfig
from benchmarks import assumptions as assumed
from benchmarks import pages
from benchmarks.record import ROOT
from benchmarks.results_table import markdown_table
from benchmarks.scale_model import Cluster, lost_share, waiting_share, warned_share
from benchmarks.tables import provenance

GPUS = (8, 64, 512)
SIMULATED_STEPS = 1000

Records = Mapping[str, Any]


def recipe(name: str) -> TrainConfig:
    """A recipe of configs/imagenet as `attnorm train` takes it."""
    path = ROOT / "configs" / "imagenet" / f"{name}.yaml"
    return make_settings(TrainConfig, {**read_recipe(path, TrainConfig), "output": "runs"})


def decoding(records: Records) -> tuple[float, float]:
    """Seconds of a core for a photograph of ImageNet's average size, mean and standard deviation.

    On the straight line through the sets that were measured, by their mean numbers of pixels.
    """
    small, large = sorted(records["decoding"]["rows"], key=lambda row: row["mean_pixels"])
    place = (assumed.IMAGE_PIXELS - small["mean_pixels"]) / (large["mean_pixels"] - small["mean_pixels"])
    mean, deviation = (small[k] + place * (large[k] - small[k]) for k in ("mean_ms", "deviation_ms"))
    return mean / 1e3, deviation / 1e3


def columns(name: str, values: Callable[[int], str]) -> list[str]:
    """A row with a value for each number of GPUs."""
    return [name, *(values(gpus) for gpus in GPUS)]


def decoding_table(records: Records) -> str:
    """What was measured, and what follows for ImageNet."""
    mean, deviation = decoding(records)
    rows = [
        [r["folder"], str(r["images"]), f"{r['mean_pixels'] / 1e3:.0f}", f"{r['mean_bytes'] / 1e3:.0f}",
         f"{r['mean_ms']:.2f} ± {r['deviation_ms']:.2f}", f"{1e3 / r['mean_ms']:.0f}"]
        for r in records["decoding"]["rows"]
    ]  # fmt: skip
    size = [f"{assumed.IMAGES:,}", f"{assumed.IMAGE_PIXELS / 1e3:.0f}", f"{assumed.IMAGE_BYTES / 1e3:.0f}"]
    rows.append(["ImageNet (reckoned)", *size, f"{1e3 * mean:.2f} ± {1e3 * deviation:.2f}", f"{1 / mean:.0f}"])
    headings = ("images", "number", "mean, kilopixels", "mean, kB", "ms of a core each", "images/s and core")
    return markdown_table(headings, rows) + "\n" + provenance(records["decoding"])


def plan_table(records: Records) -> str:
    """Reading, batch size and learning rate."""
    mean, _ = decoding(records)
    linear, root = recipe("resnet50_an"), recipe("modern_resnet50_an")
    cores = assumed.GPU_RATE * mean
    index = records["shards"]["rows"][0]["index_us_per_image"] / 1e6
    rows = [
        columns("machines", lambda p: f"{assumed.cluster(p).machines}"),
        columns("images to read and decode, per second", lambda p: f"{p * assumed.GPU_RATE:,}"),
        columns("from storage, GB/s", lambda p: f"{p * assumed.GPU_RATE * assumed.IMAGE_BYTES / 1e9:.1f}"),
        columns(f"cores for decoding, {cores:.1f} to a GPU", lambda p: f"{p * cores:,.0f}"),
        columns("an epoch of ImageNet, seconds", lambda p: f"{assumed.IMAGES / p / assumed.GPU_RATE:.1f}"),
        columns("indexing its shards at the start, seconds", lambda p: f"{assumed.IMAGES / p * index:.1f}"),
    ]
    for name, config in (("resnet50_an.yaml", linear), ("modern_resnet50_an.yaml", root)):
        batch, scale = config.batch, config.lr_base_scale
        rows += [
            columns(f"images per step, {batch} per GPU", lambda p, batch=batch: f"{p * batch:,}"),
            columns("steps per epoch", lambda p, batch=batch: f"{assumed.IMAGES // p // batch:,}"),
            columns(f"learning rate by {name} ({scale})", lambda p, config=config: f"{config.peak_lr(p):.3g}"),
        ]
    return markdown_table(("GPUs", *map(str, GPUS)), rows)


def moments_seconds(calls: Mapping[str, Sequence[int]], machines: Cluster, *, tree: bool = False) -> float:
    """All collectives of synchronised norms in a step, one after another as the step makes them."""
    gathered = sum(machines.all_gather(size) for size in calls["all_gather"])
    return gathered + sum(machines.all_reduce(size, tree=tree) for size in calls["all_reduce"])


def sending_table(records: Records) -> str:
    """What a step of ResNet-50 with AN sends, and for how long."""
    networks = {row["network"]: row for row in records["collectives"]["rows"]}
    an, bn = networks["resnet50_an"], networks["resnet50"]
    batch = recipe("resnet50_an").batch
    step = batch / assumed.GPU_RATE

    def share(seconds: float) -> str:
        return f"{1e3 * seconds:.1f} ms, {100 * seconds / (step + seconds):.0f}%"

    rows = [
        columns(f"a step of {batch} images, sending nothing", lambda _: f"{1e3 * step:.0f} ms"),
        columns(
            f"gradients ({an['gradient_bytes'] / 1e6:.0f} MB), during the backward pass",
            lambda p: f"{1e3 * assumed.cluster(p).all_reduce(an['gradient_bytes']):.1f} ms",
        ),
        columns("moments, over all processes", lambda p: share(moments_seconds(an, assumed.cluster(p)))),
        columns("the same, all-reduce as a tree", lambda p: share(moments_seconds(an, assumed.cluster(p), tree=True))),
        columns("of which BatchNorm alone (resnet50)", lambda p: share(moments_seconds(bn, assumed.cluster(p)))),
        columns(
            "moments, over the GPUs of each machine",
            lambda _: share(moments_seconds(an, assumed.cluster(assumed.PER_MACHINE))),
        ),
    ]
    kinds = ("all_gather", "all_reduce")
    counted = ", ".join(f"{len(an[k])} {k} ({sum(an[k]) / 1e3:.0f} kB)" for k in kinds)
    before = ", ".join(str(len(bn[k])) for k in kinds)
    table = markdown_table(("GPUs", *map(str, GPUS)), rows)
    return f"{table}\nIn a step of resnet50_an with `--sync-bn` each process makes {counted} (resnet50: {before}).\n"


def waiting_table(records: Records) -> str:
    """Time that a run waits for data, by workers, with storage that always answers at once and that does not."""
    mean, deviation = decoding(records)
    batch = recipe("resnet50_an").batch
    needed = int(np.ceil(assumed.GPU_RATE * mean))

    def simulate(gpus: int, workers: int, stalls: float) -> str:
        rng = np.random.default_rng(0)
        # the sum of many independent times is normal; a stall is exponential, a sum of them gamma
        making = rng.normal(batch * mean, batch**0.5 * deviation, (SIMULATED_STEPS, gpus))
        making += assumed.STALL_SECONDS * rng.gamma(rng.binomial(batch, stalls, making.shape))
        waiting = waiting_share(making, batch / assumed.GPU_RATE, workers)
        return f"{100 * max(waiting, 0):.0f}%"  # rounding can leave -1e-16

    rows = [
        columns(f"{workers}, {storage}", lambda p, w=workers, s=stalls: simulate(p, w, s))
        for storage, stalls in (
            ("storage never late", 0.0),
            (f"1 read in {1 / assumed.STALL_SHARE:,.0f} late", assumed.STALL_SHARE),
        )
        for workers in (needed - 1, needed, needed + 2, 2 * needed)
    ]
    return markdown_table(("workers per GPU", *(f"{p} GPUs" for p in GPUS)), rows)


def lost_table(_: Records) -> str:
    """Time lost to kills, by how often the state is saved."""
    batch = recipe("resnet50_an").batch

    def between(gpus: int) -> float:
        return assumed.MACHINE_HOURS * 3600 / assumed.cluster(gpus).machines

    def without_warning(gpus: int, seconds: float) -> str:
        return f"{100 * lost_share(seconds, assumed.SAVE_SECONDS, assumed.RESTART_SECONDS, between(gpus)):.1f}%"

    rows = [
        columns(f"{m} ({60 * m * assumed.GPU_RATE // batch:,} batches)", lambda p, m=m: without_warning(p, 60 * m))
        for m in (1, 5, 15, 60)
    ]
    warned = columns(
        "on a signal", lambda p: f"{100 * warned_share(assumed.SAVE_SECONDS, assumed.RESTART_SECONDS, between(p)):.1f}%"
    )
    return markdown_table(("minutes between savings", *(f"{p} GPUs" for p in GPUS)), [*rows, warned])


def shards_table(records: Records) -> str:
    """What reading generated shards took."""
    (row,) = records["shards"]["rows"]
    megabyte = 1e6
    rows = [
        ["shards", f"{row['bytes'] / 1e9:.1f} GB, {row['images']:,} images"],
        [
            "index",
            f"{row['index_us_per_image']:.0f} µs of a core and {row['index_bytes_per_image']:.0f} bytes per image",
        ],
        ["killed (SIGKILL, all processes)", f"after step {row['killed_after_step']} of {row['steps_per_epoch']}"],
        ["images after the kill and one more epoch", "each process: exactly those of its order"],
        ["largest memory of a process with its worker", f"{max(row['max_bytes']) / megabyte:.0f} MB"],
        ["change over the last four fifths", ", ".join(f"{g / megabyte:+.1f}" for g in row["growth_bytes"]) + " MB"],
    ]
    return markdown_table(("", "4 processes, 1 worker each"), rows) + "\n" + provenance(records["shards"])


def assumptions(_: Records) -> str:
    """A list."""
    return "".join(f"- {line}\n" for line in assumed.sentences())


def sbatch(_: Records) -> str:
    """The script itself."""
    return f"```bash\n{(ROOT / 'configs' / 'slurm' / 'train.sbatch').read_text()}```\n"


TABLES: dict[str, Callable[[Records], str]] = {
    "sbatch": sbatch,
    "assumptions": assumptions,
    "decoding": decoding_table,
    "plan": plan_table,
    "sending": sending_table,
    "waiting": waiting_table,
    "lost": lost_table,
    "shards": shards_table,
}


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Reckon what training at scale needs, into docs/scale.md.")
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 where the page is out of date")
    options = parser.parse_args(arguments)
    store = root / "benchmarks" / "results"
    records = {name: json.loads((store / f"{name}.json").read_text()) for name in ("decoding", "collectives", "shards")}
    page = root / "docs" / "scale.md"
    before = {page: page.read_text(encoding="utf-8")}
    after = {page: pages.fill(before[page], ("scale",), lambda _, name: TABLES[name](records))}
    return pages.write_changed(root, before, after, check="python -m benchmarks.scale" if options.check else None)


if __name__ == "__main__":
    sys.exit(main())
