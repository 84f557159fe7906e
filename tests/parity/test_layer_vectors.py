"""The layers compute what the original layers compute, in every form that was ever released."""

import json
import re

import pytest
import torch
from torch import Tensor, nn

from attnorm import AttentiveBatchNorm2d, AttentiveGroupNorm, backend
from tests.parity.filling import entry, network_input
from tests.shared import shared_file

VECTORS = shared_file("reference/fixtures/an_layer_vectors.json")
CASES = [c for c in json.loads(VECTORS.read_text())["cases"] if "out" in c] if VECTORS.exists() else []

FIRST_RELEASE = {
    "0": {"gate": "sigmoid", "logit_norm": None},
    "1": {"gate": "sigmoid", "logit_norm": None, "head": "mlp"},
    "2": {"gate": "hard_sigmoid", "logit_norm": "batch"},
    "3": {"gate": "hard_sigmoid", "logit_norm": "batch", "head": "mlp"},
    "4": {"gate": "hard_sigmoid", "logit_norm": None},
    "5": {"gate": "sigmoid", "logit_norm": "batch"},
    "6": {"gate": "softmax", "logit_norm": "batch"},
}


def options(case: str) -> dict:
    """Translate a fixture's name into named options."""
    scheme, _, *rest = re.split("[/ ]", case, maxsplit=2)
    settings = dict(re.findall(r"(\w+)=(\w+)", rest[0] if rest else ""))
    if scheme == "first_release":
        return FIRST_RELEASE[settings.get("attention_mode", "2")]
    if scheme == "detection_head":
        return {"logit_norm": None}
    groups = int(settings.get("num_groups_attn", 1))
    layer = settings.get("attn_mode", "0") == "1" and groups > 0
    chosen = {"logit_norm": ("group" if groups > 1 else "layer") if layer else "batch"}
    if groups > 1:
        chosen["logit_groups"] = groups
    if settings.get("use_rsd") == "False":
        chosen["statistic"] = "mean_plus_max" if settings.get("use_maxpool") == "True" else "mean"
    return chosen


def load(layer: nn.Module, keys: dict[str, list[int]]) -> None:
    """Fill a layer as the fixture's was, entry by entry."""
    attention = [key for key in keys if ".attention." in key]
    indices = sorted({key.split(".")[2] for key in attention}, key=int)
    branch = layer.attention
    parts = [p for linear in (branch.hidden, branch.logits) if linear is not None for p in (linear, linear.norm)]
    parts = [p for p in parts if p is not None]
    assert len(parts) == len(indices)
    targets = dict(zip(indices, parts, strict=True))
    with torch.no_grad():
        for number, (key, shape) in enumerate(keys.items()):
            value = entry(number, key, tuple(shape))
            if ".attention." in key:
                owner, name = targets[key.split(".")[2]], key.rpartition(".")[2]
            else:
                owner, name = layer, {"weight_": "weight", "bias_": "bias"}.get(key, key)
            target = getattr(owner, name)
            target.copy_(value.reshape(target.shape))


@pytest.mark.skipif(not CASES, reason=f"the reference fixtures are not here: {VECTORS}")
@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['case']}-{c['mode']}")
@pytest.mark.parametrize("path", ["closed_form", "reference"])
def test_layer_equals_the_original(case: dict, path: str):
    kind = AttentiveGroupNorm if "/GN" in case["case"] else AttentiveBatchNorm2d
    groups = {"num_groups": 4} if kind is AttentiveGroupNorm else {}
    layer = kind(8, num_components=3, dtype=torch.float64, **groups, **options(case["case"]))
    load(layer, case["keys"])
    layer.train(case["mode"] == "train")
    one_pixel = "1x1" in case["case"]
    x = network_input((2, 8, 1, 1) if one_pixel else (2, 8, 3, 4))
    with backend(path):
        y = layer(x)
    if one_pixel:
        # The original divides 0 by 0 here; a variance of 0 keeps the output finite (user ask 25).
        assert case["out_sum"] == "nan"
        assert y.isfinite().all()
        return
    close(y.flatten()[:12], case["out"])
    close(y.sum(), case["out_sum"])
    close(y.abs().sum(), case["out_abs_sum"])
    norm = layer.attention.logits.norm
    for key, value in case.get("running_after", {}).items():
        close(getattr(norm if ".attention." in key else layer, key.rpartition(".")[2]), value)


def close(ours: Tensor, theirs: object) -> None:
    """Equal to 1e-9 relative; the fixtures are printed with 12 digits."""
    torch.testing.assert_close(ours.detach(), torch.tensor(theirs, dtype=torch.float64), rtol=1e-9, atol=1e-11)
