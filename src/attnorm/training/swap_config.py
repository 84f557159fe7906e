"""Settings of `attnorm swap`. Imports nothing heavy."""

from dataclasses import dataclass
from typing import Literal

from attnorm.detection.config import is_detector, split_name
from attnorm.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class SwapConfig:
    """A trained network with AN in place of norms, which computes what it did: to be fine-tuned.

    The command checks that itself, on random images, in evaluation and in training mode, and writes nothing where the
    outputs differ.

    Args:
        model: network of timm, by name or name and tag (resnet50.a1_in1k), or of torchvision (torchvision:resnet50),
            whose published weights are taken unless weights names others. Not needed for a checkpoint of this package.
        weights: checkpoint of `attnorm train`, the name of a trained network that `attnorm models` lists, or in timm's
            layout local-dir:FOLDER or hf-hub:USER/NAME; or, with model, any file of weights of that network (.pth, .pt,
            .safetensors; a pickle is read as data).
        output: .safetensors file to write, a checkpoint for `attnorm eval`, `predict` and `train --initial-checkpoint`.
        placement: which norms become AN: auto or a name of attnorm.layers.placement.PLACEMENTS.
        num_components: K, one number, or one for each stage of the placement such as 10-10-20-20; the placement's own
            when not given.
        gate: of the attention: hard_sigmoid, sigmoid or softmax; the paper's, the first one, when not given.
        num_classes: classes of the network; those of the weights when not given. Another number than the published
            weights' gives a new classifier.
        in_chans: image channels of the network; those of the weights when not given.
        seed: decides how the components differ from each other.
        json: also write what was done and how far the outputs differ to this file.
    """

    model: str | None = None
    weights: str | None = None
    output: str
    placement: str = "auto"
    num_components: str | None = None
    gate: Literal["hard_sigmoid", "sigmoid", "softmax"] | None = None
    num_classes: int | None = None
    in_chans: int | None = None
    seed: int = 0
    json: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.model is None and self.weights is None:
            raise ConfigError("model must name a network, or weights a checkpoint of `attnorm train`; got neither")
        if not self.output.endswith(".safetensors"):
            raise ConfigError(f"output must end in .safetensors, as all checkpoints; got {self.output}")
        for name in ("num_classes", "in_chans"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1; got {value}")
        if self.model is not None and is_detector(self.model):
            refuse_detector(self.model)

    def named(self, network: str, norm: str) -> str:
        """The name of a network with the AN that is asked for.

        Args:
            network: without options.
            norm: "an", or "an_gn" for AN on GroupNorm.
        """
        options = {
            "norm": norm,
            "placement": None if self.placement == "auto" else self.placement,
            "num_components": self.num_components,
            "gate": self.gate,
        }
        return ":".join([network, *(f"{name}={value}" for name, value in options.items() if value is not None)])


def refuse_detector(name: str) -> None:
    """Says what to do for a detector.

    Raises:
        ConfigError: always.
    """
    kind, backbone = split_name(name)
    raise ConfigError(
        f"swap makes AN of classification networks, and {name} is a detector: swap its backbone, `attnorm swap --model "
        f"{backbone} --output B.safetensors`, then `attnorm train --model {kind}_{backbone}_fpn:norm=an "
        "--initial-checkpoint B.safetensors`"
    )
