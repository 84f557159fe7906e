"""The detectors whose times are compared have the same to do."""

import pytest
import torch

from benchmarks.detector_cost import AN, BN, TORCHVISION, batch, check, detectors


@pytest.mark.parametrize(
    ("kind", "names"), [("train", {BN, AN, TORCHVISION}), ("fine_tune", {BN, AN}), ("eval", {BN, AN, TORCHVISION})]
)
def test_the_same_work(kind, names):
    data = batch(2, 64)
    models = detectors(kind, "NCHW", data)
    assert models.keys() == names
    check(models, data)


def test_other_weights_are_refused():
    data = batch(2, 64)
    models = detectors("train", "NCHW", data)
    with torch.no_grad():
        models[AN].get_parameter("rpn.head.cls_logits.bias").add_(3)
    with pytest.raises(RuntimeError, match="must give the same"):
        check(models, data)
