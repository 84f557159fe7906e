"""The share of time that reading takes, where it is known beforehand."""

import json
import time
from dataclasses import replace
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import Dataset
from torchdata.stateful_dataloader import StatefulDataLoader

from attnorm.data.arrays import ArrayDataset
from attnorm.training import fetching, watch
from attnorm.training.fetching import FetchClock
from attnorm.training.loop import fit
from attnorm.training.module import TrainModule
from attnorm.training.trainer import quiet_lightning

from .runs import Stopped, stop_at


class Clock:
    """A clock that stands still but for what is done."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


def takes(patch, clock, kind, name, seconds):
    original = getattr(kind, name)

    def method(*arguments):
        clock.now += seconds
        return original(*arguments)

    patch.setattr(kind, name, method)


def test_the_share_is_that_of_reading_and_goes_on_over_a_stop(tiny, monkeypatch):
    """Reading a batch takes 3 s, training on it 1 s; the evaluation, which reads too, is not part of that time."""
    clock = Clock()
    for module in (fetching, watch):
        monkeypatch.setattr(module, "time", clock)
    takes(monkeypatch, clock, ArrayDataset, "__getitems__", 3.0)
    takes(monkeypatch, clock, TrainModule, "training_step", 1.0)
    config = replace(tiny, log_interval=4, recovery_interval=2, resume="auto")
    with monkeypatch.context() as patch:
        stop_at(patch, 1, 5)  # the state is that after four batches
        with pytest.raises(Stopped):
            fit(config, quiet=True)
    record = fit(config, quiet=True)
    assert [(row["seconds"], row["data_wait_share"]) for row in record.history] == [(40.0, 0.75)] * 2
    lines = [json.loads(line) for line in (Path(config.output) / "log.jsonl").read_text().splitlines()]
    batches = [(line["data_wait_share"], line["images_per_second"]) for line in lines if line["event"] == "batches"]
    assert batches == [(0.75, 25.0)] * 6


class Device(Clock):
    """A CUDA device in thought: it does one thing after the other, and events are reached when all before is done."""

    busy_until = 0.0

    def compute(self, seconds: float) -> None:
        self.busy_until = max(self.busy_until, self.now) + seconds

    def event(self, *, enable_timing: bool) -> "Event":
        assert enable_timing
        return Event(self)


class Event:
    def __init__(self, device: Device) -> None:
        self.device = device

    def record(self) -> None:
        self.at = max(self.device.now, self.device.busy_until)

    def query(self) -> bool:
        return self.at <= self.device.now

    def synchronize(self) -> None:
        self.device.now = max(self.device.now, self.at)

    def elapsed_time(self, other: "Event") -> float:
        assert self.query()
        assert other.query()
        return 1000 * (other.at - self.at)


@pytest.mark.parametrize(("reading", "waited"), [(1.0, 0.0), (4.0, 0.0), (10.0, 6.0)])
def test_a_device_that_is_busy_does_not_wait(monkeypatch, reading, waited):
    """It computes for 4 s on a batch, which the program only starts, to read the next one meanwhile."""
    device = Device()
    monkeypatch.setattr(torch.cuda, "Event", device.event)
    clock = FetchClock(torch.device("cuda"))
    device.compute(4.0)
    for batch in range(1, 6):
        clock.start(f"[Loop]{fetching.FETCH}")
        clock.start("something else")
        device.now += reading
        clock.stop("something else")
        clock.stop(f"[Loop]{fetching.FETCH}")
        device.compute(4.0)
        if batch % 2 == 0:  # looked at now and then, else it goes on by itself
            assert clock.seconds == pytest.approx(batch * waited)


class Slow(Dataset):
    """Batches that take their time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> torch.Tensor:
        time.sleep(self.seconds)
        return torch.ones(1)


class SlowStep(pl.LightningModule):
    """Steps that take theirs; notes what was waited for from the second batch on, when the worker is there."""

    def __init__(self, seconds: float, clock: FetchClock) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seconds, self.clock, self.at = seconds, clock, []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        time.sleep(self.seconds)
        return self.layer(batch).sum()

    def on_train_batch_end(self, outputs, batch, index) -> None:
        self.at.append((time.perf_counter(), self.clock.seconds))


@pytest.mark.parametrize(
    ("reading", "step", "low", "high"), [(0.02, 0.1, 0.0, 0.3), (0.12, 0.04, 0.45, 0.9)], ids=["hidden", "bottleneck"]
)
def test_what_workers_read_while_the_network_computes_is_not_waited_for(reading, step, low, high):
    """One worker: a batch is there when it is asked for, or 0.08 of 0.12 s late, a share of 2/3."""
    clock = FetchClock(torch.device("cpu"))
    module = SlowStep(step, clock)
    with quiet_lightning():
        trainer = pl.Trainer(
            accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, profiler=clock
        )  # fmt: skip
        trainer.fit(module, StatefulDataLoader(Slow(reading), batch_size=None, num_workers=1, prefetch_factor=1))
    (start, before), *_, (end, waited) = module.at[2:]
    assert low <= (waited - before) / (end - start) < high


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    ("reading", "low", "high"), [(0.02, 0.0, 0.1), (0.2, 0.35, 0.65)], ids=["hidden", "bottleneck"]
)
def test_what_is_read_while_a_cuda_device_computes_is_not_waited_for(reading, low, high):
    """Batches of 0.1 s on the device, which the program only starts; it reads meanwhile, for 0.02 or 0.2 s."""
    device = torch.device("cuda")
    clock = FetchClock(device)
    cycles = int(0.1 * torch.cuda.get_device_properties(device).clock_rate * 1000)
    torch.cuda._sleep(1)
    torch.cuda.synchronize()
    before = clock.seconds
    start = time.perf_counter()
    for _ in range(6):
        clock.start(f"[Loop]{fetching.FETCH}")
        time.sleep(reading)
        clock.stop(f"[Loop]{fetching.FETCH}")
        torch.cuda._sleep(cycles)
    torch.cuda.synchronize()
    assert low <= (clock.seconds - before) / (time.perf_counter() - start) < high
