from dataclasses import asdict, fields, replace

import pytest

from attnorm.data.coco_config import CocoConfig
from attnorm.detection.config import DetectorConfig
from attnorm.errors import ConfigError
from attnorm.training.checks import check_peak, check_recipe
from attnorm.training.config import TrainConfig, recorded, resolve, resume_differences

CONFIG = TrainConfig(model="resnet8_cifar", output="out")
DETECTOR = TrainConfig(model="mask_rcnn_resnet18_fpn", dataset="shapes", output="out")

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
    "warmup_iters must not be negative": {"warmup_iters": -1},
    "warmup_epochs and warmup_iters exclude": {"warmup_epochs": 1.0, "warmup_iters": 500},
    "decay_milestones must be epochs in ascending order": {"sched": "multistep"},
    "in ascending order": {"sched": "multistep", "decay_milestones": (3, 2)},
    "decay_milestones must be less than epochs .3.": {"sched": "multistep", "decay_milestones": (3,), "epochs": 3},
    "decay_rate must be above 0": {"sched": "multistep", "decay_milestones": (3,), "decay_rate": 1.0},
    "min_lr belongs to sched cosine": {"sched": "multistep", "decay_milestones": (3,), "min_lr": 0.01},
    "belong to sched multistep": {"decay_milestones": (3,)},
    "pretrained and initial_checkpoint exclude": {"pretrained": True, "initial_checkpoint": "x.safetensors"},
    "dataset coco has boxes and needs a detector": {"dataset": "coco"},
    r"detector\.\* is for detectors": {"detector": DetectorConfig(min_size=64)},
    r"coco\.\* is for detectors": {"coco": CocoConfig(augment="lsj")},
    "nesterov": {"nesterov": True, "opt": "adamw"},
    "weight_decay must be a finite": {"weight_decay": float("nan")},
    "lr must be a finite": {"lr": float("inf")},
}


@pytest.mark.parametrize(("name", "changes"), WRONG.items(), ids=WRONG)
def test_contradictions_are_refused_by_name(name, changes):
    with pytest.raises(ConfigError, match=name):
        check_recipe(replace(CONFIG, **changes))


NOT_FOR_DETECTORS = {
    "num_classes": 4,
    "in_chans": 1,
    "val_split": "val",
    "augment": "flip",
    "interpolation": "bicubic",
    "crop_pct": 0.9,
    "init": "released",
    "drop": 0.1,
    "mixup": 0.2,
    "cutmix": 1.0,
    "smoothing": 0.1,
    "sync_bn": True,
    "strategy": "fsdp",
    "torchcompile": True,
}


@pytest.mark.parametrize(("name", "value"), NOT_FOR_DETECTORS.items(), ids=NOT_FOR_DETECTORS)
def test_what_detectors_have_no_use_for_is_refused(name, value):
    with pytest.raises(ConfigError, match=f"{name} is not for detectors .*; got .* with mask_rcnn_resnet18_fpn"):
        check_recipe(replace(DETECTOR, **{name: value}))


def test_detectors_and_data_of_boxes_go_together():
    with pytest.raises(ConfigError, match="is a detector and needs dataset coco or shapes; got dataset digits"):
        check_recipe(replace(DETECTOR, dataset="digits"))
    with pytest.raises(ConfigError, match="image_size is not for dataset coco"):
        check_recipe(replace(DETECTOR, dataset="coco", image_size=512))
    with pytest.raises(ConfigError, match="a detector must be named"):
        check_recipe(replace(DETECTOR, model="mask_rcnn_resnet18"))


def test_defaults_are_accepted():
    for config in (CONFIG, DETECTOR):
        check_recipe(config)
        check_recipe(resolve(config))


def test_defaults_of_a_detector():
    """Two images a process, 0.02 for 16 of them: 8 processes have the published rate, one has an eighth of it."""
    config = resolve(DETECTOR)
    assert (config.batch_size, config.lr, config.lr_base, config.lr_base_size) == (2, None, 0.02, 16)
    assert DETECTOR.peak_lr(8) == config.peak_lr(8) == 0.02
    assert config.peak_lr() == 0.0025
    assert (resolve(CONFIG).batch_size, resolve(CONFIG).lr) == (128, 0.1)
    assert (config.detector.frozen_stages, config.detector.norm_policy) == (0, "train")
    assert resolve(replace(DETECTOR, pretrained=True)).detector.norm_policy == "eval"


def test_a_warm_up_in_steps_has_no_length_in_epochs():
    config = resolve(replace(CONFIG, warmup_iters=500))
    assert (config.warmup_iters, config.warmup_epochs) == (500, None)


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


def test_the_peak_is_checked_for_the_processes_that_there_are():
    """A warm-up that starts at a third of the rate of eight processes starts above that of one."""
    config = replace(CONFIG, lr_base=0.02, lr_base_size=16, batch_size=2, warmup_lr=0.0066)
    check_recipe(config)
    check_peak(config, 8)
    check_peak(replace(config, grad_accum_steps=8), 1)
    with pytest.raises(ConfigError, match=r"warmup_lr must not be above .* 0\.0025 for 2 images per step; got 0\.0066"):
        check_peak(config, 1)


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


def test_resume_names_fields_of_sections():
    before = recorded(resolve(DETECTOR))
    assert resume_differences(before, DETECTOR) == []
    other = replace(DETECTOR, detector=DetectorConfig(min_size=(64, 96)), coco=CocoConfig(augment="none"))
    assert resume_differences(before, other) == [
        "coco.augment: flip -> none",
        "detector.min_size: 800 -> [64, 96]",
    ]
    del before["detector"]["box_samples"], before["coco"]["jitter_size"]  # a run older than these
    assert resume_differences(before, DETECTOR) == []


def test_files_of_classification_have_no_sections_of_detection():
    assert not {"detector", "coco"} & recorded(CONFIG).keys()
    assert recorded(DETECTOR)["detector"]["num_components"] == [10, 10, 20, 20]


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
