"""Each layer's share against counts by hand and a simulated clock."""

import pytest
import torch
from torch import nn

from attnorm.evidence import profile_layers
from attnorm.evidence.operations import count_operations
from attnorm.evidence.profile_layers import layers, walk
from attnorm.layers import AttentiveBatchNorm2d
from attnorm.models import create_model
from tests.evidence.simulated import Machine

CPU = torch.device("cpu")


class Block(nn.Module):
    """A convolution and AN beside a shortcut; 3 ms, 2 ms, and 1 ms of its own for the addition."""

    def __init__(self, clock: Machine) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm = AttentiveBatchNorm2d(4, 2)
        self.clock = clock
        self.conv.register_forward_hook(lambda *_: clock.sleep(0.003))
        self.norm.register_forward_hook(lambda *_: clock.sleep(0.002))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.conv(x))
        self.clock.sleep(0.001)
        return x + y


def test_counts_and_times_of_each_layer(monkeypatch: pytest.MonkeyPatch):
    """Images of 6x5 pixels in 4 channels; the head has a convolution to 2 channels, which takes no time at all."""
    clock = Machine()
    monkeypatch.setattr(profile_layers, "time", clock)
    model = nn.Sequential(Block(clock), nn.Conv2d(4, 2, 1)).eval()
    image = torch.zeros(1, 4, 6, 5)
    batch = torch.zeros(2, 4, 6, 5)

    def infer() -> None:
        with torch.no_grad():
            model(batch)

    found = {layer.name: layer for layer in layers(model, image, infer, 2, CPU, passes=3)}
    assert list(found) == ["0", "0.conv", "0.norm", "1"]
    block, conv, norm, head = found.values()
    assert (block.kind, norm.kind) == ("Block", "AttentiveBatchNorm2d")
    assert (block.parameters, conv.parameters, head.parameters) == (0, 4 * 4 * 9, 4 * 2 + 2)
    assert norm.parameters == sum(p.numel() for p in model[0].norm.parameters())  # all that is inside of it
    assert (conv.macs, head.macs, block.macs) == (4 * 4 * 9 * 30, 4 * 2 * 30, 0)
    assert (block.elements, conv.elements) == (4 * 30, 0)  # the addition
    assert norm.elements == count_operations(model[0].norm, (4, 6, 5)).elementwise
    times = {name: layer.milliseconds for name, layer in found.items()}
    assert times == pytest.approx({"0": 0.5, "0.conv": 1.5, "0.norm": 1.0, "1": 0.0})  # of one image
    assert [layer.share for layer in found.values()] == pytest.approx([1 / 6, 1 / 2, 1 / 3, 0])


@pytest.mark.parametrize(("name", "side"), [("resnet18_an", 64), ("densenet121", 32), ("vit_tiny_patch16_224", 224)])
def test_the_layers_make_up_the_network(name: str, side: int):
    """Nothing counts twice and nothing is left out."""
    model = create_model(name).eval()
    image = torch.zeros(1, 3, side, side)
    found = layers(model, image, lambda: None, 1, CPU, passes=1)
    counted = count_operations(model, (3, side, side))
    assert sum(layer.macs or 0 for layer in found) == counted.macs
    assert sum(layer.elements or 0 for layer in found) == counted.elementwise
    assert sum(layer.parameters for layer in found) == sum(p.numel() for p in model.parameters())


def test_hooks_are_gone_afterwards():
    model = create_model("resnet8_cifar_an").eval()
    layers(model, torch.zeros(1, 3, 32, 32), lambda: None, 1, CPU, passes=1)
    assert all(not m._forward_hooks and not m._forward_pre_hooks for _, m in walk(model))
