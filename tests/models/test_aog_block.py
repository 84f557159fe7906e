"""The AOG block computes what its definition says, node by node, in evaluation and training, with all gradients."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

import attnorm
from attnorm.models.aog_block import AOGBlock, NodeOperator, bottleneck_width, slice_bounds
from attnorm.models.grammar import Graph, Node, build_graph


class ByDefinition:
    """The reference's section 3, evaluated from the root down, in separate functions of the block's parameters.

    Shares with the block its parameters, the graph's children, and nothing else: slices are torch's, paths to the root
    are walked one by one, AN is written out.
    """

    def __init__(self, block: AOGBlock, graph: Graph, out_channels: int) -> None:
        self.block, self.nodes = block, graph.nodes
        self.tensors = {**dict(block.named_parameters()), **{name: b.clone() for name, b in block.named_buffers()}}
        self.out = [len(part) for part in torch.arange(out_channels).tensor_split(graph.dims)]

    def __call__(self, x: Tensor) -> Tensor:
        self.words = x.tensor_split(len(self.out), 1)
        self.known: dict[int, Tensor] = {}
        return self.norm(self.output(self.nodes[0]), "bn").relu()

    def paths(self, node: int) -> int:
        return 1 if node == 0 else sum(self.paths(n.id) for n in self.nodes if node in n.phrase_children)

    def parents(self, node: int) -> set[int]:
        return {n.id for n in self.nodes if node in n.phrase_children + n.lateral_children}

    def output(self, node: Node) -> Tensor:
        if node.id not in self.known:
            self.known[node.id] = self.operator(node, *self.inputs(node))
        return self.known[node.id]

    def inputs(self, node: Node) -> tuple[Tensor, Tensor]:
        first, last = node.interval
        if node.kind == "TERMINAL":
            x = torch.cat(self.words[first : last + 1], 1)
            return x, x
        parts = [self.output(self.nodes[child]) for child in node.phrase_children]
        shares = [self.paths(node.id) / self.paths(child) * self.known[child] for child in node.phrase_children]
        op, res = (torch.cat(p, 1) if node.kind == "AND" else torch.stack(p).sum(0) for p in (parts, shares))
        for child in node.lateral_children:
            op = op + self.output(self.nodes[child])
            if not self.parents(child) & self.parents(node.id):
                res = res + self.output(self.nodes[child])
        return op, res

    def operator(self, node: Node, op: Tensor, res: Tensor) -> Tensor:
        name = f"nodes.{node.id}"
        y = self.norm(F.conv2d(op, self.tensors[f"{name}.conv1.weight"]), f"{name}.bn1").relu()
        y = F.conv2d(y, self.tensors[f"{name}.conv2.weight"], padding=1)
        y = (self.attentive if f"{name}.bn2.attention.logits.weight" in self.tensors else self.norm)(y, f"{name}.bn2")
        y = self.norm(F.conv2d(y.relu(), self.tensors[f"{name}.conv3.weight"]), f"{name}.bn3")
        if res.shape[1] != sum(self.out[node.interval[0] : node.interval[1] + 1]):
            kernel = self.tensors[f"{name}.shortcut.0.weight"]
            res = self.norm(F.conv2d(res, kernel), f"{name}.shortcut.1")
        return (y + res).relu()

    def norm(self, y: Tensor, name: str, affine: bool = True) -> Tensor:
        mean, var = (self.tensors[f"{name}.running_{what}"] for what in ("mean", "var"))
        weight, bias = (self.tensors[f"{name}.{what}"] if affine else None for what in ("weight", "bias"))
        return F.batch_norm(y, mean, var, weight, bias, self.block.training, 0.1, 1e-5)

    def attentive(self, y: Tensor, name: str) -> Tensor:
        u = y.mean((2, 3)) / (y.var((2, 3)) + 1e-3).sqrt()
        logits = self.norm(u @ self.tensors[f"{name}.attention.logits.weight"].T, f"{name}.attention.logits.norm")
        mixture = F.hardtanh(logits + 3, 0, 6) / 6
        gamma, beta = (mixture @ self.tensors[f"{name}.{what}"] for what in ("weight", "bias"))
        return gamma[..., None, None] * self.norm(y, name, affine=False) + beta[..., None, None]


def make_block(graph: Graph, in_channels: int, out_channels: int, attentive: bool) -> AOGBlock:
    torch.manual_seed(graph.dims)
    block = AOGBlock(graph, in_channels, out_channels, dtype=torch.float64)
    if attentive:
        attnorm.replace_norm(block, {rf"nodes\.({'|'.join(str(n.id) for n in graph.whole)})\.bn2": 3})
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):  # as new, every norm would be the same
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                nn.init.normal_(tensor, 0, 0.2)
    return block


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("hierarchy", [0, 4])
@pytest.mark.parametrize("prune", [0, 1, 2])
@pytest.mark.parametrize("dims", [1, 2, 3, 4, 5])
def test_block_equals_its_definition(dims, prune, hierarchy, training):
    """AN and BN by turns; uneven slices wherever they are allowed; the same widths in and out for one of the cases."""
    graph = build_graph(dims, prune, hierarchy)
    in_channels, out_channels = 3 * dims + dims // 2, 6 * dims if hierarchy else 6 * dims + dims // 2
    if prune == 2:
        in_channels = out_channels
    block = make_block(graph, in_channels, out_channels, attentive=prune != 1).train(training)
    definition = ByDefinition(block, graph, out_channels)
    x = torch.randn(3, in_channels, 4, 5, dtype=torch.float64, requires_grad=True)
    names, leaves = zip(*block.named_parameters(), strict=True)
    dy = torch.randn(3, out_channels, 4, 5, dtype=torch.float64)
    expected, found = definition(x), block(x)
    assert_close(found, expected, rtol=1e-9, atol=1e-9)
    gradients = (torch.autograd.grad(y, (x, *leaves), dy) for y in (found, expected))
    for name, ours, theirs in zip(("x", *names), *gradients, strict=True):
        scale = theirs.abs().max().item()
        assert_close(ours, theirs, rtol=1e-7, atol=1e-9 * max(scale, 1), msg=lambda text, n=name: f"{n}: {text}")
    for name, buffer in block.named_buffers():
        if "running" in name:
            assert_close(buffer, definition.tensors[name], rtol=1e-9, atol=1e-9)


def test_a_node_drops_channels_of_its_last_part_only():
    """Reference 8.14: after the third norm, before the sum, whole channels, not on the shortcut."""
    torch.manual_seed(0)
    operator = NodeOperator(6, 8, 0.5, drop_rate=0.5)
    x, residual = torch.randn(2, 3, 6, 5, 5)
    with torch.no_grad():
        torch.manual_seed(1)
        found = operator(x, residual)
        y = operator.bn3(operator.conv3(operator.bn2(operator.conv2(operator.bn1(operator.conv1(x))))))
        torch.manual_seed(1)
        kept = F.dropout2d(torch.ones_like(y), 0.5)
        assert 0 < (kept == 0).sum() < kept.numel()
        assert_close(found, (y * kept + operator.shortcut(residual)).relu())
        operator.eval()
        y = operator.bn3(operator.conv3(operator.bn2(operator.conv2(operator.bn1(operator.conv1(x))))))
        assert_close(operator(x, residual), (y + operator.shortcut(residual)).relu())


@pytest.mark.parametrize(
    ("out_channels", "width"), [(206, 52), (618, 155), (186, 47), (1050, 263), (40, 10), (8, 4), (149, 37)]
)
def test_widths_round_halves_up(out_channels, width):
    """Reference 3.2: Python's own rounding would take halves to the even number, 206 to 51.5 to 52 but 186 to 46."""
    assert bottleneck_width(out_channels, 0.25) == width


