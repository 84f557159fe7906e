"""What tests of whole runs share: their weights, and a way to stop them."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from attnorm.training import module as module_file


def weights(config, name="last"):
    return load_file(Path(config.output) / f"{name}.safetensors")


def newest(folder):
    """The newest resume state in the output of a run."""
    return max(Path(folder).glob("resume-*.ckpt"))


def timeless(row):
    """A row of the history, or a line of the log, without what depends on the clock and the machine."""
    changing = ("time", "second", "share", "bytes")
    return {name: value for name, value in row.items() if not any(part in name for part in changing)}


def assert_same_weights(a, b):
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


class Stopped(Exception):
    """The power went off."""


def stop_at(monkeypatch, epoch, batch):
    original = module_file.TrainModule.training_step

    def step(self, data, batch_idx):
        if (self.current_epoch, batch_idx) == (epoch, batch):
            raise Stopped
        return original(self, data, batch_idx)

    monkeypatch.setattr(module_file.TrainModule, "training_step", step)
