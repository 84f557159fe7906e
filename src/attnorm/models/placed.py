"""What the families with Attentive Normalization share: networks of timm in which a placement puts it."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from attnorm.layers.convert import replace_norm


class Placed(nn.Module):
    """Mixed into a network's class, in front of it: AN at the norms that a placement names.

    The network is built and initialised with its plain norms first, so that whatever its initialisation does to
    BatchNorm needs to know nothing of AN.

    Args:
        *args: Those of the network.
        placement: Which norms become AN, a name in `attnorm.layers.placement.PLACEMENTS` or a mapping from regular
            expressions on qualified names to K; None: all stay as they are.
        num_components: K, or one K per stage; None: the placement's.
        layer_options: Further arguments of the AN layers, such as {"gate": "sigmoid"}.
        **kwargs: Those of the network.
    """

    def __init__(
        self,
        *args: Any,
        placement: str | Mapping[str, int] | None = None,
        num_components: int | Sequence[int] | None = None,
        layer_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if placement is not None:
            replace_norm(self, placement, num_components, layer_options=layer_options)


def default_cfg(**kwargs: Any) -> dict[str, Any]:
    """What timm wants to know of a network: no weights of it are published in timm's format."""
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.875,
        "interpolation": "bilinear",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "first_conv": "conv1",
        "classifier": "fc",
        **kwargs,
    }


# Of CIFAR-10, for networks whose images are so small.
CIFAR: dict[str, Any] = {
    "num_classes": 10,
    "input_size": (3, 32, 32),
    "pool_size": (8, 8),
    "crop_pct": 1.0,
    "mean": (0.4914, 0.4822, 0.4465),
    "std": (0.2470, 0.2435, 0.2616),
}
