"""A network's name with options in words."""

from typing import Any

from attnorm.detection.config import is_detector, split_name
from attnorm.models.spec import parse_spec

_NORMS = {
    "bn": "its own norms",
    "gn": "GroupNorm in place of each BatchNorm",
    "an": "Attentive Normalization (AN) in place of some of its BatchNorms",
    "an_gn": "GroupNorm in place of each BatchNorm, with Attentive Normalization (AN) on some of them",
}
_LOGIT_NORMS = {
    "batch": "attention logits normalised over the batch",
    "layer": "attention logits normalised over the components of an image",
    None: "attention logits not normalised",
}
_HEADS = {"linear": "attention of one linear layer", "mlp": "attention of two linear layers"}
_STATISTICS = {
    "mean_over_std": "attention that sees each channel's mean over its deviation",
    "mean": "attention that sees each channel's mean",
    "mean_plus_max": "attention that sees each channel's mean plus its maximum",
}


def spell_out(name: str) -> str:
    """What the options of a name make of the network; "" for a name without options."""
    spec = parse_spec(split_name(name)[1] if is_detector(name) else name)
    return "; ".join(_option(option, value) for option, value in spec.options.items())


def _option(option: str, value: Any) -> str:
    match option:
        case "norm":
            return _NORMS[value]
        case "placement":
            return "AN where the rule for any network puts it" if value == "auto" else f"AN at {value}"
        case "num_components":
            return f"K = {', '.join(map(str, value))} stage by stage" if isinstance(value, tuple) else f"K = {value}"
        case "gate":
            return f"{value.replace('_', ' ')} gate"
        case "logit_norm":
            return _LOGIT_NORMS.get(value, f"attention logits normalised by {value}")
        case "head":
            return _HEADS.get(value, f"{value} head")
        case "statistic":
            return _STATISTICS.get(value, f"statistic {value}")
        case _:
            return f"{option.replace('_', ' ')} {value:g}" if isinstance(value, float) else f"{option} {value}"