def test_the_first_slices_take_what_is_over():
    assert slice_bounds(11, 4) == [0, 3, 6, 9, 11]
    assert slice_bounds(12, 4) == [0, 3, 6, 9, 12]


@pytest.mark.parametrize(
    ("dims", "in_channels", "out_channels", "message"),
    [
        (
            4,
            16,
            18,
            "out_channels must be a multiple of dims where lateral links add neighbours; got 18 channels for 4",
        ),
        (4, 3, 16, "a block needs a channel for each of its 4 words; got in_channels=3, out_channels=16"),
        (2, 4, 1, "a block needs a channel for each of its 2 words; got in_channels=4, out_channels=1"),
    ],
)
def test_impossible_widths_are_refused_at_construction(dims, in_channels, out_channels, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        AOGBlock(build_graph(dims), in_channels, out_channels)


@pytest.mark.parametrize("training", [False, True])
def test_channels_last_stays(training):
    """Slices, sums and concatenations keep the memory format, so that no convolution has to convert."""
    block = make_block(build_graph(4, 1), 18, 24, attentive=True).train(training)
    block.to(memory_format=torch.channels_last)
    seen: list[bool] = []

    def look(_, tensors: tuple[Tensor, ...], output: Tensor) -> None:
        seen.extend(t.is_contiguous(memory_format=torch.channels_last) for t in (*tensors, output))

    for module in block.modules():
        if isinstance(module, (NodeOperator, nn.Conv2d)):
            module.register_forward_hook(look)
    x = torch.randn(2, 18, 6, 5, dtype=torch.float64).to(memory_format=torch.channels_last)
    assert block(x).is_contiguous(memory_format=torch.channels_last)
    assert len(seen) == 21 * 3 + (21 * 3 + 8) * 2
    assert all(seen)


def test_equal_inputs_are_one_tensor():
    """Where the operation and the residual path take the same, nothing is computed or stored twice."""
    graph = build_graph(4, 1)
    block = AOGBlock(graph, 16, 24)
    shared: dict[str, bool] = {}
    for name, operator in block.nodes.items():
        operator.register_forward_pre_hook(lambda _, given, name=name: shared.update({name: given[0] is given[1]}))
    block(torch.randn(2, 16, 4, 4))
    # Reference 2.1: scaled children at 2, 3, 10 and 12; lateral ones that share a parent at 7, 15 and 17.
    assert {name for name, same in shared.items() if not same} == {"2", "3", "10", "12", "7", "15", "17"}
