"""Which ratios are reported, and what this project promises about them on a CPU of two cores."""

from dataclasses import dataclass

# key: (numerator, denominator, phase); phase None is the whole training step.
LAYER_RATIOS: dict[str, tuple[str, str, str | None]] = {
    "an_bn_train": ("AN", "BN", None),
    "an_bn_relu_train": ("AN+ReLU", "BN+ReLU", None),
    "an_bn_eval": ("AN", "BN", "eval"),
    "an_bn_relu_eval": ("AN+ReLU", "BN+ReLU", "eval"),
    "released_an_train": ("released AN", "AN", None),
    "released_an_eval": ("released AN", "AN", "eval"),
}
NETWORK_RATIOS = {
    "an_bn_train": ("resnet50_an", "resnet50"),
    "se_an_train": ("seresnet50", "resnet50_an"),
    "an_bn_eval": ("resnet50_an", "resnet50"),
    "se_an_eval": ("seresnet50", "resnet50_an"),
}


@dataclass(frozen=True)
class Target:
    """A bound on a ratio.

    Attributes:
        bound: The number.
        at_least: Whether the ratio must be at least that; otherwise at most.
    """

    bound: float
    at_least: bool = False

    def met(self, ratio: float) -> bool:
        """Whether a measured ratio keeps the bound."""
        return ratio >= self.bound if self.at_least else ratio <= self.bound

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.bound:g}"


def _row(train: float, relu: float, evaluate: float, released: float) -> dict[str, Target]:
    return {
        "an_bn_train": Target(train),
        "an_bn_relu_train": Target(relu),
        "an_bn_eval": Target(evaluate),
        "released_an_train": Target(released, at_least=True),
    }


# By (shape, layout); float32, batch 32, two cores.
LAYER_TARGETS: dict[tuple[str, str], dict[str, Target]] = {
    ("64x56x56", "NCHW"): _row(0.7, 0.7, 1.8, 5),
    ("128x28x28", "NCHW"): _row(0.9, 0.9, 1.9, 4),
    ("256x14x14", "NCHW"): _row(1.0, 1.0, 3, 4.5),
    ("512x7x7", "NCHW"): _row(1.3, 1.2, 4, 4),
    ("64x56x56", "channels_last"): _row(1.1, 1.0, 2.2, 7),
    ("128x28x28", "channels_last"): _row(1.5, 1.3, 2, 6),
    ("256x14x14", "channels_last"): _row(2.0, 1.6, 2, 5),
    ("512x7x7", "channels_last"): _row(2.2, 1.8, 2.2, 5),
}
NETWORK_TARGETS = {
    "an_bn_train": Target(1.02),
    "an_bn_eval": Target(1.02),
    "se_an_train": Target(1.08, at_least=True),
    "saved_an_bn": Target(1.01),
}
# By (first network of the row, ratio); plain: AOGNet over an evaluation of its graphs node by node.
FAMILY_TARGETS = {
    ("mobilenetv2_100", "an_bn_train"): Target(1.03),
    ("densenet121", "an_bn_train"): Target(1.03),
    ("aognet_12m_an", "plain_train"): Target(1.0),
    ("aognet_12m_an", "plain_eval"): Target(1.0),
}
# Mask R-CNN ResNet-50 FPN: AN over BatchNorm, and over torchvision's detector built alike.
DETECTOR_TARGETS = {
    **{f"an_bn_{kind}": Target(1.03) for kind in ("train", "fine_tune", "eval")},
    **{f"an_torchvision_{kind}": Target(1.02) for kind in ("train", "eval")},
}
# bfloat16, channels_last, batch 256.
GPU_TARGETS = {
    "an_bn_train": Target(1.05),
    "an_bn_relu_train": Target(0.95),
    "share": Target(0.8, at_least=True),
    "network_train": Target(1.02),
    "network_eval": Target(1.03),
    "joules": Target(1.02),
}
