"""What AN costs in the other families: MobileNetV2, DenseNet-121 and AOGNet-12M with AN beside their BN twins.

    python -m benchmarks.families_cost [--time-limit-s 45] [--json FILE]

Training steps as in benchmarks/network_cost.py, in both memory layouts. And AOGNet's own forward pass beside a plain
evaluation of its graph, node by node as the grammar's definition has it. Writes benchmarks/results/families_cost.json.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import Any, cast

import timm
import torch
from torch import Tensor

from attnorm.evidence.interleaved import Interleaved, Step, timing_dict
from attnorm.models.aog_block import AOGBlock
from attnorm.models.aognet import AOGNet
from benchmarks.contenders import LAYOUTS
from benchmarks.network_cost import HALF_WIDTH, batch, measure, summary
from benchmarks.record import Record, options_of, parser

FAMILIES = ("mobilenetv2_100", "densenet121", "aognet_12m")


def plain_forward(block: AOGBlock, x: Tensor) -> Tensor:
    """A block by its definition: at every node both inputs are formed from scratch, whether or not they are equal."""
    graph, outputs = block.graph, dict[int, Tensor]()
    bounds = block.bounds
    for i in graph.dfs:
        node = graph.nodes[i]
        if node.kind == "TERMINAL":
            operation = residual = x[:, bounds[node.interval[0]] : bounds[node.interval[1] + 1]]
        else:
            parts = [outputs[child] for child in node.phrase_children]
            scaled = [float(q) * part for q, part in zip(graph.residual_scales(node), parts, strict=True)]
            join = (lambda p: torch.cat(p, 1)) if node.kind == "AND" else (lambda p: torch.stack(p).sum(0))
            operation, residual = join(parts), join(scaled)
            for child, in_residual in zip(node.lateral_children, graph.lateral_in_residual(node), strict=True):
                operation = operation + outputs[child]
                residual = residual + outputs[child] if in_residual else residual
        outputs[i] = block.nodes[str(i)](operation, residual)
    return block.bn(outputs[0])


def plain_network(model: AOGNet, x: Tensor) -> Tensor:
    """The network with every block evaluated by :func:`plain_forward`."""
    x = model.stem(x)
    for stage in model.stages:
        x = cast(Any, stage).transition(x)
        for block in cast(Any, stage).blocks:
            x = plain_forward(block, x)
    return model.forward_head(x)


def measure_aognet(layout: str, training: bool, size: int, side: int, time_limit_s: float) -> dict[str, Any]:
    """AOGNet-12M with AN: our forward pass, and in training its backward pass, beside the plain one.

    Raises:
        RuntimeError: If the two do not compute the same.
    """
    images, _ = batch(size, side, layout)
    form = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    torch.manual_seed(0)
    model = cast(AOGNet, timm.create_model("aognet_12m_an").to(memory_format=form).eval())  # pyright: ignore
    with torch.no_grad():
        ours, plain = model(images), plain_network(model, images)
    if not torch.allclose(ours, plain, rtol=1e-3, atol=1e-3 * float(ours.abs().max())):
        raise RuntimeError("the plain evaluation must give the network's logits, and does not; not timed")
    model.train(training)

    def step(forward: Any) -> Step:
        def run() -> Iterator[str]:
            with torch.set_grad_enabled(training):
                logits = forward(images)
            yield "forward"
            if training:
                logits.square().mean().backward()
                yield "backward"

        return run

    steps = {"aognet_12m_an": step(model), "node by node": step(lambda x: plain_network(model, x))}
    timed = Interleaved(steps)
    pair = ("aognet_12m_an", "node by node")
    kind = "train" if training else "eval"
    narrow = timed.run_until((pair,), HALF_WIDTH, time_limit_s)
    return {
        "kind": kind,
        "layout": layout,
        "batch": size,
        "side": side,
        "narrow": narrow,
        "networks": {name: {f"{kind}_ms": timing_dict(timed.timing(name))} for name in steps},
        "ratios": {f"plain_{kind}": timed.ratio(*pair).as_dict()},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    command_line = parser("What AN costs in MobileNetV2, DenseNet and AOGNet.", "families_cost")
    command_line.add_argument("--batch-size", type=int, default=8)
    command_line.add_argument("--side", type=int, default=224, help="height and width of the images, in pixels")
    command_line.add_argument("--time-limit-s", type=float, default=45, help="for each row")
    options = command_line.parse_args(arguments)
    record = Record(options.json, "families-cost", "cpu", options_of(options))
    size, side, limit = options.batch_size, options.side, options.time_limit_s
    for layout in LAYOUTS:
        for name in FAMILIES:
            row = measure(layout, "train", size, side, limit, {"an_bn_train": (f"{name}_an", name)})
            print(summary(row), flush=True)
            record.add(row)
        for training in (True, False):
            row = measure_aognet(layout, training, size, side, limit / 2)
            print(summary(row), flush=True)
            record.add(row)
    record.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
