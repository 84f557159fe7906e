"""Whole runs: equal to a plain PyTorch loop, repeatable, resumable bit for bit, and stopped where they must be."""

import csv
import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from attnorm.data import load_data, make_loader
from attnorm.errors import CheckpointError, ConfigError, DataError, DivergedError
from attnorm.models import create_model
from attnorm.training import module as module_file
from attnorm.training.checkpoint import load_checkpoint
from attnorm.training.config import TrainConfig, recorded, resolve
from attnorm.training.evaluation import evaluate
from attnorm.training.loop import fit
from attnorm.training.schedule import learning_rate

from .runs import Stopped, assert_same_weights, newest, stop_at, weights

RANDOM = {"mixup": 0.2, "smoothing": 0.1, "drop": 0.2, "model_ema": True, "model_ema_decay": 0.9}


def losses(record):
    return [(row["train_loss"], row["val_loss"], row["top1"]) for row in record.history]


def plain_loop(config):
    """What `fit` must amount to, written out: returns the weights and the mean loss of each epoch."""
    torch.manual_seed(config.seed)
    data = load_data(config)
    model = create_model(config.model, num_classes=10, in_chans=1).train()
    loader = make_loader(data.train, batch_size=config.batch_size, train=True, seed=config.seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=1, momentum=config.momentum, weight_decay=config.weight_decay)
    shift, scale = (255 * torch.tensor(v).view(-1, 1, 1) for v in (data.mean, data.std))
    means = []
    for epoch in range(config.epochs):
        loader.sampler.set_epoch(epoch)
        seen = []
        for i, (images, labels) in enumerate(loader):
            loss = F.cross_entropy(model((images.float() - shift) / scale), labels)
            (loss / config.grad_accum_steps).backward()
            seen.append(loss.item())
            if (i + 1) % config.grad_accum_steps == 0:
                if config.clip_grad:
                    torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_grad)
                optimizer.param_groups[0]["lr"] = learning_rate(
                    epoch, i, len(loader), lr=config.lr, epochs=config.epochs, warmup_epochs=config.warmup
                )
                optimizer.step()
                optimizer.zero_grad()
        means.append(sum(seen) / len(seen))
    return model.state_dict(), means


@pytest.mark.parametrize("changes", [{}, {"grad_accum_steps": 2, "clip_grad": 0.5}], ids=["plain", "accumulated"])
def test_fit_is_the_plain_loop(tiny, changes):
    config = replace(tiny, **changes)
    record = fit(config, quiet=True)
    expected, means = plain_loop(config)
    assert_same_weights(weights(config), expected)
    assert [row["train_loss"] for row in record.history] == pytest.approx(means, rel=1e-12)


