"""log.jsonl: true numbers, each batch once however often a run was stopped, nothing lost in silence."""

import csv
import json
import math
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from attnorm.data import load_data, make_loader
from attnorm.errors import JobError
from attnorm.models import create_model
from attnorm.training.config import TrainConfig
from attnorm.training.epoch_end import EpochEnd
from attnorm.training.evaluation import Tally
from attnorm.training.loop import fit
from attnorm.training.progress import epoch_line
from attnorm.training.schedule import learning_rate
from attnorm.training.watch import LOG, LineFile

from .runs import Stopped, stop_at

PAGE = (Path(__file__).parents[2] / "docs" / "watching.md").read_text(encoding="utf-8")
MEASURED = re.compile("seconds|per_second|share|bytes|^time$")  # another in each run


def lines(config: TrainConfig, *events: str) -> list[dict]:
    found = [json.loads(line) for line in (Path(config.output) / LOG).read_text().splitlines()]
    return [line for line in found if not events or line["event"] in events]


def repeatable(config: TrainConfig) -> list[dict]:
    """What the log says of the training, without what is another in each run."""
    found = lines(config, "batches", "epoch")
    return [{key: value for key, value in line.items() if not MEASURED.search(key)} for line in found]


def expected_batches(config: TrainConfig) -> list[dict]:
    """The training written out, in plain PyTorch: a line every `log_interval` batches and at the end of the epoch."""
    torch.manual_seed(config.seed)
    data = load_data(config)
    model = create_model(config.model, num_classes=10, in_chans=1).train()
    loader = make_loader(data.train, batch_size=config.batch_size, train=True, seed=config.seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=1, momentum=config.momentum, weight_decay=config.weight_decay)
    shift, scale = (255 * torch.tensor(v).view(-1, 1, 1) for v in (data.mean, data.std))
    found, step = [], 0
    for epoch in range(config.epochs):
        loader.sampler.set_epoch(epoch)
        seen, norm = [], None
        for i, (images, labels) in enumerate(loader):
            loss = F.cross_entropy(model((images.float() - shift) / scale), labels)
            (loss / config.grad_accum_steps).backward()
            seen.append(loss.item())
            lr = learning_rate(epoch, i, len(loader), lr=config.lr, epochs=config.epochs, warmup_epochs=config.warmup)
            if (i + 1) % config.grad_accum_steps == 0 or i + 1 == len(loader):
                norm = math.sqrt(sum(p.grad.double().square().sum().item() for p in model.parameters()))
                torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_grad)
                optimizer.param_groups[0]["lr"] = lr
                optimizer.step()
                optimizer.zero_grad()
                step += 1
            if (i + 1) % config.log_interval == 0 or i + 1 == len(loader):
                line = {"epoch": epoch + 1, "batch": i + 1, "step": step, "lr": lr, "grad_norm": norm}
                found.append({**line, "train_loss": sum(seen) / len(seen)})
                seen, norm = [], None
    return found


def test_the_numbers_are_those_of_the_training_written_out(tiny):
    """A line at batches 4, 8 and 10 of ten, steps of three batches: the gradient is that of the last whole step."""
    config = replace(tiny, log_interval=4, grad_accum_steps=3, clip_grad=0.05)
    record = fit(config, quiet=True)
    found = [line for line in repeatable(config) if line.pop("event") == "batches"]
    expected = expected_batches(config)
    assert [line["batch"] for line in found] == [4, 8, 10] * 2
    for line, truth in zip(found, expected, strict=True):
        # Lightning sums the norm's squares in float32.
        assert line == pytest.approx(truth, rel=1e-5)
    assert [{k: v for k, v in line.items() if k not in ("event", "time")} for line in lines(config, "epoch")] == (
        record.history
    )
    rows = list(csv.DictReader((Path(config.output) / "metrics.csv").read_text().splitlines()))
    assert [float(row["data_wait_share"]) for row in rows] == [row["data_wait_share"] for row in record.history]


def test_every_key_is_in_the_docs_and_the_other_way_round(tiny, monkeypatch):
    config = replace(tiny, log_interval=5)
    with monkeypatch.context() as patch:
        stop_at(patch, 1, 7)
        with pytest.raises(Stopped):
            fit(config, quiet=True)
    fit(replace(config, resume="auto"), quiet=True)
    table = PAGE[PAGE.index("<!-- keys:begin -->") : PAGE.index("<!-- keys:end -->")]
    documented: dict[str, set[str]] = {}
    names: list[str] = []
    for row in table.splitlines():
        cells = [cell.strip() for cell in row.split("|")]
        if len(cells) != 5 or cells[1] in ("lines", "---"):
            continue
        names = cells[1].split(", ") if cells[1] else names
        for name in names:
            documented[name] = documented.get(name, set()) | set(re.findall(r"`(\w+)`", cells[2]))
    everywhere = documented.pop("all")
    assert documented.keys() == {"start", "batches", "epoch", "stop", "end"}
    elsewhere = {"cuda_allocated_peak_bytes", "cuda_reserved_peak_bytes", "loss_scale"}  # on a CUDA device
    for line in lines(config):
        if line["event"] != "epoch":
            assert line.keys() - elsewhere == everywhere | documented[line["event"]] - elsewhere, line["event"]
    assert [line["event"] for line in lines(config, "start", "stop", "end")] == ["start", "stop", "start", "end"]
    assert [(line["epoch"], line["batch"]) for line in lines(config, "start", "stop")] == [(1, 0), (2, 7), (2, 0)]
    assert "Stopped" in lines(config, "stop")[0]["reason"]


