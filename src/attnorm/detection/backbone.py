"""Backbones: any network of timm that has features at strides 4 to 32, under a feature pyramid.

T.-Y. Lin et al., "Feature Pyramid Networks for Object Detection", arXiv 1612.03144.
"""

from collections import OrderedDict
from typing import Any, cast

import timm
import torch
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from attnorm.detection.config import DetectorConfig
from attnorm.detection.conventions import LEVELS, STRIDES
from attnorm.detection.norms import norm_layer
from attnorm.detection.transform import DIVISOR
from attnorm.errors import ConfigError, shown
from attnorm.layers.policy import freeze_norm, sync_norm
from attnorm.models import create_model
from attnorm.models.spec import parse_spec
from attnorm.models.transfer import TransferReport


class Backbone(nn.Module):
    """A network's features at strides 4, 8, 16 and 32, and the feature pyramid on them.

    Args:
        name: Of the network, as in :func:`attnorm.models.create_model`.
        config: Its `fpn_channels`, `fpn_norm` and `num_components` (finest level first) make the pyramid, its
            `frozen_stages` and `norm_policy` say how the network trains; not given means 0 and "train".
        in_chans: Image channels.
        **options: Further arguments of the network, such as `drop_path_rate`.

    Attributes:
        body: The network, made by timm with `features_only=True`.
        fpn: torchvision's pyramid.
        out_channels: Of every level, `config.fpn_channels`.
        transfer: Account of the weights that the network started from; None: random ones.

    Shape:
        (N, in_chans, H, W) -> {"0", "1", "2", "3", "pool"}, (N, out_channels, H / s, W / s) for s = 4, 8, 16, 32, 64.

    Raises:
        ConfigError: For an unknown network, one without such features, one for images of one size, or one whose stages
            cannot be frozen.
    """

    def __init__(self, name: str, config: DetectorConfig, in_chans: int = 3, **options: Any) -> None:
        super().__init__()
        self.body = _feature_network(name, in_chans, options)
        info = cast(Any, self.body).feature_info
        self.out_channels = config.fpn_channels
        self.transfer: TransferReport | None = None
        self._outputs = _outputs(name, info.reduction())
        if _is_for_one_size(name):
            _check_sizes(name, self.body, in_chans)
        self._channels_last = getattr(self.body, "output_fmt", None) == "NHWC"  # Swin Transformers and a few more
        self.fpn = _pyramid([info.channels()[i] for i in self._outputs], config)
        _apply_norm_policy(self.body, config)
        # Names, not modules: converters such as sync_norm put other modules in their places.
        self._frozen: list[str] = []
        if config.frozen_stages:
            last = info.module_name()[self._outputs[config.frozen_stages - 1]]
            self._frozen = _modules_until(name, self.body, last)
        for module in self._frozen:
            self.body.get_submodule(module).requires_grad_(False)

    def train(self, mode: bool = True) -> "Backbone":
        """Switch the mode; frozen stages stay in evaluation mode."""
        super().train(mode)
        for module in self._frozen:
            self.body.get_submodule(module).eval()
        return self

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """The levels of the pyramid, finest first."""
        features = self.body(x)
        chosen = [features[i] for i in self._outputs]
        if self._channels_last:
            chosen = [feature.permute(0, 3, 1, 2) for feature in chosen]
        return self.fpn(OrderedDict(zip(LEVELS, chosen, strict=True)))


def _feature_network(name: str, in_chans: int, options: dict[str, Any]) -> nn.Module:
    arguments = {"features_only": True, "in_chans": in_chans, **options}
    try:
        if not _is_for_one_size(name):
            return create_model(name, **arguments)
        try:
            return create_model(name, **{"strict_img_size": False, **arguments})  # Swin Transformers take it
        except TypeError:
            return create_model(name, **arguments)
    except RuntimeError as error:  # timm's, for networks that cannot give features
        raise ConfigError(f"a detector's backbone must give features; timm says of {name}: {error}") from None


def _is_for_one_size(name: str) -> bool:
    """Whether timm says so; some of these networks take other sizes all the same."""
    settings = timm.get_pretrained_cfg(parse_spec(name).name)
    return settings is not None and bool(settings.fixed_input_size)


@torch.no_grad()
def _check_sizes(name: str, network: nn.Module, in_chans: int) -> None:
    image = torch.zeros(1, in_chans, 2 * DIVISOR, 3 * DIVISOR, device=next(network.parameters()).device)
    try:
        network.eval()(image)
    except (AssertionError, RuntimeError) as error:
        raise ConfigError(
            f"a detector's backbone must take images of any size, and {name} does not ({shown(str(error))}): choose "
            "another"
        ) from None
    network.train()


def _outputs(name: str, strides: list[int]) -> list[int]:
    """Which of a network's outputs are taken: the deepest of each stride."""
    wanted = STRIDES[: len(LEVELS)]
    if not set(wanted) <= set(strides):
        raise ConfigError(
            f"a detector's backbone must have features at strides {', '.join(map(str, wanted))}; {name} has them at "
            f"{', '.join(map(str, dict.fromkeys(strides)))}: choose a network of stages, such as resnet50_an"
        )
    return [max(i for i, s in enumerate(strides) if s == stride) for stride in wanted]


def _pyramid(channels: list[int], config: DetectorConfig) -> FeaturePyramidNetwork:
    # torchvision makes the two convolutions of a level one after the other.
    components = [k for k in config.components for _ in range(2)]
    fpn = FeaturePyramidNetwork(
        channels, config.fpn_channels, LastLevelMaxPool(), norm_layer(config.fpn_norm, components)
    )
    for module in fpn.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)
    return fpn


def _apply_norm_policy(body: nn.Module, config: DetectorConfig) -> None:
    if config.norm_policy == "sync":
        sync_norm(body)
    elif config.norm_policy in ("frozen", "eval"):
        freeze_norm(body, parameters=config.norm_policy == "frozen")


def _modules_until(name: str, body: nn.Module, last: str) -> list[str]:
    """The modules that are registered up to and with `last`, feature networks being registered in order of use."""
    modules = [module for module, _ in body.named_modules()][1:]
    # timm's feature networks are flattened by one level, or keep the whole network under "model".
    last = next((x for x in (last, last.replace(".", "_", 1), f"model.{last}") if x in modules), "")
    if not last:
        raise ConfigError(f"frozen_stages must be 0 for {name}, whose stages are not modules of their own")
    return [x for x in modules[: modules.index(last) + 1] if not last.startswith(f"{x}.")]
