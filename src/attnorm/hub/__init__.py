"""Networks out of the door and in: folders in timm's layout with a model card, and the Hugging Face hub.

`attnorm.models.hub` says which names a checkpoint then has; every command takes them. Names are loaded when they are
used: the command's settings need neither torch nor timm.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attnorm.hub.folder import load, save_pretrained
    from attnorm.hub.push import push_to_hf_hub

_HOMES = {"load": "folder", "save_pretrained": "folder", "push_to_hf_hub": "push"}

__all__ = ["load", "push_to_hf_hub", "save_pretrained"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
