"""What AOGNet is put together from, besides its blocks: the stem, and stages with their transitions."""

from collections.abc import Sequence
from typing import Any, Literal

from timm.layers.norm_act import BatchNormAct2d
from timm.models import checkpoint_seq
from torch import Tensor, nn

from attnorm.models.aog_block import AOGBlock
from attnorm.models.grammar import Graph

StemType = Literal["deep", "7x7", "cifar"]


class Stem(nn.Module):
    """Convolutions with norm and ReLU, then a max pool.

    Args:
        in_channels: Of the image.
        out_channels: Of the output; even for "deep".
        kind: "deep": three 3x3 convolutions, the first with stride 2, and a 2x2 pool without padding; "7x7": one
            convolution with stride 2 and a padded 3x3 pool; "cifar": one 3x3 convolution, nothing strided.
        device: Of the parameters.
        dtype: Of the parameters.

    Raises:
        ValueError: For an unknown kind.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kind: StemType = "deep", device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        if kind == "deep":
            half = out_channels // 2
            convolutions, pool = [(half, 3, 2), (half, 3, 1), (out_channels, 3, 1)], nn.MaxPool2d(2)
        elif kind == "7x7":
            convolutions, pool = [(out_channels, 7, 2)], nn.MaxPool2d(3, stride=2, padding=1)
        elif kind == "cifar":
            convolutions, pool = [(out_channels, 3, 1)], nn.Identity()
        else:
            raise ValueError(f"stem_type must be 'deep', '7x7' or 'cifar'; got {kind!r}")
        self.reduction = 1 if kind == "cifar" else 4
        for i, (channels, kernel, stride) in enumerate(convolutions, 1):
            convolution = _convolution(in_channels, channels, kernel, stride, device=device, dtype=dtype)
            self.add_module(f"conv{i}", convolution)
            self.add_module(f"bn{i}", BatchNormAct2d(channels, device=device, dtype=dtype))
            in_channels = channels
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, in_channels, H, W) to (N, out_channels, H // reduction, W // reduction), rounded."""
        for layer in self.children():
            x = layer(x)
        return x


def _convolution(in_channels: int, out_channels: int, kernel: int, stride: int = 1, **dd: Any) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False, **dd)


class Stage(nn.Module):
    """Blocks of one graph; in front of them, where the stage has a stride, a transition that pools.

    Args:
        graph: Of all blocks.
        in_channels: Of the input.
        widths: Output channels of each block.
        stride: 1: no transition.
        ratio: Of the bottlenecks.
        drop_rate: In every node.
        device: Of the parameters.
        dtype: Of the parameters.
    """

    def __init__(
        self,
        graph: Graph,
        in_channels: int,
        widths: Sequence[int],
        stride: int = 1,
        ratio: float = 0.25,
        drop_rate: float = 0.0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.grad_checkpointing = False
        self.transition = nn.Sequential()
        if stride > 1:
            self.transition.add_module("conv", _convolution(in_channels, in_channels, 1, **dd))
            self.transition.add_module("bn", BatchNormAct2d(in_channels, **dd))
            self.transition.add_module("pool", nn.AvgPool2d(stride))
        inputs = [in_channels, *widths]
        self.blocks = nn.Sequential(
            *(AOGBlock(graph, c, width, ratio, drop_rate, **dd) for c, width in zip(inputs, widths, strict=False))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map x (N, in_channels, H, W) to (N, widths[-1], H // stride, W // stride)."""
        x = self.transition(x)
        if self.grad_checkpointing:
            return checkpoint_seq(self.blocks, x)
        return self.blocks(x)


def block_widths(in_channels: int, out_channels: int, blocks: int, dims: int) -> list[int]:
    """Output channels of each block of a stage: equal steps, rounded to the nearest multiple of dims, a tie down."""
    step = (out_channels - in_channels) // blocks
    over = step % dims
    step += dims - over if 2 * over > dims else -over
    return [in_channels + step * (i + 1) for i in range(blocks - 1)] + [out_channels]
