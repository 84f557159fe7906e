"""The activations that the layer can apply in its own pass over x.

The backward pass needs the derivative at z = scale x + shift, which is computed again from x: nothing is saved.
"""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn


class Activation(NamedTuple):
    """An activation by name: "relu", "relu6", "silu", "hard_swish" or "leaky_relu".

    Attributes:
        name: Which.
        slope: Of leaky_relu below 0; others ignore it.
    """

    name: str
    slope: float = 0.0

    def __call__(self, z: Tensor) -> Tensor:
        """Apply it, differentiably: the definition that every fused form must equal."""
        if self.name == "leaky_relu":
            return F.leaky_relu(z, self.slope)
        return {"relu": F.relu, "relu6": F.relu6, "silu": F.silu, "hard_swish": F.hardswish}[self.name](z)


_NAMES: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.SiLU: "silu",
    nn.Hardswish: "hard_swish",
    nn.LeakyReLU: "leaky_relu",
}
FUSIBLE = tuple(_NAMES)


def activation_of(module: nn.Module) -> Activation:
    """The activation that a module of one of the FUSIBLE classes applies."""
    slope = module.negative_slope if isinstance(module, nn.LeakyReLU) else 0.0
    return Activation(_NAMES[type(module)], slope)
