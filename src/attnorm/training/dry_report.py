"""What a dry run found, in words."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from attnorm.training.config import TrainConfig
from attnorm.training.preparation import Prepared
from attnorm.training.progress import reading_note
from attnorm.training.record import environment
from attnorm.training.trial import Costs


@dataclass(frozen=True)
class Room:
    """On the disk, in bytes.

    Attributes:
        weights: of a file of weights.
        state: of a resume state.
        needed: by all files that are there at once, beyond those that are there now.
        free: what the disk has.
    """

    weights: int
    state: int
    needed: int
    free: int


def describe(run: Prepared, costs: Costs, room: Room) -> list[str]:
    """The report, a subject on each line or on a few."""
    subjects = {
        "network": _network(run),
        "data": _data(run),
        "schedule": [schedule(run.launch.config, run.module.peak_lr)],
        "device": [_device(run)],
        "memory": [_memory(run, costs)],
        "time": _time(run, costs),
        "disk": [
            f"{size(room.weights)} of weights, {size(room.state)} each resume state; "
            f"{size(room.needed)} to be written at most, {size(room.free)} free"
        ],
        "start": [*run.launch.start.notes, _start(run)],
    }
    lines = [line for subject, texts in subjects.items() for line in _under(subject, texts)]
    return ["dry run: nothing is written", "", *lines, "", "the run would start"]


def _under(subject: str, texts: list[str]) -> Iterator[str]:
    for number, text in enumerate(texts):
        yield f"{subject if number == 0 else '':<10}{text}"


def _network(run: Prepared) -> list[str]:
    params = sum(p.numel() for p in run.model.parameters() if p.requires_grad)
    initial = [] if run.task.initial is None else [str(run.task.initial)]
    return [f"{run.launch.config.model}, {params / 1e6:.2f} M parameters to train", *initial]


def _data(run: Prepared) -> list[str]:
    facts, config = run.task.facts(), run.launch.config
    count = run.launch.processes.count
    batches = f"{_many(len(run.train), 'batch', 'batches')} of {config.batch}" + (
        f" in each of {count} processes" if count > 1 else ""
    )
    bad = [name for part in (run.task.train, run.task.val) for name in getattr(part, "bad_files", list)()]
    unreadable = f"{_many(len(bad), 'image', 'images')} could not be: {', '.join(bad)}" if bad else "none is damaged"
    return [
        f"{facts['name']}: {_many(len(facts['classes']), 'class', 'classes')}, {len(run.task.train):,} images to train "
        f"({batches}), {len(run.task.val):,} to evaluate",
        f"images of a few batches of both parts were read; {unreadable}",
        *run.task.notes,
    ]


def schedule(config: TrainConfig, peak: float) -> str:
    """The learning rate over the run.

    Args:
        config: resolved.
        peak: see `TrainConfig.peak_lr`.
    """
    length = f"{config.warmup:g} epochs" if config.warmup_iters is None else f"{config.warmup_iters} steps"
    rise = f"learning rate {config.warmup_lr:g} to {peak:g} in {length}, then "
    if length.startswith("0 "):
        rise = f"learning rate {peak:g}, "
    if config.sched == "cosine":
        return f"{rise}half a cosine down to {config.min_lr:g} at the end of epoch {config.epochs}"
    *before, last = [str(epoch) for epoch in config.decay_milestones]
    epochs = f"epochs {', '.join(before)} and {last}" if before else f"epoch {last}"
    return f"{rise}times {config.decay_rate:g} after {epochs}; {config.epochs} epochs"


def _device(run: Prepared) -> str:
    config, launch = run.launch.config, run.launch
    name = environment(launch.device)["device"]
    precision = {"32": "float32", "bf16": "bfloat16 mixed", "fp16": "float16 mixed"}[config.precision]
    images = config.batch * config.grad_accum_steps * launch.processes.count
    each = " each" if launch.processes.count > 1 else ""
    reading = f"with {_many(config.workers, 'worker', 'workers')}{each}" if config.workers else "without workers"
    processes = _many(launch.processes.count, "process", "processes")
    return f"{name}, {precision}; {processes} {reading}; {images} images a step"


def _memory(run: Prepared, costs: Costs) -> str:
    if costs.memory_bytes is None:
        return "not known on this system"
    whose = "the device has" if run.launch.device.type == "cuda" else "the process may have"
    there = "" if costs.memory_there_bytes is None else f", of {size(costs.memory_there_bytes)} that {whose}"
    return f"{size(costs.memory_bytes)} at the peak{there}"


def _time(run: Prepared, costs: Costs) -> list[str]:
    done, iterations = run.launch.start.batches, len(run.train)
    left = run.launch.config.epochs * iterations - done
    evaluation = len(run.val) * costs.eval_batch_seconds
    epoch = iterations * costs.batch_seconds + evaluation
    whole = left * costs.batch_seconds + -(-left // iterations) * evaluation
    rate = run.launch.config.batch * run.launch.processes.count / costs.batch_seconds
    note = reading_note(costs.data_wait_share, run.launch.config.workers)
    return [
        f"about {duration(costs.batch_seconds)} a batch ({rate:,.{0 if rate >= 10 else 1}f} images/s), "
        f"{duration(epoch)} an epoch with its evaluation, {duration(whole)} for {'the rest' if done else 'the run'}",
        *([note] if note else []),
    ]


def _start(run: Prepared) -> str:
    start, config = run.launch.start, run.launch.config
    if start.checkpoint is None:
        return f"with fresh weights, in {config.output}" if run.task.initial is None else f"in {config.output}"
    epoch, batch = divmod(start.batches, len(run.train))
    place = f"epoch {epoch + 1}, batch {batch + 1}" if epoch < config.epochs else "the last evaluation"
    return f"goes on from {start.checkpoint}, with {place}"


def _many(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def size(count: int) -> str:
    """Bytes for a person, in powers of ten as disks are sold."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            number = count / scale
            return f"{number:.{1 if number < 100 else 0}f} {unit}"
    return f"{count} bytes"


def duration(seconds: float) -> str:
    """A time for a person."""
    if 0 < seconds < 1:
        return f"{1000 * seconds:.{0 if seconds >= 0.01 else 1}f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    return str(timedelta(seconds=round(seconds)))
