"""Attentive Normalization layers and what puts them into a network. Imports torch and nothing else."""

from attnorm.layers.backend import backend
from attnorm.layers.convert import norm_report, replace_norm
from attnorm.layers.norm import (
    AttentiveBatchNorm1d,
    AttentiveBatchNorm2d,
    AttentiveBatchNorm3d,
    AttentiveGroupNorm,
)
from attnorm.layers.norm_act import AttentiveBatchNormAct2d, AttentiveGroupNormAct
from attnorm.layers.placement import PLACEMENTS
from attnorm.layers.policy import freeze_norm, sync_norm, weight_decay_groups
from attnorm.layers.restore import restore_norm

__all__ = [
    "PLACEMENTS",
    "AttentiveBatchNorm1d",
    "AttentiveBatchNorm2d",
    "AttentiveBatchNorm3d",
    "AttentiveBatchNormAct2d",
    "AttentiveGroupNorm",
    "AttentiveGroupNormAct",
    "backend",
    "freeze_norm",
    "norm_report",
    "replace_norm",
    "restore_norm",
    "sync_norm",
    "weight_decay_groups",
]
