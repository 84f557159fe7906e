"""The heads against their definition, written out with the functions of torch.nn.functional."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from attnorm.detection.config import DetectorConfig
from attnorm.detection.heads import BoxPredictor, box_head, mask_head, mask_predictor
from attnorm.layers.reference import attentive_norm

C, N = 64, 3  # channels; regions


def randomised(module):
    """With every entry drawn anew, so that none is at a value that hides a mistake."""
    torch.manual_seed(0)
    module.double()
    for parameter in module.parameters():
        nn.init.uniform_(parameter, -0.5, 0.5)
    return module


def normed(x, state, prefix, norm):
    """The named norm by its definition, from the entries of a state dict."""
    if norm == "none":
        return x
    entry = {name: state[f"{prefix}.{name}"] for name in ("weight", "bias")}
    if norm == "gn":
        return F.group_norm(x, 32, entry["weight"], entry["bias"])

    def attend(statistic):
        logits = statistic @ state[f"{prefix}.attention.logits.weight"].T + state[f"{prefix}.attention.logits.bias"]
        return F.hardsigmoid(logits)

    return attentive_norm(x, entry["weight"], entry["bias"], attend, num_groups=32)


def convolved(x, state, norm):
    """Four convolutions, each followed by the norm and a ReLU."""
    for i in range(4):
        x = F.conv2d(x, state[f"{i}.0.weight"], state.get(f"{i}.0.bias"), padding=1)
        x = normed(x, state, f"{i}.1", norm).relu()
    return x


@pytest.mark.parametrize("norm", ["none", "gn", "an_gn"])
def test_box_head_of_convolutions(norm):
    config = DetectorConfig(box_head="4conv1fc", box_norm=norm, num_components=(2, 3, 4, 5))
    head = randomised(box_head(config, C))
    state = head.state_dict()
    x = torch.randn(N, C, 7, 7, dtype=torch.float64)
    expected = convolved(x, state, norm).flatten(1) @ state["5.weight"].T + state["5.bias"]
    assert_close(head(x), expected.relu())
    assert ("0.0.bias" in state) is (norm == "none")
    assert state["5.weight"].shape == (1024, C * 49)


@pytest.mark.parametrize("norm", ["none", "gn", "an_gn"])
def test_mask_branch(norm):
    config = DetectorConfig(mask_norm=norm, num_components=2)
    head, predictor = randomised(mask_head(config, C)), randomised(mask_predictor(C, 5))
    last = predictor.state_dict()
    x = torch.randn(N, C, 6, 6, dtype=torch.float64)
    hidden = convolved(x, head.state_dict(), norm)
    enlarged = F.conv_transpose2d(hidden, last["conv5_mask.weight"], last["conv5_mask.bias"], stride=2).relu()
    expected = F.conv2d(enlarged, last["mask_fcn_logits.weight"], last["mask_fcn_logits.bias"])
    assert_close(predictor(head(x)), expected)
    assert expected.shape == (N, 5, 12, 12)


@pytest.mark.parametrize("hidden", [1024, 24])
def test_box_head_of_two_layers(hidden):
    head = randomised(box_head(DetectorConfig(box_hidden=hidden) if hidden != 1024 else DetectorConfig(), 4))
    state = head.state_dict()
    assert state["fc7.weight"].shape == (hidden, hidden)
    x = torch.randn(N, 4, 7, 7, dtype=torch.float64)
    first = (x.flatten(1) @ state["fc6.weight"].T + state["fc6.bias"]).relu()
    assert_close(head(x), (first @ state["fc7.weight"].T + state["fc7.bias"]).relu())


def test_attention_in_heads_is_the_released_one():
    """Reference 1.5, 1.7 and 5.3: K = 10, 10, 20, 20; a biased projection in PyTorch's default, no logit norm."""
    torch.manual_seed(0)
    state = box_head(DetectorConfig(box_head="4conv1fc", box_norm="an_gn"), 256).state_dict()
    assert [len(state[f"{i}.1.weight"]) for i in range(4)] == [10, 10, 20, 20]
    assert not [key for key in state if "norm" in key or "running" in key]
    for name in ("weight", "bias"):
        values = torch.cat([state[f"{i}.1.attention.logits.{name}"].flatten() for i in range(4)])
        assert values.abs().max() <= 1 / math.sqrt(256)
        assert values.abs().max() > 0.9 / math.sqrt(256)
    mixture = torch.cat([state[f"{i}.1.weight"] for i in range(4)])
    assert_close(mixture.mean().item(), 1.0, rtol=0, atol=0.005)  # N(1, 0.1^2), 15,360 values
    assert_close(mixture.std().item(), 0.1, rtol=0.03, atol=0)


@pytest.mark.parametrize("agnostic", [False, True])
def test_box_predictor(agnostic):
    """One box for all classes, or one for each; initial deviations 0.01 and 0.001."""
    torch.manual_seed(0)
    predictor = BoxPredictor(1024, 7, agnostic)
    state = predictor.state_dict()
    for layer, std in (("cls_score", 0.01), ("bbox_pred", 0.001)):
        assert_close(state[f"{layer}.weight"].std().item(), std, rtol=0.05, atol=0)
        assert not state[f"{layer}.bias"].any()
    x = torch.randn(N, 1024)
    logits, deltas = predictor(x)
    assert_close(logits, x @ state["cls_score.weight"].T)
    assert_close(deltas, x @ state["bbox_pred.weight"].T)
    assert (logits.shape, deltas.shape) == ((N, 7), (N, 4 if agnostic else 28))
