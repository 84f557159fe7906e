"""How the authors' code calls the entries of each network's state dict, in both of its forms.

    "aognet-v2"      first release, 2019; the backbones of its detectors ("attentivenorm-detection") are called so too
    "ivmcl-release"  second release, 2020; its detectors' backbones likewise

Every rule maps the name of one of our modules to theirs. In all networks the entries correspond one to one, and in
the same order, except that the second release has SE at the end of a block.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

from attnorm.errors import CheckpointError

Scheme = Literal["aognet-v2", "ivmcl-release"]
SCHEMES: tuple[Scheme, ...] = ("aognet-v2", "ivmcl-release")

# A pattern for the whole name of our module -> theirs: a template, or a function of the match.
# NORM stands for "bn", or "AttnBN2d" where the norm is AN.
Rules = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]

# AN's entries below its module; BRANCH is "attention_weights" in the first release, "attn_weights" in the second.
_AN_ENTRIES = {
    "weight": "weight_",
    "bias": "bias_",
    "running_mean": "running_mean",
    "running_var": "running_var",
    "num_batches_tracked": "num_batches_tracked",
    "attention.logits.weight": "BRANCH.attention.0.weight",
    **{
        f"attention.logits.norm.{entry}": f"BRANCH.attention.1.{entry}"
        for entry in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    },
}

_BLOCK = r"layer\d\.\d+\."
_SAME = (rf"fc|{_BLOCK}(?:conv\d|downsample\.\d)", r"\g<0>")
_RESNET_2: Rules = [_SAME, (rf"({_BLOCK})bn(\d)", r"\1NORM\2")]


def _se(number: str) -> Rules:
    """SE behind one norm of a block is "se", behind each of three "se1" to "se3"."""
    layers = [(rf"({_BLOCK})bn(\d)\.se\.fc{i}", rf"\1se{number}.fc.{j}") for i, j in ((1, 0), (2, 2))]
    return [("conv1|bn1", r"\g<0>"), (rf"({_BLOCK}bn\d)\.norm", r"\1"), *layers, *_RESNET_2]


# timm has a place for a pool in front of every downsample branch, the authors only where it pools.
_V1D_FIRST = [(rf"layer1\.0\.downsample\.{i + 1}", f"layer1.0.downsample.{i}") for i in (0, 1)]

_FIRST_BLOCK = {"conv_dw": "0.0", "bn1": "0.1", "conv_pw": "1", "bn2": "2"}
_OTHER_BLOCKS = {"conv_pw": "0.0", "bn1": "0.1", "conv_dw": "1.0", "bn2": "1.1", "conv_pwl": "2", "bn3": "3"}


def _mobilenetv2(stem: str, block: Callable[[int, int], str], head: str) -> Rules:
    """MobileNetV2; `block` names block i of stage s."""
    depths = (1, 2, 3, 4, 3, 3, 1)
    blocks = [(s, i) for s, depth in enumerate(depths) for i in range(depth)]
    return [
        ("conv_stem", f"{stem}.0"),
        ("bn1", f"{stem}.1"),
        *(
            (rf"blocks\.{s}\.{i}\.{ours}", f"{block(s, i)}.conv.{theirs}")
            for s, i in blocks
            for ours, theirs in (_FIRST_BLOCK if s == 0 else _OTHER_BLOCKS).items()
        ),
        ("conv_head", f"{head}.0"),
        ("bn2", f"{head}.1"),
        ("classifier", "classifier.1"),
    ]


_NODE = r"stages\.(\d)\.blocks\.(\d)\.nodes\.(\d+)\."
_NODE_1 = r"stage\1.stage_\1_block_\2.stage_\1_block_\2_node_\3_op."
_DENSE = r"features\.denseblock(\d)\.denselayer(\d+)\."


def _block_2(match: re.Match[str]) -> str:
    """The second release counts stages and blocks from 1, and transitions among the blocks."""
    return f"layer{int(match[1]) + 1}.{2 * int(match[2]) + 1}."


def _node_2(match: re.Match[str]) -> str:
    return _block_2(match) + f"stage_{int(match[1]) + 1}_block_{int(match[2]) + 1}_node_{match[3]}_op."


_RULES: dict[tuple[str, Scheme], Rules] = {
    ("resnet", "aognet-v2"): [("conv1|bn1", r"\g<0>"), (rf"{_BLOCK}bn\d", r"\g<0>"), _SAME],
    ("resnet", "ivmcl-release"): [("conv1", r"\g<0>"), (r"bn1", "NORM1"), *_RESNET_2],
    ("resnet_se", "ivmcl-release"): _se(""),
    ("resnet_se123", "ivmcl-release"): _se(r"\2"),
    ("resnetv1d", "aognet-v2"): [*_V1D_FIRST, (rf"conv1\.\d|bn1|{_BLOCK}bn\d", r"\g<0>"), _SAME],
    ("resnetv1d", "ivmcl-release"): [*_V1D_FIRST, (r"conv1\.(\d)", r"stem.\1"), ("bn1", "stem.7"), *_RESNET_2],
    ("mobilenetv2", "aognet-v2"): _mobilenetv2(
        "features.0", lambda s, i: f"features.{(1, 2, 4, 7, 11, 14, 17)[s] + i}", "features.18"
    ),
    ("mobilenetv2", "ivmcl-release"): _mobilenetv2("stem", lambda s, i: f"layer{s + 1}.{i}", "layer7.1"),
    ("densenet", "ivmcl-release"): [
        (r"features\.conv0", "stem.conv1.conv"),
        (r"features\.norm0", "stem.conv1.bn"),
        (rf"{_DENSE}conv(\d)", r"layer\1.0.denselayer\2.conv\3"),
        (rf"{_DENSE}norm(\d)", r"layer\1.0.denselayer\2.NORM\3"),
        (r"features\.transition(\d)\.norm", r"layer\1.1.bn"),
        (r"features\.transition(\d)\.conv", r"layer\1.1.conv"),
        (r"features\.norm5", "layer4.1"),
        ("classifier", "classifier"),
    ],
    ("aognet", "aognet-v2"): [
        (r"stem\.conv(\d)", lambda m: f"stem.{int(m[1]) - 1}.conv_norm.conv_norm.0"),
        (r"stem\.bn(\d)", lambda m: f"stem.{int(m[1]) - 1}.conv_norm.conv_norm.1"),
        (r"stages\.(\d)\.transition\.conv", r"stage\1.stage_\1_block_0_transition.0.conv_norm.conv_norm.0"),
        (r"stages\.(\d)\.transition\.bn", r"stage\1.stage_\1_block_0_transition.0.conv_norm.conv_norm.1"),
        (_NODE + r"conv([12])", _NODE_1 + r"conv_norm_ac_\4.conv_norm.conv_norm.0"),
        (_NODE + r"bn([12])", _NODE_1 + r"conv_norm_ac_\4.conv_norm.conv_norm.1"),
        (_NODE + r"conv3", _NODE_1 + r"conv_norm_3.conv_norm.0"),
        (_NODE + r"bn3", _NODE_1 + r"conv_norm_3.conv_norm.1"),
        (_NODE + r"shortcut\.([01])", _NODE_1 + r"shortcut.conv_norm.\4"),
        (r"stages\.(\d)\.blocks\.(\d)\.bn", r"stage\1.stage_\1_block_\2.extra_norm_ac.0"),
        ("fc", "fc"),
    ],
    ("aognet", "ivmcl-release"): [
        (r"stem\.(conv|bn)(\d)", lambda m: f"stem.conv1.{int(m[2]) - 1}.{m[1]}"),
        (r"stages\.(\d)\.transition\.(conv|bn)", lambda m: f"layer{int(m[1]) + 1}.0.transition.0.{m[2]}"),
        (_NODE + r"conv(\d)", lambda m: f"{_node_2(m)}conv{m[4]}"),
        (_NODE + r"bn(\d)", lambda m: f"{_node_2(m)}NORM{m[4]}"),
        (_NODE + r"shortcut\.0", lambda m: f"{_node_2(m)}downsample.conv"),
        (_NODE + r"shortcut\.1", lambda m: f"{_node_2(m)}downsample.bn"),
        (r"stages\.(\d)\.blocks\.(\d)\.bn", lambda m: f"{_block_2(m)}extra_norm_ac.0"),
        ("fc", "fc"),
    ],
}

# A key that only this family's networks have, in our names.
_FAMILIES = {
    "resnet_se123": r"layer1\.0\.bn1\.se\..*",
    "resnet_se": r"layer1\.0\.bn\d\.se\..*",
    "resnetv1d": r"conv1\.6\.weight",
    "resnet": r"layer1\.0\.conv1\.weight",
    "mobilenetv2": r"blocks\.0\.0\.conv_dw\.weight",
    "densenet": r"features\.denseblock1\..*",
    "aognet": r"stages\.0\.blocks\.0\.nodes\..*",
}


def released_names(shapes: Mapping[str, Sequence[int]], scheme: Scheme) -> dict[str, tuple[str, tuple[int, ...]]]:
    """What a network's entries are called in a release, and their shapes there.

    Args:
        shapes: Of the network's state dict, in its order.
        scheme: The release.

    Returns:
        Their key -> (our key, their shape), in their order.

    Raises:
        CheckpointError: If the release has no such network.
    """
    family = next((f for f, key in _FAMILIES.items() if any(re.fullmatch(key, name) for name in shapes)), None)
    rules = _RULES.get((family or "", scheme))
    if rules is None:
        kind = "networks of this kind" if family is None else f"{family} networks"
        others = [other for other in SCHEMES if (family, other) in _RULES]
        hint = f"; {others[0]} has" if others else ""
        raise CheckpointError(f"{scheme} must have keys for the network, but has none for {kind}{hint}")
    attentive = {key.removesuffix(_LOGITS) for key in shapes if key.endswith(_LOGITS)}
    return {
        _their_key(key, attentive, rules, scheme): (key, _their_shape(key, shapes[key])) for key in _in_order(shapes)
    }


_LOGITS = ".attention.logits.weight"


def _their_key(key: str, attentive: set[str], rules: Rules, scheme: Scheme) -> str:
    module, _, entry = key.rpartition(".")
    norm = next((name for name in (module, module.partition(".attention.")[0]) if name in attentive), None)
    if norm is not None:
        module, entry = norm, _AN_ENTRIES.get(key[len(norm) + 1 :], "")
        entry = entry.replace("BRANCH", "attention_weights" if scheme == "aognet-v2" else "attn_weights")
    for pattern, template in rules:
        match = re.fullmatch(pattern, module)
        if match and entry:
            theirs = match.expand(template) if isinstance(template, str) else template(match)
            return theirs.replace("NORM", "AttnBN2d" if norm else "bn") + "." + entry
    raise CheckpointError(f"every entry of the network must have a name in {scheme}, and {key} has none")


def _their_shape(key: str, shape: Sequence[int]) -> tuple[int, ...]:
    """The attention is a 1x1 convolution there and a matrix here; of SE the opposite is true."""
    if key.endswith(_LOGITS):
        return (*shape, 1, 1)
    return tuple(shape[:2]) if ".se.fc" in key else tuple(shape)


def _in_order(keys: Iterable[str]) -> list[str]:
    """Within a block, SE behind everything else."""
    first: dict[str, int] = {}

    def place(key: str) -> tuple[int, bool]:
        block = re.match(_BLOCK, key)
        return first.setdefault(block[0] if block else key, len(first)), ".se." in key

    return sorted(keys, key=place)
