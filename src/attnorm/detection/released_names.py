"""How the authors' frameworks call a detector's entries, its backbone's network aside, and order its classes.

    "attentivenorm-detection"  of 2019
    "ivmcl-release"            of 2020: heads under "roi_head", the background last rather than first among the class
                               logits, and no boxes and masks of it at all

Every rule maps the name of one of our modules to theirs; the entries correspond one to one.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from attnorm.detection.config import CONVS
from attnorm.errors import CheckpointError
from attnorm.models.transfer import BODY

DetectorScheme = Literal["attentivenorm-detection", "ivmcl-release"]
PARTS = ("neck", "rpn_head", "bbox_head", "mask_head")  # there, in this order

# BLOCK stands for a convolution ("conv", ours 0) or for the norm behind it ("gn" or "agn", ours 1).
_RULES = [
    (r"backbone\.fpn\.inner_blocks\.(\d)\.([01])", r"neck.lateral_convs.\1.BLOCK\2"),
    (r"backbone\.fpn\.layer_blocks\.(\d)\.([01])", r"neck.fpn_convs.\1.BLOCK\2"),
    (r"rpn\.head\.conv\.0\.0", "rpn_head.rpn_conv"),
    (r"rpn\.head\.cls_logits", "rpn_head.rpn_cls"),
    (r"rpn\.head\.bbox_pred", "rpn_head.rpn_reg"),
    (r"roi_heads\.stages\.(\d)\.predictor\.cls_score", r"bbox_head.\1.fc_cls"),
    (r"roi_heads\.stages\.(\d)\.predictor\.bbox_pred", r"bbox_head.\1.fc_reg"),
    (r"roi_heads\.stages\.(\d)\.head\.([0-3])\.([01])", r"bbox_head.\1.shared_convs.\2.BLOCK\3"),
    (r"roi_heads\.stages\.(\d)\.head\.(?:5|fc6)", r"bbox_head.\1.shared_fcs.0"),
    (r"roi_heads\.stages\.(\d)\.head\.fc7", r"bbox_head.\1.shared_fcs.1"),
    (r"roi_heads\.masks\.(\d)\.head\.([0-3])\.([01])", r"mask_head.\1.convs.\2.BLOCK\3"),
    (r"roi_heads\.masks\.(\d)\.predictor\.conv5_mask", r"mask_head.\1.upsample"),
    (r"roi_heads\.masks\.(\d)\.predictor\.mask_fcn_logits", r"mask_head.\1.conv_logits"),
]
_ATTENTION = "attention.logits"
_AN_ENTRIES = {
    "weight": "weight_",
    "bias": "bias_",
    f"{_ATTENTION}.weight": "attention_weights.attention.0.weight",
    f"{_ATTENTION}.bias": "attention_weights.attention.0.bias",
}


def head_names(shapes: Mapping[str, Sequence[int]], scheme: DetectorScheme) -> dict[str, tuple[str, tuple[int, ...]]]:
    """What a detector's entries are called in a release, and their shapes there; those of the network left out.

    Args:
        shapes: Of the detector's state dict.
        scheme: The release.

    Returns:
        Their key -> (our key, their shape), in their order.

    Raises:
        CheckpointError: If the release has no such detector.
    """
    keys = [key for key in shapes if not key.startswith(BODY)]
    attentive = {key.removesuffix(f".{_ATTENTION}.weight") for key in keys if key.endswith(f".{_ATTENTION}.weight")}
    if attentive and scheme == "ivmcl-release":
        raise CheckpointError("ivmcl-release has no detector with AN in its heads; attentivenorm-detection has")
    cascade = any(key.startswith("roi_heads.stages.1.") for key in keys)
    names = {_their_key(key, attentive, cascade, scheme): key for key in keys}
    return {theirs: (names[theirs], _their_shape(names[theirs], shapes, scheme)) for theirs in _in_order(names)}


def to_ours(key: str, value: Tensor, shape: Sequence[int], scheme: DetectorScheme) -> Tensor:
    """The value of our entry `key` from a release's, with the background as class 0.

    Args:
        key: Ours.
        value: Theirs.
        shape: Of ours.
        scheme: The release.
    """
    if _is_class_logits(key, scheme):
        value = value.roll(1, 0)
    elif _background(key, shape, scheme):
        value = torch.cat([value.new_zeros(_background(key, shape, scheme), *value.shape[1:]), value])
    return value.reshape(tuple(shape))


def recognise_heads(shapes: Mapping[str, Sequence[int]]) -> tuple[str, int, dict[str, object]]:
    """What a released detector is beside its backbone.

    Args:
        shapes: Of its state dict, "roi_head." left out of the keys.

    Returns:
        The kind, the number of classes with the background, and the settings in which released detectors differ.

    Raises:
        CheckpointError: If there is no box head.
    """
    cascade = any(key.startswith("bbox_head.1.") for key in shapes)
    head = "bbox_head.0" if cascade else "bbox_head"
    num_classes = _first(shapes.get(f"{head}.fc_cls.bias"))
    components = tuple(_first(shapes.get(f"{head}.shared_convs.{i}.agn.weight_")) for i in range(CONVS))
    if not 2 <= num_classes <= 1_000_000 or max(components) > 1024:
        raise CheckpointError(
            f"a detector must have logits of 2 to a million classes, and AN of at most 1024 components; got "
            f"{num_classes} and {max(components)}"
        )
    norms = {"fpn_norm": "neck.fpn_convs", "box_norm": f"{head}.shared_convs", "mask_norm": "mask_head.convs"}
    settings: dict[str, object] = {name: _norm_of(shapes, prefix) for name, prefix in norms.items()}
    settings["box_head"] = "4conv1fc" if f"{head}.shared_convs.0.conv.weight" in shapes else "2fc"
    settings["class_agnostic"] = tuple(shapes.get(f"{head}.fc_reg.bias", ())) == (4,)
    if min(components) > 0:
        settings["num_components"] = components
    kind = "mask_rcnn" if any(key.startswith("mask_head.") for key in shapes) else "faster_rcnn"
    return f"cascade_{kind}" if cascade else kind, num_classes, settings


def _first(shape: Sequence[int] | None) -> int:
    return shape[0] if shape else 0


def _norm_of(shapes: Mapping[str, object], prefix: str) -> str:
    if f"{prefix}.0.agn.weight_" in shapes:
        return "an_gn"
    return "gn" if f"{prefix}.0.gn.weight" in shapes else "none"


def _their_key(key: str, attentive: set[str], cascade: bool, scheme: DetectorScheme) -> str:
    module, _, entry = key.rpartition(".")
    norm = module.removesuffix(f".{_ATTENTION}")
    if norm in attentive:
        module, entry = norm, _AN_ENTRIES[key[len(norm) + 1 :]]
    behind = "agn" if norm in attentive else "gn"
    for pattern, template in _RULES:
        if match := re.fullmatch(pattern, module):
            theirs = match.expand(template).replace("BLOCK0", "conv").replace("BLOCK1", behind)
            if not cascade:
                theirs = re.sub(r"^(bbox|mask)_head\.0\.", r"\1_head.", theirs)
            if scheme == "ivmcl-release":
                theirs = re.sub(r"^(bbox|mask)_head\.", r"roi_head.\1_head.", theirs)
            return f"{theirs}.{entry}"
    raise CheckpointError(f"every entry of the detector must have a name in {scheme}, and {key} has none")


def _their_shape(key: str, shapes: Mapping[str, Sequence[int]], scheme: DetectorScheme) -> tuple[int, ...]:
    """The attention is a 1x1 convolution there."""
    first, *others = shapes[key]
    ones = (1, 1) if key.endswith(f"{_ATTENTION}.weight") else ()
    return (first - _background(key, shapes[key], scheme), *others, *ones)


def _is_class_logits(key: str, scheme: DetectorScheme) -> bool:
    return scheme == "ivmcl-release" and ".cls_score." in key


def _background(key: str, shape: Sequence[int], scheme: DetectorScheme) -> int:
    """How many rows of ours are the background's and absent there."""
    if scheme == "attentivenorm-detection":
        return 0
    boxes = ".predictor.bbox_pred." in key and shape[0] > 4  # 4: one box for all classes
    return 4 if boxes else 1 if ".mask_fcn_logits." in key else 0


def _in_order(names: Iterable[str]) -> list[str]:
    """Parts together, levels as registered, and in a box head the predictors first."""
    parts = [*PARTS[:2], *(f"roi_head.{part}" for part in PARTS[2:]), *PARTS[2:]]

    def place(key: str) -> tuple[int, str, bool]:
        part = next(i for i, name in enumerate(parts) if key.startswith(f"{name}."))
        stage = re.search(r"_head\.(\d)\.", key)
        return part, stage[1] if stage else "", ".fc_" not in key and "bbox_head." in key

    return sorted(names, key=place)
