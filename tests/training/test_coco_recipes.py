"""configs/coco against the table that the authors published (reference 7.3) and their schedules (5.1 to 5.5)."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from attnorm.detection.published import results
from attnorm.options import parse_settings
from attnorm.training.checks import check_recipe
from attnorm.training.config import TrainConfig

CONFIGS = Path(__file__).parents[2] / "configs" / "coco"
# file -> box AP, mask AP, millions of parameters, norms of FPN, box head and mask head
MASK = {
    "mask_rcnn_resnet50_fpn": (39.2, 35.2, 45.71, "none none none"),
    "mask_rcnn_resnet50_an_fpn": (40.8, 36.4, 45.91, "none none none"),
    "mask_rcnn_resnet50_gn_fpn": (40.3, 35.7, 45.72, "gn gn gn"),
    "mask_rcnn_resnet50_an_fpn_an_gn": (41.6, 37.4, 45.96, "gn an_gn gn"),
    "mask_rcnn_resnet101_fpn": (41.4, 36.8, 64.70, "none none none"),
    "mask_rcnn_resnet101_an_fpn": (43.1, 38.2, 65.15, "none none none"),
    "mask_rcnn_resnet101_gn_fpn": (41.8, 36.8, 64.71, "gn gn gn"),
    "mask_rcnn_resnet101_an_fpn_an_gn": (43.2, 38.8, 65.20, "gn an_gn gn"),
    "mask_rcnn_aognet_12m_fpn": (40.7, 36.4, 33.09, "none none none"),
    "mask_rcnn_aognet_12m_an_fpn": (42.0, 37.8, 33.21, "none none none"),
    "mask_rcnn_aognet_12m_an_fpn_an_gn": (43.0, 38.7, 33.26, "gn an_gn gn"),
    "mask_rcnn_aognet_40m_fpn": (43.4, 38.5, 60.73, "none none none"),
    "mask_rcnn_aognet_40m_an_fpn": (44.1, 39.0, 60.97, "none none none"),
    "mask_rcnn_aognet_40m_an_fpn_an_gn": (44.9, 40.2, 61.02, "gn an_gn gn"),
}
CASCADE = {
    "cascade_mask_rcnn_resnet101_fpn": (44.4, 38.2, 96.32),
    "cascade_mask_rcnn_resnet101_an_fpn": (45.8, 39.6, 96.77),
    "cascade_mask_rcnn_aognet_40m_fpn": (45.6, 39.3, 92.35),
    "cascade_mask_rcnn_aognet_40m_an_fpn": (46.5, 40.0, 92.58),
}
REFACTORED = {
    "refactored_mask_rcnn_resnet50_fpn": (39.2, 35.4),
    "refactored_mask_rcnn_resnet50_an_fpn": (41.5, 36.8),
}


def read(name: str) -> TrainConfig:
    arguments = ["--config", str(CONFIGS / f"{name}.yaml"), "--data-dir", "x", "--output", "y"]
    config = parse_settings(TrainConfig, arguments, command="attnorm train", recipe=True)
    check_recipe(config)
    return config


def header(name: str) -> str:
    lines = (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    return " ".join(line[1:].strip() for line in lines if line.startswith("#"))


def test_there_is_a_recipe_for_every_published_row_and_no_other():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == {*MASK, *CASCADE, *REFACTORED}


@pytest.mark.parametrize("name", [*MASK, *CASCADE])
def test_a_recipe_of_the_first_release(name):
    box, mask, millions, *norms = {**MASK, **CASCADE}[name]
    config = read(name)
    assert config.model == name.removesuffix("_an_gn")
    detector = config.detector
    assert (detector.conventions, detector.frozen_stages, detector.norm_policy) == ("v1", 1, "eval")
    assert (detector.min_sizes, detector.max_size, detector.anchor_scale) == ((800,), 1333, 8)
    assert (detector.train_proposals, detector.test_proposals) == (2000, 1000)
    assert (detector.rpn_samples, detector.box_samples) == (256, 512)
    assert (detector.score_threshold, detector.nms_threshold, detector.max_detections) == (0.05, 0.5, 100)
    if norms:
        assert " ".join((detector.fpn_norm, detector.box_norm, detector.mask_norm)) == norms[0]
        assert detector.components == (10, 10, 20, 20)
    assert detector.box_head == ("4conv1fc" if name in MASK else "2fc")
    assert (config.epochs, tuple(config.decay_milestones)) == ((24, (16, 22)) if name in MASK else (20, (16, 19)))
    assert config.clip_grad == 35
    assert config.warmup_lr == pytest.approx(0.02 / 3, abs=1e-9)
    _check_schedule(config)
    for expected in (f"box AP {box}", f"mask AP {mask}", f"{millions:g} M parameters"):
        assert expected in header(name)


@pytest.mark.parametrize("name", REFACTORED)
def test_a_recipe_of_the_second_release(name):
    box, mask = REFACTORED[name]
    config = read(name)
    assert f"refactored_{config.model}" == name
    assert (config.detector.conventions, config.detector.box_head, config.detector.box_beta) == (
        "modern",
        "4conv1fc",
        0,
    )
    assert (config.epochs, tuple(config.decay_milestones), config.clip_grad) == (24, (16, 22), None)
    assert config.warmup_lr == pytest.approx(0.02 / 1000)
    _check_schedule(config)
    assert f"box AP {box}, mask AP {mask} " in header(name)


def _check_schedule(config: TrainConfig) -> None:
    assert (config.opt, config.momentum, config.weight_decay, config.decay_norm) == ("sgd", 0.9, 1e-4, "all")
    assert (config.sched, config.decay_rate, config.warmup_iters) == ("multistep", 0.1, 500)
    assert config.batch_size == 2
    assert config.peak_lr(processes=8) == pytest.approx(0.02)
    assert replace(config, grad_accum_steps=8).peak_lr(processes=1) == pytest.approx(0.02)
    assert (config.dataset, config.coco.augment, config.coco.bad_annotations) == ("coco", "flip", "skip")


@pytest.mark.parametrize("name", [*MASK, *CASCADE, *REFACTORED])
def test_the_expected_numbers_are_those_that_eval_shows(name):
    """configs/coco and detection/published.json were typed from the same table; they must say the same."""
    config = read(name)
    if "_gn_fpn" in name:  # another group's, which published.json leaves out
        assert not results(config.model, config.detector)
        return
    shown = {(row.box_AP, row.mask_AP) for row in results(config.model, config.detector)}
    assert {**{k: v[:2] for k, v in {**MASK, **CASCADE}.items()}, **REFACTORED}[name] in shown


def test_every_file_is_plain_yaml_with_known_sections():
    for path in CONFIGS.glob("*.yaml"):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert {"model", "dataset", "coco", "detector"} <= set(content)