def fail(patch, kind, name, place):
    """Ends the run when a method is called for the time that `place` names, counted from 1."""
    original, calls = getattr(kind, name), [0]

    def method(*arguments, **named):
        calls[0] += 1
        if calls[0] == place:
            raise Stopped
        return original(*arguments, **named)

    patch.setattr(kind, name, method)


# A place, and the same one as the run meets it when it goes on.
STOPS = {
    "first batches": [(stop_at, 0, 2), (stop_at, 0, 2)],
    "within an interval": [(stop_at, 0, 7), (stop_at, 0, 7)],
    "behind lines that are done anew": [(stop_at, 1, 9), (stop_at, 1, 9)],
    "evaluation": [(fail, Tally, "add", 10), (fail, Tally, "add", 2)],
    "after the epoch's line": [(fail, EpochEnd, "_save_weights", 1)] * 2,
    "after the last epoch's line": [(fail, EpochEnd, "_save_weights", 2), (fail, EpochEnd, "_save_weights", 1)],
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of two epochs of ten batches that was never stopped."""
    output = str(tmp_path_factory.mktemp("watch") / "whole")
    config = TrainConfig(
        model="resnet8_cifar_an", dataset="digits", output=output, epochs=2, batch_size=100, lr=0.05, log_interval=4,
        recovery_interval=3
    )  # fmt: skip
    fit(config, quiet=True)
    return config


@pytest.mark.parametrize("stops", STOPS.values(), ids=STOPS)
def test_each_batch_is_told_once_however_a_run_was_stopped(whole, tmp_path, monkeypatch, stops, tally):
    """A run that is stopped twice at the same place, a line half written; nothing of it is seen in the end."""
    config = replace(whole, output=str(tmp_path / "run"), resume="auto")
    for stop, *place in stops:
        with monkeypatch.context() as patch:
            stop(patch, *place)
            with pytest.raises(Stopped):
                fit(config, quiet=True)
        tally["stops"] += 1
        with (Path(config.output) / LOG).open("a") as file:
            file.write('{"event": "batches", "epoch": 2, "ba')
    fit(config, quiet=True)
    assert repeatable(config) == repeatable(whole)


def test_tensorboard_shows_each_epoch_once_however_a_run_was_stopped(tiny, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = replace(tiny, log_tensorboard=True, resume="auto")
    for place in (1, 2):  # after the first epoch was told, and when both were
        with monkeypatch.context() as patch:
            fail(patch, EpochEnd, "_save_weights", place)
            with pytest.raises(Stopped):
                fit(config, quiet=True)
        time.sleep(1.1)  # TensorBoard reads the files in the order of the seconds in their names
    fit(config, quiet=True)
    events = EventAccumulator(str(Path(config.output) / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train_loss")] == [1, 2]


def test_a_disk_that_is_full_stops_the_run(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full on this system")
    with pytest.raises(JobError, match=r"/dev/full must be writable.*No space left on device.*--resume auto"):
        LineFile(Path("/dev/full")).add({"event": "batches"})


def test_lines_are_json_whatever_the_numbers(tmp_path):
    log = LineFile(tmp_path / LOG)
    log.add({"event": "batches", "epoch": 1, "batch": 4, "grad_norm": math.inf, "train_loss": math.nan, "lr": 0.5})
    log.add({"event": "batches", "epoch": 1, "batch": 8})
    with log.path.open("a") as file:
        file.write('[]\n{"event": "batches", "epoch": 1}\nnothing\n{"event"')
    log.keep(lambda line: line["batch"] <= 4)
    first = json.loads(log.path.read_text())  # one line is left
    assert first == {"event": "batches", "epoch": 1, "batch": 4, "grad_norm": None, "train_loss": None, "lr": 0.5}


def test_without_an_interval_there_are_the_epochs(tiny):
    fit(replace(tiny, log_interval=0), quiet=True)
    assert [line["event"] for line in lines(tiny)] == ["start", "epoch", "epoch", "end"]


@pytest.mark.parametrize(
    ("share", "note"), [(0.1, ""), (0.42, "  reading: 42% of the time (try more --workers than 3)")]
)
def test_an_epoch_s_line_says_when_reading_is_the_bottleneck(share, note):
    row = {"epoch": 2, "train_loss": 1.25, "seconds": 3.0, "images_per_second": 412.4, "data_wait_share": share}
    line = epoch_line(row, 10, lambda row: "top-1 50.00", workers=3)
    assert line == f"epoch  2/10  train loss 1.2500  top-1 50.00  3.0 s  412 images/s{note}"
