"""Where Attentive Normalization goes: which norms of a network it replaces, and with how many components.

A placement maps regular expressions on a norm's qualified name to the number of components there, stage by stage.
The named ones are those of the released networks (for timm's and torchvision's module names); "auto" finds the
places in any network by the rule that the released ones follow.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from torch import nn
from torch.nn.modules.conv import _ConvNd  # pyright: ignore[reportPrivateUsage]

from attnorm.layers.walk import named_modules

Placement = Mapping[str, int]

_STAGES = (10, 10, 20, 20)


def _resnet(norms: str) -> Placement:
    return {rf"layer{stage}\.\d+\.{norms}": k for stage, k in enumerate(_STAGES, 1)}


def _aognet(*stages: tuple[str, int]) -> Placement:
    """Stages by the ids of the nodes, one digit each, and K."""
    return {rf"stages\.{s}\.blocks\.\d+\.nodes\.[{nodes}]\.bn2": k for s, (nodes, k) in enumerate(stages)}


def _mobilenetv2_torchvision() -> Placement:
    """One numbering for all 17 blocks; the first one has no expansion in front of the depthwise convolution."""
    stages = {5: range(2, 11), 10: range(11, 18)}
    blocks = {rf"features\.{i}\.conv\.1\.1": k for k, indices in stages.items() for i in indices}
    return {r"features\.1\.conv\.0\.1": 5, **blocks}


PLACEMENTS: dict[str, Placement] = {
    "resnet_bn1": _resnet("bn1"),
    "resnet_bn2": _resnet("bn2"),
    "resnet_bn3": _resnet("bn3"),
    "resnet_bn12": _resnet("bn[12]"),
    "resnet_bn123": _resnet("bn[123]"),
    # The stem's norms have stage 1's components, a downsample branch its stage's.
    "resnet_all": {r"bn1|conv1\.\d+": _STAGES[0], **_resnet(r"(bn[123]|downsample\.\d+)")},
    "densenet": {rf"features\.denseblock{s}\.denselayer\d+\.norm2": k for s, k in enumerate(_STAGES, 1)},
    # The norm after the depthwise convolution; the first stage's blocks have no expansion in front of it.
    "mobilenetv2": {
        r"blocks\.0\.\d+\.bn1": 5,
        **{rf"blocks\.{stage}\.\d+\.bn2": k for stage, k in enumerate((5, 5, 5, 10, 10, 10), 1)},
    },
    "mobilenetv2_torchvision": _mobilenetv2_torchvision(),
    # The nodes that span all words: the root, its terminal and the ANDs below it.
    "aognet": _aognet(("012", 10), ("012", 10), ("0123", 20), ("0123", 20)),
    "aognet_cifar": _aognet(("0123", 10), ("0123", 10), ("0123", 20)),
}

# What "auto" tries by name first: families for which its own rule would find other places than the released ones.
_FAMILIES = ("densenet", "mobilenetv2", "mobilenetv2_torchvision", "aognet", "aognet_cifar")


def choose(
    norms: Sequence[str], model: nn.Module, placement: str | Placement, num_components: int | Sequence[int] | None
) -> dict[str, int]:
    """Choose norms to replace.

    Args:
        norms: Qualified names of all norms of the model, in order.
        model: The network they are in.
        placement: A name of `PLACEMENTS`, "auto", or a mapping from regular expressions to K.
        num_components: K everywhere, or one K per stage; None: the placement's own.

    Returns:
        The chosen norms' names with their K.

    Raises:
        ValueError: For an unknown placement, one that matches no norm, or a wrong number of stages.
    """
    if isinstance(placement, str) and placement not in PLACEMENTS and placement != "auto":
        raise ValueError(f"placement must be 'auto', a mapping, or one of {', '.join(PLACEMENTS)}; got {placement!r}")
    if placement == "auto":
        stages = _automatic(norms, model)
    else:
        table = PLACEMENTS[placement] if isinstance(placement, str) else placement
        stages = _match(norms, table)
    stages = [(names, k) for names, k in stages if names]
    if not stages:
        shown = ", ".join(norms[:5]) + (", ..." if len(norms) > 5 else "")
        raise ValueError(
            f"placement {placement!r} must match at least one norm; the network has {len(norms)} ({shown}): name "
            "them by a mapping from regular expressions to numbers of components"
        )
    if isinstance(num_components, int):
        stages = [(names, num_components) for names, _ in stages]
    elif num_components is not None:
        if len(num_components) < len(stages):
            raise ValueError(
                f"num_components needs one number for each of the {len(stages)} stages; got {tuple(num_components)}"
            )
        stages = [(names, k) for (names, _), k in zip(stages, num_components, strict=False)]
    return {name: k for names, k in stages for name in names}


def _match(norms: Sequence[str], table: Placement) -> list[tuple[list[str], int]]:
    return [([name for name in norms if re.fullmatch(pattern, name)], k) for pattern, k in table.items()]


def _automatic(norms: Sequence[str], model: nn.Module) -> list[tuple[list[str], int]]:
    for family in _FAMILIES:
        stages = _match(norms, PLACEMENTS[family])
        if all(names for names, _ in stages):
            return stages
    widths: dict[int, list[str]] = {}
    for name, channels in norms_after_spatial_convolutions(model, set(norms)):
        widths.setdefault(channels, []).append(name)
    # The released networks' 10, 10, 20, 20: twice the components from four times the first width on.
    narrow = 4 * min(widths, default=0)
    return [(names, 10 if channels < narrow else 20) for channels, names in sorted(widths.items())]


def norms_after_spatial_convolutions(model: nn.Module, norms: set[str]) -> Iterator[tuple[str, int]]:
    """The first norm behind a spatial convolution in every repeated block, with its number of channels.

    That is the norm after a bottleneck's 3x3 convolution, the first of a basic block, the one after the depthwise
    convolution of an inverted residual. A block is repeated if its class occurs at least twice, and is a block if it
    holds two convolutions or more. Modules are taken in the order in which they were registered.
    """
    blocks = _repeated_blocks(model)
    done: set[str] = set()
    last: dict[str, nn.Module] = {}
    for name, module in named_modules(model):
        block = _innermost(name, blocks)
        if block is None or block in done:
            continue
        if isinstance(module, _ConvNd):
            last[block] = module
        elif name in norms and block in last:
            convolution = last[block]
            assert isinstance(convolution, _ConvNd)
            if max(convolution.kernel_size) > 1:
                done.add(block)
                yield name, convolution.out_channels


def _repeated_blocks(model: nn.Module) -> set[str]:
    def is_block(name: str, module: nn.Module) -> bool:
        if not name or isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
            return False
        return sum(isinstance(m, _ConvNd) for _, m in named_modules(module)) >= 2

    candidates = {name: type(module) for name, module in named_modules(model) if is_block(name, module)}
    counts = Counter(candidates.values())
    return {name for name, kind in candidates.items() if counts[kind] >= 2}


def _innermost(name: str, blocks: set[str]) -> str | None:
    while "." in name:
        name = name.rpartition(".")[0]
        if name in blocks:
            return name
    return None
