"""AOGNet: a stem, then stages of AND-OR building blocks, with BatchNorm or Attentive Normalization.

The variants, at the bottom, are numbers. Sources: X. Li, X. Song, T. Wu, "AOGNets: Compositional Grammatical
Architectures for Deep Learning", CVPR 2019, arXiv 1711.05847; with AN: X. Li et al., ECCV 2020, arXiv 1908.01259.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from attnorm.layers.convert import replace_norm
from attnorm.layers.placement import Placement
from attnorm.models.aog_stage import Stage, Stem, StemType, block_widths
from attnorm.models.grammar import Graph, build_graph
from attnorm.models.placed import CIFAR, default_cfg


class AOGNet(nn.Module):
    """An AOGNet in timm's conventions. The defaults are the released 12M network.

    Args:
        widths: Channels of the stem, then of every stage.
        depths: Blocks of every stage.
        dims: Words D of every stage's graph.
        prune: Of every stage's graph, see :func:`attnorm.models.grammar.build_graph`.
        extra_node_hierarchy: Of all graphs, see there.
        strides: Of every stage.
        node_drop_rates: Probability, per stage, that a node drops a channel before its sum.
        ratio: Width of a node's bottleneck to its output's.
        stem_type: "deep", "7x7" or "cifar", see :class:`Stem`.
        in_chans: Channels of the images.
        num_classes: 0: no classifier.
        global_pool: timm's name of the pooling in front of the classifier; "": none.
        drop_rate: Dropout in front of the classifier.
        placement: Which norms become AN: "aognet", the second norm of every node that spans the whole sentence, or
            any other placement of :func:`attnorm.replace_norm`; None: all stay BatchNorm.
        num_components: K, or one K per stage; None: the placement's, which is 10 in the first two stages, then 20.
        layer_options: Further arguments of the AN layers, such as {"gate": "sigmoid"}.
        device: Of the parameters.
        dtype: Of the parameters.

    Raises:
        ValueError: If the lists do not name the same number of stages, or for a graph, a width or a name that is not
            supported.
    """

    def __init__(
        self,
        widths: Sequence[int] = (32, 128, 256, 512, 824),
        depths: Sequence[int] = (2, 2, 2, 1),
        dims: Sequence[int] = (2, 2, 4, 4),
        prune: Sequence[int] = (1, 2, 1, 2),
        extra_node_hierarchy: int = 4,
        strides: Sequence[int] = (1, 2, 2, 2),
        node_drop_rates: Sequence[float] = (0.0, 0.0, 0.1, 0.1),
        ratio: float = 0.25,
        stem_type: StemType = "deep",
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        placement: str | Placement | None = None,
        num_components: int | Sequence[int] | None = None,
        layer_options: Mapping[str, Any] | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        per_stage = {"depths": depths, "dims": dims, "prune": prune, "strides": strides}
        _check_stages(len(widths) - 1, per_stage | {"node_drop_rates": node_drop_rates})
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.in_chans = in_chans
        self.num_classes = num_classes
        self.drop_rate = drop_rate
        self.num_features = self.head_hidden_size = widths[-1]
        graphs = [build_graph(d, p, extra_node_hierarchy) for d, p in zip(dims, prune, strict=True)]
        self.stem = Stem(in_chans, widths[0], stem_type, **dd)
        reduction = self.stem.reduction
        self.feature_info = [{"num_chs": widths[0], "reduction": reduction, "module": "stem"}]
        stages: list[Stage] = []
        for s, graph in enumerate(graphs):
            c_in, c_out = widths[s : s + 2]
            steps = block_widths(c_in, c_out, depths[s], graph.dims)
            stages.append(Stage(graph, c_in, steps, strides[s], ratio, node_drop_rates[s], **dd))
            reduction *= strides[s]
            self.feature_info.append({"num_chs": c_out, "reduction": reduction, "module": f"stages.{s}"})
        self.stages = nn.Sequential(*stages)
        self.head_drop = nn.Dropout(drop_rate)
        self._set_head(num_classes, global_pool, **dd)
        _initialise_convolutions(self)
        if placement is not None:
            table = placement_of(graphs) if placement == "aognet" else placement
            replace_norm(self, table, num_components, layer_options=layer_options)

    def _set_head(self, num_classes: int, global_pool: str, **dd: Any) -> None:
        if num_classes and not global_pool:
            raise ValueError(
                f"a classifier needs pooled features; got num_classes={num_classes} with global_pool='': name a "
                "pooling, such as 'avg', or set num_classes to 0"
            )
        self.num_classes = num_classes
        self.global_pool = SelectAdaptivePool2d(pool_type=global_pool, flatten=bool(global_pool))
        features = self.num_features * self.global_pool.feat_mult()
        self.fc = nn.Linear(features, num_classes, **dd) if num_classes else nn.Identity()

    def get_classifier(self) -> nn.Module:
        """The last layer; Identity where there is no classifier."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a new classifier, 0 classes for none, and, unless None, another pooling in front of it."""
        like = next(self.stem.parameters())
        pool = self.global_pool.pool_type if global_pool is None else global_pool
        self._set_head(num_classes, pool, device=like.device, dtype=like.dtype)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute every block in the backward pass instead of storing what is inside."""
        for stage in self.stages:
            cast(Stage, stage).grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns of the parameters that share a depth, for layer-wise learning rates."""
        blocks = [(r"^stages\.(\d+)\.transition", (0,)), (r"^stages\.(\d+)\.blocks\.(\d+)", None)]
        return {"stem": r"^stem", "blocks": r"^stages\.(\d+)" if coarse else blocks}

    def forward_features(self, x: Tensor) -> Tensor:
        """Map images (N, in_chans, H, W) to (N, num_features, H // 32, W // 32) where the strides are the released."""
        return self.stages(self.stem(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Map features (N, num_features, H, W) to logits (N, num_classes), or to what the classifier would see."""
        x = self.head_drop(self.global_pool(x))
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, in_chans, H, W) to logits (N, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The outputs of the stem (index 0) and of the stages, as timm's networks give them.

        Args:
            x: Images (N, in_chans, H, W).
            indices: Which; an int n: the last n; None: all.
            norm: No network of this kind has a norm behind its stages; accepted as everywhere in timm.
            stop_early: Leave out the stages behind the last one asked for.
            output_fmt: Only "NCHW".
            intermediates_only: Leave out the last features.

        Returns:
            The last features and the list of outputs, or the list alone.

        Raises:
            ValueError: For another format.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be 'NCHW'; got {output_fmt!r}")
        taken, last = feature_take_indices(len(self.stages) + 1, indices)
        layers = [self.stem, *self.stages]
        intermediates: list[Tensor] = []
        for i, layer in enumerate(layers[: last + 1] if stop_early else layers):
            x = layer(x)
            if i in taken:
                intermediates.append(x)
        return intermediates if intermediates_only else (x, intermediates)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the stages behind the last of `indices`, and the head; `norm` as in `forward_intermediates`."""
        taken, last = feature_take_indices(len(self.stages) + 1, indices)
        self.stages = self.stages[:last]
        self.num_features = self.head_hidden_size = self.feature_info[last]["num_chs"]
        if prune_head or last < len(self.feature_info) - 1:
            self.reset_classifier(0, "")
        return taken


def placement_of(graphs: Sequence[Graph]) -> Placement:
    """Where the released networks have AN, for the graphs of any network's stages: see :class:`AOGNet`."""
    return {
        rf"stages\.{s}\.blocks\.\d+\.nodes\.({'|'.join(str(node.id) for node in graph.whole)})\.bn2": 10
        if s < 2
        else 20
        for s, graph in enumerate(graphs)
    }


def _check_stages(stages: int, per_stage: Mapping[str, Sequence[Any]]) -> None:
    for name, values in per_stage.items():
        if len(values) != stages:
            raise ValueError(
                f"{name} must have one value for each of the {stages} stages that widths name; got {tuple(values)}"
            )


def _initialise_convolutions(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


_IMAGENET = default_cfg(first_conv="stem.conv1")
_CIFAR = default_cfg(first_conv="stem.conv1", **CIFAR)
_cfgs: dict[str, Any] = {
    f"aognet_{size}{norm}": cfg
    for size, cfg in (("12m", _IMAGENET), ("40m", _IMAGENET), ("1m_cifar", _CIFAR))
    for norm in ("", "_an")
}
default_cfgs = generate_default_cfgs(_cfgs)

_40M: dict[str, Any] = {"widths": (56, 224, 448, 896, 1400), "depths": (2, 2, 3, 1)}
_1M_CIFAR: dict[str, Any] = {
    "widths": (32, 64, 128, 248),
    "depths": (1, 1, 1),
    "dims": (4, 4, 4),
    "prune": (1, 2, 1),
    "strides": (1, 2, 2),
    "node_drop_rates": (0.0, 0.0, 0.1),
    "stem_type": "cifar",
}


def _aognet(variant: str, pretrained: bool, kwargs: dict[str, Any], **defaults: Any) -> nn.Module:
    stages = len(defaults.get("widths", range(5)))
    features = {"flatten_sequential": True, "out_indices": tuple(range(stages))}
    return build_model_with_cfg(AOGNet, variant, pretrained, feature_cfg=features, **(defaults | kwargs))


@register_model
def aognet_12m(pretrained: bool = False, **kwargs: Any):
    """AOGNet-12M with BatchNorm."""
    return _aognet("aognet_12m", pretrained, kwargs)


@register_model
def aognet_12m_an(pretrained: bool = False, **kwargs: Any):
    """AOGNet-12M, AN at the second norm of every node that spans all words: the released aognet-12m-an."""
    return _aognet("aognet_12m_an", pretrained, kwargs, placement="aognet")


@register_model
def aognet_40m(pretrained: bool = False, **kwargs: Any):
    """AOGNet-40M with BatchNorm."""
    return _aognet("aognet_40m", pretrained, kwargs, **_40M)


@register_model
def aognet_40m_an(pretrained: bool = False, **kwargs: Any):
    """AOGNet-40M, AN at the second norm of every node that spans all words: the released aognet-40m-an."""
    return _aognet("aognet_40m_an", pretrained, kwargs, placement="aognet", **_40M)


@register_model
def aognet_1m_cifar(pretrained: bool = False, **kwargs: Any):
    """AOGNet-1M for 32x32 images, with BatchNorm: three stages of one block."""
    return _aognet("aognet_1m_cifar", pretrained, kwargs, **_1M_CIFAR)


@register_model
def aognet_1m_cifar_an(pretrained: bool = False, **kwargs: Any):
    """AOGNet-1M for 32x32 images, AN at the second norm of every node that spans all words.

    The attention is that of the ImageNet networks. The CIFAR network of the first PyTorch release had another: the
    instance mean alone, a projection with bias, a sigmoid; `layer_options={"gate": "sigmoid", "logit_norm": None,
    "statistic": "mean"}` builds that.
    """
    return _aognet("aognet_1m_cifar_an", pretrained, kwargs, placement="aognet", **_1M_CIFAR)
