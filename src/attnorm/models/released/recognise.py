"""Which network the keys and shapes of a released checkpoint belong to."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import timm

from attnorm.errors import CheckpointError, shown
from attnorm.models.released.names import Scheme

Shapes = Mapping[str, tuple[int, ...]]

_DETECTOR_PARTS = ("neck", "rpn_head", "bbox_head", "mask_head", "roi_head")
_RESNETS: dict[tuple[bool, tuple[int, ...]], int] = {
    (False, (2, 2, 2, 2)): 18,
    (False, (3, 4, 6, 3)): 34,
    (True, (3, 4, 6, 3)): 50,
    (True, (3, 4, 23, 3)): 101,
    (True, (3, 8, 36, 3)): 152,
}
_DENSENETS: dict[tuple[int, ...], int] = {
    (6, 12, 24, 16): 121,
    (6, 12, 32, 32): 169,
    (6, 12, 48, 32): 201,
    (6, 12, 36, 24): 161,
}
_AOGNETS = {32: "12m", 56: "40m"}
# Where AN is (norms of a block; "all": stem and downsample branches too) -> the name's ending, per kind of block.
_PLACES = {
    False: {"": "", "1": "_an", "2": "_an_bn2", "12": "_an_bn12"},
    True: {"": "", "2": "_an", "3": "_an_bn3", "123": "_an_bn123", "all": "_an_all"},
}


@dataclass(frozen=True)
class Architecture:
    """A recognised network.

    Attributes:
        model: Our name of it.
        scheme: Whose names its keys are; a detector of the first release has its backbone's.
        in_chans: Image channels.
        num_classes: Outputs of the classifier; 0: the file has none.
        classifier: Its name there.
        torchvision: Whether torchvision's network has the very same keys.
    """

    model: str
    scheme: Scheme
    in_chans: int
    num_classes: int
    classifier: str
    torchvision: bool = False


def detector_parts(keys: Mapping[str, object]) -> dict[str, int]:
    """How many entries the parts beside the backbone have, if the keys are a detector's."""
    if not any(key.startswith("backbone.") for key in keys):
        return {}
    parts = {part: sum(key.startswith(f"{part}.") for key in keys) for part in _DETECTOR_PARTS}
    return {part: count for part, count in parts.items() if count}


def recognise(shapes: Shapes, prefix: str = "") -> Architecture:
    """Recognise a classification network, or a detector's backbone, from its keys and shapes.

    Args:
        shapes: By the keys that the network itself gives.
        prefix: What stood in front of them: it tells the releases apart where their networks have the same keys.

    Raises:
        CheckpointError: If no released network has such keys.
    """
    for family in _FAMILIES:
        stem = shapes.get(family.stem)
        if stem and len(stem) == 4 and any(re.match(family.other, key) for key in shapes):
            outputs = next(iter(shapes.get(f"{family.classifier}.weight", ())), 0)
            if stem[1] > 1024 or outputs > 1_000_000:
                raise CheckpointError(
                    f"an image must have at most 1024 channels and a million classes; got {stem[1]} and {outputs}"
                )
            model = family.name(shapes)
            if not timm.is_model(model):
                raise CheckpointError(f"the network must be one of attnorm or timm; the keys are those of a {model}")
            scheme, torchvision = _release_of(family, model, shapes, prefix)
            return Architecture(model, scheme, stem[1], outputs, family.classifier, torchvision)
    first = ", ".join(shown(key) for key in list(shapes)[:3])
    raise CheckpointError(
        f"the weights must be of a network of AOGNet-v2, AttentiveNorm_Detection or iVMCL-Release, but their "
        f"{len(shapes)} keys are of none ({first}, ...)"
    )


