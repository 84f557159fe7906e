"""Object detection and instance segmentation with Attentive Normalization, built of torchvision's parts.

Names are loaded when they are used: the command line reads the settings without waiting for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from attnorm.extras import naming_extras

if TYPE_CHECKING:
    from attnorm.detection.create import create_detector
    from attnorm.detection.torchvision_weights import from_torchvision

__all__ = ["create_detector", "from_torchvision"]

_MODULES = {"create_detector": "create", "from_torchvision": "torchvision_weights"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'attnorm.detection' has no attribute {name!r}")
    with naming_extras(f"{__name__}.{name}"):
        return getattr(import_module(f"attnorm.detection.{_MODULES[name]}"), name)
