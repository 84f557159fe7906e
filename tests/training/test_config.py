from dataclasses import asdict, fields, replace

import pytest

from attnorm.errors import ConfigError
from attnorm.training.checks import check_recipe
from attnorm.training.config import TrainConfig, resolve, resume_differences

CONFIG = TrainConfig(model="resnet8_cifar", output="out")

WRONG = {
    "batch_size": {"batch_size": 0},
    "grad_accum_steps": {"grad_accum_steps": 0},
    "lr_base_size": {"lr_base_size": 0},
    "epochs": {"epochs": 0},
    "workers": {"workers": -1},
    "recovery_interval": {"recovery_interval": -1},
    "weight_decay": {"weight_decay": -1e-4},
    "mixup": {"mixup": -0.1},
    "cutmix": {"cutmix": -1.0},
    "smoothing": {"smoothing": 1.0},
    "drop_path": {"drop_path": 1.5},
    "momentum": {"momentum": 1.0},
    "model_ema_decay": {"model_ema_decay": 1.0},
    "num_classes": {"num_classes": 0},
    "lr": {"lr": 0.0},
    "lr_base": {"lr_base": 0.1, "lr": 0.1},
    "clip_grad": {"clip_grad": 0.0},
    "min_lr": {"min_lr": 0.2, "lr": 0.1},
    "warmup_lr": {"warmup_lr": 0.2, "lr": 0.1},
    "warmup_epochs": {"warmup_epochs": 3, "epochs": 3},
    "nesterov": {"nesterov": True, "opt": "adamw"},
    "weight_decay must be a finite": {"weight_decay": float("nan")},
    "lr must be a finite": {"lr": float("inf")},
}


@pytest.mark.parametrize(("name", "changes"), WRONG.items(), ids=WRONG)
def test_contradictions_are_refused_by_name(name, changes):
    with pytest.raises(ConfigError, match=name):
        check_recipe(replace(CONFIG, **changes))


def test_defaults_are_accepted():
    check_recipe(CONFIG)
    check_recipe(resolve(CONFIG))


def test_wandb_is_named_with_the_extra_that_installs_it(monkeypatch):
    monkeypatch.setattr("attnorm.training.checks.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"log_wandb needs .* pip install 'attnorm\[wandb\]'"):
        check_recipe(replace(CONFIG, log_wandb=True))


@pytest.mark.parametrize(("epochs", "warmup"), [(120, 5.0), (200, 5.0), (5, 0.5), (1, 0.1)])
def test_default_warm_up_fits_short_runs(epochs, warmup):
    assert resolve(replace(CONFIG, epochs=epochs)).warmup_epochs == warmup


def test_lr_base_is_for_256_images_per_step():
    """The paper's runs: lr 0.1 for 256 images, 8 processes of 128 images: 0.4."""
    assert replace(CONFIG, lr_base=0.1, batch_size=128).peak_lr(processes=8) == pytest.approx(0.4)
    assert replace(CONFIG, lr_base=0.1, batch_size=64, grad_accum_steps=2).peak_lr() == pytest.approx(0.05)
    assert replace(CONFIG, lr=0.3).peak_lr(processes=8) == 0.3


def test_lr_base_can_be_for_another_number_of_images_and_scale_with_the_square_root():
    """1024 images per step for a rate that was found with 4096 of them: a quarter of it, or half by the root."""
    config = replace(CONFIG, lr_base=0.008, lr_base_size=4096, batch_size=64, grad_accum_steps=2)
    assert config.peak_lr(processes=8) == pytest.approx(0.002)
    assert replace(config, lr_base_scale="sqrt").peak_lr(processes=8) == pytest.approx(0.004)


def test_precision_names():
    assert CONFIG.precision == "32"
    assert replace(CONFIG, amp=True).precision == "bf16"
    assert replace(CONFIG, amp=True, amp_dtype="float16").precision == "fp16"


def test_resume_names_what_differs_and_lets_pass_what_does_not_change_the_result():
    recorded = asdict(resolve(CONFIG))
    free = replace(CONFIG, output="other", resume="auto", workers=3, progress="none", recovery_interval=9, data_dir="x")
    assert resume_differences(recorded, free) == []
    changed = replace(CONFIG, lr=0.2, dataset="cifar10", seed=1)
    assert resume_differences(recorded, changed) == ["dataset: digits -> cifar10", "lr: 0.1 -> 0.2", "seed: 0 -> 1"]


def test_a_run_older_than_a_field_had_its_default():
    """Records of earlier versions lack the newer fields: going on must neither be refused nor hide a difference."""
    recorded = asdict(resolve(CONFIG))
    for name in ("lr_base_size", "lr_base_scale"):
        del recorded[name]
    assert resume_differences(recorded, CONFIG) == []
    assert resume_differences(recorded, replace(CONFIG, lr_base_size=512)) == ["lr_base_size: 256 -> 512"]


def test_every_field_is_described_for_the_help():
    described = "".join(cls.__doc__ or "" for cls in TrainConfig.__mro__)
    assert [item.name for item in fields(TrainConfig) if f" {item.name}: " not in described] == []