def _resnet(shapes: Shapes) -> str:
    bottleneck = "layer1.0.conv3.weight" in shapes
    blocks = tuple(_count(shapes, rf"layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4))
    depth = _RESNETS.get((bottleneck, blocks))
    if depth is None:
        kind = "bottlenecks" if bottleneck else "basic blocks"
        raise CheckpointError(f"a released ResNet must have the blocks of ResNet-34, 50 or 101; got {kind} {blocks}")
    return f"resnet{depth}" + (_squeeze_excitation(shapes) or _placement(shapes, bottleneck))


def _placement(shapes: Shapes, bottleneck: bool) -> str:
    if not bottleneck and any(".attention_weights." in key for key in shapes):
        raise CheckpointError("AN in basic blocks must have ivmcl-release's keys: aognet-v2 has no basic blocks")
    norms = "".join(sorted(_found(shapes, r"layer\d\.\d+\.(?:bn|AttnBN2d)(\d)\.weight_")))
    if _found(shapes, r"(?:layer\d\.\d+\.downsample\.\d|AttnBN2d1|bn1)\.(weight_)"):
        norms = "all" if norms == "123" else norms + " and others"
    if norms not in _PLACES[bottleneck]:
        raise CheckpointError(
            f"AN must be where a released ResNet has it; got it at norm {', '.join(norms)} of a block"
        )
    return _PLACES[bottleneck][norms]


def _squeeze_excitation(shapes: Shapes) -> str:
    if "layer1.0.se3.fc.0.weight" in shapes:
        return "_se_bn123"
    squeeze = shapes.get("layer1.0.se.fc.0.weight")
    if squeeze is None:
        return ""
    return "_se_bn3" if squeeze[-1:] == shapes.get("layer1.0.bn3.weight") else "_se_bn2"


def _v1d(shapes: Shapes) -> str:
    return _resnet(shapes).replace("resnet", "resnetv1d")


def _mobilenetv2(shapes: Shapes) -> str:
    return "mobilenetv2_100" + _an(shapes)


def _densenet(shapes: Shapes) -> str:
    layers = tuple(_count(shapes, rf"layer{stage}\.0\.denselayer(\d+)\.") for stage in (1, 2, 3, 4))
    if layers not in _DENSENETS:
        raise CheckpointError(f"a DenseNet must have the layers of DenseNet-121, 161, 169 or 201; got {layers}")
    return f"densenet{_DENSENETS[layers]}" + _an(shapes)


def _aognet(shapes: Shapes) -> str:
    last = ("stem.2.conv_norm.conv_norm.0.weight", "stem.conv1.2.conv.weight")
    width = next((shape[0] for key, shape in shapes.items() if key in last and shape), 0)
    if width not in _AOGNETS:
        raise CheckpointError(f"an AOGNet must have a stem of width 32 (12M) or 56 (40M); got {width}")
    return f"aognet_{_AOGNETS[width]}" + _an(shapes)


def _an(shapes: Shapes) -> str:
    return "_an" if any(key.endswith(".weight_") for key in shapes) else ""


def _found(shapes: Shapes, pattern: str) -> set[str]:
    return {match[1] for key in shapes if (match := re.match(pattern, key))}


def _count(shapes: Shapes, pattern: str) -> int:
    return len(_found(shapes, pattern))


@dataclass(frozen=True)
class _Family:
    """Networks that one release calls alike; `stem` is their first convolution, `other` begins a further key."""

    scheme: Scheme | None  # None: the same keys in both
    stem: str
    other: str
    classifier: str
    name: Callable[[Shapes], str]


_FAMILIES = (
    _Family("aognet-v2", "stem.0.conv_norm.conv_norm.0.weight", r"stage0\.", "fc", _aognet),
    _Family("ivmcl-release", "stem.conv1.0.conv.weight", r"layer1\.1\.stage_1_", "fc", _aognet),
    _Family("ivmcl-release", "stem.conv1.conv.weight", r"layer1\.0\.denselayer1\.", "classifier", _densenet),
    _Family("ivmcl-release", "stem.0.weight", r"layer1\.0\.conv\.0\.0\.", "classifier.1", _mobilenetv2),
    _Family("aognet-v2", "features.0.0.weight", r"features\.1\.conv\.0\.0\.", "classifier.1", _mobilenetv2),
    _Family("ivmcl-release", "stem.0.weight", r"layer1\.0\.conv1\.", "fc", _v1d),
    _Family("aognet-v2", "conv1.0.weight", r"layer1\.0\.conv1\.", "fc", _v1d),
    _Family(None, "conv1.weight", r"layer1\.0\.conv1\.", "fc", _resnet),
)


def _release_of(family: _Family, model: str, shapes: Shapes, prefix: str) -> tuple[Scheme, bool]:
    """The release, and whether torchvision has these keys too."""
    plain = _an(shapes) == "" and "_se" not in model
    if family.scheme is not None:
        return family.scheme, plain and "features.0.0.weight" in shapes
    if not plain:
        first = any(".attention_weights." in key for key in shapes)
        return "aognet-v2" if first else "ivmcl-release", False
    # The first release cannot build basic blocks; and its training script alone wraps networks twice.
    second = "layer1.0.conv3.weight" not in shapes or prefix == "module."
    return "ivmcl-release" if second else "aognet-v2", True