def test_the_same_seed_gives_the_same_curve_and_another_does_not(tiny, elsewhere):
    configs = [elsewhere(tiny, name, **RANDOM, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    records = [fit(config, quiet=True) for config in configs]
    assert losses(records[0]) == losses(records[1])
    assert losses(records[0]) != losses(records[2])
    assert_same_weights(weights(configs[0]), weights(configs[1]))


@pytest.mark.parametrize(
    ("place", "interval"), [((1, 0), 0), ((1, 3), 0), ((1, 7), 3)], ids=["boundary", "back to it", "mid-epoch"]
)
def test_a_resumed_run_is_the_uninterrupted_one(tiny, elsewhere, monkeypatch, place, interval):
    """user-asks 17. Bit for bit, with every source of chance at work: order, mixup, dropout, and the average."""
    whole, broken = (elsewhere(tiny, name, **RANDOM, recovery_interval=interval) for name in ("whole", "broken"))
    expected = fit(whole, quiet=True)
    with monkeypatch.context() as patch:
        stop_at(patch, *place)
        with pytest.raises(Stopped):
            fit(broken, quiet=True)
    record = fit(replace(broken, resume="auto"), quiet=True)
    assert losses(record) == losses(expected)
    for name in ("last", "best"):
        assert_same_weights(weights(broken, name), weights(whole, name))
    states = [torch.load(newest(c.output), weights_only=True)["state_dict"] for c in (whole, broken)]
    assert_same_weights(*states)


def test_a_warm_up_in_steps_by_hand(tiny):
    """Ten batches an epoch, two to a step: 4 steps are 8 batches, 0.05 / 8 each; then 0.05 until a milestone."""
    config = replace(
        tiny, warmup_iters=4, grad_accum_steps=2, epochs=2, sched="multistep", decay_milestones=(1,), decay_rate=0.5
    )
    rates = []
    original = module_file.TrainModule.on_train_batch_start

    def watch(self, batch, batch_idx):
        original(self, batch, batch_idx)
        rates.append(self.optimizers(use_pl_optimizer=False).param_groups[0]["lr"])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module_file.TrainModule, "on_train_batch_start", watch)
        fit(config, quiet=True)
    assert rates == pytest.approx([0.05 * k / 8 for k in range(1, 9)] + [0.05] * 2 + [0.025] * 10)


def test_resume_from_a_file_into_another_folder(tiny, elsewhere, monkeypatch):
    whole, first, second = (elsewhere(tiny, name) for name in ("whole", "first", "second"))
    fit(whole, quiet=True)
    stop_at(monkeypatch, 1, 4)
    with pytest.raises(Stopped):
        fit(first, quiet=True)
    monkeypatch.undo()
    fit(replace(second, resume=str(newest(first.output))), quiet=True)
    assert_same_weights(weights(second), weights(whole))


def test_what_a_run_leaves_behind(trained):
    config, record = trained
    output = Path(config.output)
    states = {"resume-00000020.ckpt", "resume-00000030.ckpt"}
    names = {"best.safetensors", "config.yaml", "last.safetensors", "log.jsonl", "metrics.csv", "record.json", *states}
    assert {item.name for item in output.iterdir()} == names
    rows = list(csv.DictReader((output / "metrics.csv").read_text().splitlines()))
    assert [float(row["top1"]) for row in rows] == [row["top1"] for row in record.history]
    assert json.loads((output / "record.json").read_text()) == asdict(record)
    assert record.config == recorded(resolve(config))
    assert record.top1 == record.history[-1]["top1"]
    assert record.best_top1 == max(row["top1"] for row in record.history)
    assert record.history[-1]["lr"] == 0.0
    assert record.data["train_images"] == 1000
    assert record.params == sum(p.numel() for p in load_checkpoint(output / "last.safetensors")[0].parameters())


def test_saved_weights_score_what_the_record_says(trained):
    """The authors' re-evaluated checkpoints differ from their log; here they do not."""
    config, record = trained
    for name, row in (("last", record.history[-1]), ("best", record.history[record.best_epoch - 1])):
        model, meta = load_checkpoint(Path(config.output) / f"{name}.safetensors")
        data = load_data(config)
        result = evaluate(model, make_loader(data.val, batch_size=64, train=False), mean=meta.mean, std=meta.std)
        assert (result["top1"], result["top5"], result["count"]) == (row["top1"], row["top5"], 797)
        assert result["loss"] == pytest.approx(row["val_loss"], rel=1e-5)  # float32, other batches
        assert meta.epoch == row["epoch"]


def test_a_finished_run_is_not_repeated(trained):
    config, record = trained
    before = newest(config.output).stat().st_mtime_ns
    again = fit(replace(config, resume="auto"), quiet=True, on_epoch=lambda row: pytest.fail("an epoch was trained"))
    assert asdict(again) == asdict(record)
    assert newest(config.output).stat().st_mtime_ns == before


def test_resume_with_other_settings_is_refused_by_name(trained):
    config, _ = trained
    with pytest.raises(ConfigError, match=r"differ in lr: 0\.1 -> 0\.2; weight_decay: 0\.0001 -> 0\.0"):
        fit(replace(config, resume="auto", lr=0.2, weight_decay=0.0), quiet=True)


def test_an_unfinished_run_with_other_settings_is_refused_too(trained, elsewhere):
    config, _ = trained
    other = elsewhere(config, "other", resume=str(newest(config.output)), epochs=9)
    with pytest.raises(ConfigError, match="epochs: 3 -> 9"):
        fit(other, quiet=True)
    assert not Path(other.output).exists()


def test_a_folder_with_another_run_is_refused(trained):
    config, _ = trained
    with pytest.raises(ConfigError, match=r"holds another run; .*--resume auto"):
        fit(config, quiet=True)


def test_resume_auto_starts_fresh_where_there_is_nothing(tiny):
    assert len(fit(replace(tiny, resume="auto", epochs=1), quiet=True).history) == 1


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model": "resnet9_cifar"}, ConfigError, "resnet9_cifar"),
        ({"opt": "sdg"}, ConfigError, 'opt must be .* got "sdg"; for example .*sgd'),
        ({"num_classes": 3}, ConfigError, "num_classes must be at least 10 for digits, got 3"),
        ({"in_chans": 3}, ConfigError, "in_chans must be 1 for digits, got 3"),
        ({"resume": "nowhere.ckpt"}, CheckpointError, r"no file nowhere\.ckpt"),
        ({"batch_size": 5000}, ConfigError, "batch_size"),
        ({"warmup_iters": 20}, ConfigError, "warmup_iters must be less than the 20 steps of the run, got 20"),
        ({"dataset": "folder", "data_dir": "/nowhere"}, DataError, "/nowhere"),
        ({"lr": -1.0}, ConfigError, "lr must be above 0"),
        ({"amp": True, "amp_dtype": "float16", "device": "cpu"}, ConfigError, 'use amp_dtype "bfloat16"'),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_written(tiny, changes, error, message):
    with pytest.raises(error, match=message) as caught:
        fit(replace(tiny, **changes), quiet=True)
    assert "\n" not in str(caught.value)
    assert not Path(tiny.output).exists() or not any(Path(tiny.output).iterdir())


def test_a_diverging_run_stops_and_keeps_the_last_good_checkpoint(tiny, monkeypatch):
    def rate(epoch, iteration, iterations, **settings):
        return 0.01 if epoch == 0 else 1e30

    monkeypatch.setattr(module_file, "learning_rate", rate)
    with pytest.raises(
        DivergedError, match=r"at step 1\d \(epoch 1, batch \d\) with learning rate 1e\+30; .*resume-00000010\.ckpt"
    ):
        fit(tiny, quiet=True)
    model, meta = load_checkpoint(Path(tiny.output) / "last.safetensors")
    assert meta.epoch == 1
    assert all(p.isfinite().all() for p in model.parameters())
    assert not (Path(tiny.output) / "record.json").exists()


def test_the_averaged_network_is_what_is_evaluated_and_saved(tiny):
    """user-asks 21: the average of weights and of BatchNorm's statistics, by hand, step by step."""
    config = replace(tiny, model="resnet8_cifar", model_ema=True, model_ema_decay=0.6, epochs=1)
    averaged = None
    steps = []
    original = module_file.TrainModule.on_train_batch_start

    def watch(self, batch, batch_idx):
        steps.append({k: v.clone() for k, v in self.model.state_dict().items()})
        return original(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module_file.TrainModule, "on_train_batch_start", watch)
        record = fit(config, quiet=True)
    state = torch.load(newest(config.output), weights_only=True)["state_dict"]
    steps.append({k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")})
    for step in steps[1:]:  # the first update takes the weights over, the others follow them
        averaged = step if averaged is None else {
            k: 0.6 * averaged[k] + 0.4 * v if v.is_floating_point() else v for k, v in step.items()
        }  # fmt: skip
    saved = weights(config)
    torch.testing.assert_close(saved, averaged, rtol=1e-5, atol=1e-7)
    counters = [name for name in saved if name.endswith("num_batches_tracked")]
    assert counters
    assert all(saved[name] == 10 for name in counters)
    model, meta = load_checkpoint(Path(config.output) / "last.safetensors")
    loader = make_loader(load_data(config).val, batch_size=100, train=False)
    assert evaluate(model, loader, mean=meta.mean, std=meta.std)["top1"] == record.top1


@pytest.mark.parametrize(
    "changes",
    [
        {"opt": "adamw", "lr": 1e-2, "decay_norm": "no_norm"},
        {"amp": True},
        {"channels_last": True},
        {"workers": 1},
        {"lr": None, "lr_base": 0.5, "nesterov": True},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_options_learn_the_digits_too(tiny, changes):
    """Ten classes: a run that learns nothing stays at 10%, and near log(10) in its loss."""
    record = fit(replace(tiny, **{"batch_size": 50, "lr": 0.1, **changes}), quiet=True)
    assert record.history[-1]["train_loss"] < 0.7 * math.log(10)


def test_workers_change_nothing_but_speed(tiny, elsewhere):
    configs = [elsewhere(tiny, name, **more, epochs=1) for name, more in (("a", {}), ("b", {"workers": 2}))]
    for config in configs:
        fit(config, quiet=True)
    assert_same_weights(*(weights(config) for config in configs))


def test_one_plain_line_per_epoch_and_nothing_of_the_libraries(tiny, capfd):
    fit(replace(tiny, progress="plain"))
    out, err = capfd.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    assert all("top-1" in line and "images/s" in line for line in lines)


def test_a_bar_on_a_terminal_leaves_the_same_lines(tiny, capfd):
    fit(replace(tiny, progress="bar", epochs=1))
    lines = [line for line in capfd.readouterr().err.splitlines() if line.strip()]
    assert len(lines) == 1
    assert lines[0].startswith("epoch 1/1  train loss ")


def test_the_written_configuration_is_a_recipe_of_the_run(trained):
    from attnorm.options import parse_settings

    config, _ = trained
    arguments = ["--config", str(Path(config.output) / "config.yaml"), "--output", config.output]
    assert parse_settings(TrainConfig, arguments, command="attnorm train", recipe=True) == resolve(config)


def test_tensorboard_has_the_numbers_of_the_record(tiny):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    record = fit(replace(tiny, log_tensorboard=True), quiet=True)
    events = EventAccumulator(str(Path(tiny.output) / "tensorboard"))
    events.Reload()
    for name in ("train_loss", "val_loss", "top1"):
        written = [(event.step, event.value) for event in events.Scalars(name)]
        assert written == [(row["epoch"], pytest.approx(row[name])) for row in record.history]


@pytest.mark.slow
def test_a_compiled_network_trains_as_the_plain_one(tiny, elsewhere):
    """Compiled kernels add in another order: four steps, float32. What is saved has the plain network's names."""
    plain, compiled = (
        elsewhere(tiny, str(flag), batch_size=250, epochs=1, torchcompile=flag) for flag in (False, True)
    )
    records = [fit(config, quiet=True) for config in (plain, compiled)]
    assert records[1].history[0]["train_loss"] == pytest.approx(records[0].history[0]["train_loss"], rel=1e-5)
    torch.testing.assert_close(weights(compiled), weights(plain), rtol=1e-3, atol=1e-4)
