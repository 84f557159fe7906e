"""Attentive Normalization (Li, Sun, Wu, ECCV 2020) for today's PyTorch.

`import attnorm` gives the layers and what puts them into networks, and needs torch alone; `import attnorm.models`
registers the networks with timm. Names are loaded when they are used, so that `attnorm --help` need not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from attnorm.hub import load, push_to_hf_hub, save_pretrained
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

__version__ = "0.2.0"

__all__ = [
    "AttentiveBatchNorm1d",
    "AttentiveBatchNorm2d",
    "AttentiveBatchNorm3d",
    "AttentiveBatchNormAct2d",
    "AttentiveGroupNorm",
    "AttentiveGroupNormAct",
    "backend",
    "freeze_norm",
    "load",
    "load_released",
    "norm_report",
    "push_to_hf_hub",
    "replace_norm",
    "restore_norm",
    "save_pretrained",
    "sync_norm",
    "weight_decay_groups",
]


# These need timm, unlike the layers.
_HUB = ("load", "push_to_hf_hub", "save_pretrained")


def load_released(path: "str | Path", *, backbone_only: bool = False) -> "nn.Module":
    """Load a checkpoint that the authors of AN released; see :func:`attnorm.detection.released.load_released`.

    It needs timm and torchvision (`pip install 'attnorm[models]'`), unlike everything else that `import attnorm` gives.

    Args:
        path: The file as it was released.
        backbone_only: Leave out the classifier, or of a detector everything but the backbone.

    Returns:
        The network, or the :class:`attnorm.detection.detector.Detector`, on the CPU, in evaluation mode.

    Raises:
        CheckpointError: If the file cannot be read, or is none that the authors released.
    """
    from attnorm.extras import naming_extras

    with naming_extras("load_released"):
        from attnorm.detection.released import load_released as load

    return load(path, backbone_only=backbone_only)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'attnorm' has no attribute {name!r}")
    if name in _HUB:
        from attnorm.extras import naming_extras

        with naming_extras(f"attnorm.{name}"):
            return getattr(import_module("attnorm.hub"), name)
    return getattr(import_module("attnorm.layers"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
