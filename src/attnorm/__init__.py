"""Attentive Normalization (Li, Sun, Wu, ECCV 2020) for today's PyTorch.

`import attnorm` gives the layers and needs torch alone; `import attnorm.models` registers the networks with timm.
"""

from attnorm.layers import (
    AttentiveBatchNorm1d,
    AttentiveBatchNorm2d,
    AttentiveBatchNorm3d,
    AttentiveBatchNormAct2d,
    AttentiveGroupNorm,
    AttentiveGroupNormAct,
    backend,
    freeze_norm,
    norm_report,
    replace_norm,
    restore_norm,
    sync_norm,
    weight_decay_groups,
)

__version__ = "0.1.0"

__all__ = [
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
