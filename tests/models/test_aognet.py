"""AOGNet is the released one: its sizes, its values, entry by entry; and it keeps timm's contract."""

import math
import re

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import attnorm
from attnorm.layers.attentive import AttentiveNorm
from attnorm.layers.placement import PLACEMENTS
from attnorm.models import create_model
from attnorm.models.aog_stage import Stem, block_widths
from attnorm.models.aognet import AOGNet

# Reference 6.3: the first logits, the sum and the L2 norm of all logits, then the mean after the stem and each stage.
GOLDEN = {
    "aognet_12m": (
        (-18.211723825, 18.4329022781, -18.2950050617, 17.9958219978),
        (-13.0365190492, 581.385144883),
        (0.0274469541, 0.122410743, 0.1564132955, 1.129377337, 3.67232798),
    ),
    "aognet_12m_an": (
        (-9.5239052532, 9.72013566424, -10.0808257487, 10.2122064843),
        (-3.96477201332, 325.051197228),
        (0.0274469541, 0.08769229881, 0.1170180134, 0.8623389671, 1.752205063),
    ),
    "aognet_40m": (
        (-223.895613013, 108.446634535, 110.131713837, -224.145265961),
        (-2.58797332449, 7090.4441145),
        (0.05031512717, 0.1544036084, 0.2477233823, 6.86479768, 33.6673096),
    ),
    "aognet_40m_an": (
        (-31.6361404876, 5.22229470231, 26.0641231685, -32.494917324),
        (-0.076917352665, 1082.02004705),
        (0.05031512717, 0.08686233613, 0.179760085, 2.364639202, 4.700471358),
    ),
}


@torch.no_grad()
def fill(model: nn.Module) -> int:
    """The reference's filling of a state dict in its order; returns the number of entries filled."""
    components = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, AttentiveNorm)}
    entries = [(name, t) for name, t in model.state_dict().items() if not name.endswith("num_batches_tracked")]
    for k, (name, tensor) in enumerate(entries):
        c = torch.cos(1 + 0.7 * k + 1.3 * torch.arange(tensor.numel(), dtype=torch.float64)).reshape(tensor.shape)
        if name in components:
            value = (1 + 0.5 * c) / len(tensor)
        elif name.endswith("running_var"):
            value = 1 + 0.5 * c
        elif name.endswith((".bias", ".running_mean")):
            value = 0.1 * c
        elif tensor.dim() == 1:
            value = 0.5 + 0.1 * c
        else:
            convolution = tensor.dim() == 4 or ".attention." in name  # the attention's was a 1x1 convolution
            value = c * math.sqrt((2 if convolution else 1) / math.prod(tensor.shape[1:]))
        tensor.copy_(value)
    return len(entries)


@pytest.mark.parametrize(
    ("name", "entries"),
    [
        ("aognet_12m", 1605),
        ("aognet_12m_an", 1725),
        ("aognet_40m", 1964),
        ("aognet_40m_an", 2104),
    ],
)
def test_golden_values(name, entries):
    """The values of the authors' code: of order, widths, placement, scales and lateral links all at once."""
    model = create_model(name, dtype=torch.float64).eval()
    assert fill(model) == entries
    x = torch.cos(0.37 * torch.arange(2 * 3 * 64 * 64, dtype=torch.float64)).reshape(2, 3, 64, 64)
    with torch.no_grad():
        features, maps = model.forward_intermediates(x)
        logits = model.forward_head(features)
    first, (total, norm), means = GOLDEN[name]
    assert_close([fmap.mean().item() for fmap in maps], list(means), rtol=1e-8, atol=0)
    assert_close(logits[0, :4].tolist(), list(first), rtol=1e-8, atol=0)
    # The sum cancels: what rounding leaves of it scales with the logits.
    assert_close([logits.sum().item(), logits.norm().item()], [total, norm], rtol=1e-8, atol=1e-8)


PARAMETERS = {
    "aognet_12m": 12_259_099,
    "aognet_12m_an": 12_373_355,
    "aognet_40m": 40_153_004,
    "aognet_40m_an": 40_388_880,
}
# Reference 6.1, part by part: stem; per stage the transition, then the blocks; with BN and with AN.
PARTS = {
    "aognet_12m": (
        7_472,
        [
            (0, 31_280, 85_376),
            (16_640, 192_960, 351_488),
            (66_048, 1_419_936, 2_580_096),
            (263_168, 6_419_635),
        ],
        825_000,
    ),
    "aognet_12m_an": (
        7_472,
        [
            (0, 33_020, 88_124),
            (16_640, 197_052, 356_924),
            (66_048, 1_442_368, 2_609_952),
            (263_168, 6_467_587),
        ],
        825_000,
    ),
    "aognet_40m": (
        22_148,
        [
            (0, 94_475, 257_936),
            (50_624, 585_648, 1_069_376),
            (201_600, 3_499_646, 5_525_396, 8_058_960),
            (804_608, 18_581_587),
        ],
        1_401_000,
    ),
    "aognet_40m_an": (
        22_148,
        [
            (0, 97_475, 262_700),
            (50_624, 592_764, 1_078_844),
            (201_600, 3_534_374, 5_568_708, 8_111_088),
            (804_608, 18_662_947),
        ],
        1_401_000,
    ),
}
# Reference 6.1: channels inside the bottlenecks, by the number of words of the node.
WIDTHS = {
    "aognet_12m": [
        [(10, 20), (16, 32)],
        [(24, 48), (32, 64)],
        [(24, 48, 72, 96), (32, 64, 96, 128)],
        [(52, 103, 155, 206)],
    ],
    "aognet_40m": [
        [(18, 35), (28, 56)],
        [(42, 84), (56, 112)],
        [(37, 75, 112, 149), (47, 93, 140, 186), (56, 112, 168, 224)],
        [(88, 175, 263, 350)],
    ],
}


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name):
    """The published numbers, in total and part by part."""
    model = create_model(name, device="meta")
    stages = [tuple(count(part) for part in (stage.transition, *stage.blocks)) for stage in model.stages]
    assert (count(model.stem), stages, count(model.fc)) == PARTS[name]
    assert count(model) == PARAMETERS[name]


@pytest.mark.parametrize(("name", "expected"), WIDTHS.items())
def test_bottleneck_widths(name, expected):
    model = create_model(name, device="meta")
    for stage, blocks in zip(model.stages, expected, strict=True):
        for block, widths in zip(stage.blocks, blocks, strict=True):
            for node in block.graph.nodes:
                assert block.nodes[str(node.id)].conv2.out_channels == widths[node.width - 1]


def test_the_small_networks_of_the_first_release():
    """Reference 4.7, for 100 classes; with AN there it had another attention, which the layer's options describe."""
    assert count(create_model("aognet_1m_cifar", num_classes=100, device="meta")) == 812_695
    options = {"gate": "sigmoid", "logit_norm": None, "statistic": "mean"}
    model = create_model("aognet_1m_cifar_an", num_classes=100, layer_options=options, device="meta")
    assert count(model) == 832_615


@pytest.mark.parametrize(
    ("arguments", "widths"),
    [
        ((32, 128, 2, 2), [80, 128]),
        ((896, 1400, 1, 4), [1400]),
        ((448, 896, 3, 4), [596, 744, 896]),  # steps of 149, the nearest multiple of 4 is 148
        ((8, 20, 2, 4), [12, 20]),  # a step of 6 lies between 4 and 8
        ((8, 22, 2, 4), [16, 22]),
    ],
)
def test_channel_schedule(arguments, widths):
    """Reference 4.3."""
    assert block_widths(*arguments) == widths


@pytest.mark.parametrize(
    ("kind", "size", "reduced"), [("deep", 33, 8), ("deep", 32, 8), ("7x7", 33, 9), ("7x7", 32, 8), ("cifar", 33, 33)]
)
def test_stems(kind, size, reduced):
    """Reference 4.1: only the 7x7 stem pads its pool, so that odd sizes round down in the released one."""
    stem = Stem(3, 8, kind)
    assert stem(torch.randn(2, 3, size, size)).shape == (2, 8, reduced, reduced)
    kernels = [(m.kernel_size[0], m.stride[0], m.out_channels) for m in stem.modules() if isinstance(m, nn.Conv2d)]
    expected = {"deep": [(3, 2, 4), (3, 1, 4), (3, 1, 8)], "7x7": [(7, 2, 8)], "cifar": [(3, 1, 8)]}
    assert kernels == expected[kind]


def attentive(model: nn.Module) -> dict[str, int]:
    return {name: len(m.weight) for name, m in model.named_modules() if isinstance(m, AttentiveNorm)}


@pytest.mark.parametrize("name", ["aognet_12m", "aognet_1m_cifar"])
def test_the_placement_by_name_is_the_one_from_the_graph(name):
    """AN in place of a network's BN by "auto" or by the placement's name gives the registered network with AN."""
    expected = attentive(create_model(f"{name}_an", device="meta"))
    nodes = {re.fullmatch(r"stages\.(\d)\.blocks\.\d\.nodes\.(\d)\.bn2", place).groups() for place in expected}
    two_words = [("0", n) for n in "012"] + [("1", n) for n in "012"]
    four_words = [(s, n) for s in "23" for n in "0123"]
    assert nodes == ({(s, n) for s in "012" for n in "0123"} if "cifar" in name else {*two_words, *four_words})
    assert set(expected.values()) == {10, 20}
    by_name = "aognet_cifar" if "cifar" in name else "aognet"
    for placement in ("auto", by_name, PLACEMENTS[by_name]):
        model = attnorm.replace_norm(create_model(name, device="meta"), placement)
        assert attentive(model) == expected


def tiny(**changes) -> AOGNet:
    """Two stages, one of two words, one of three with both mirror cuts."""
    torch.manual_seed(0)
    options = {"widths": (8, 16, 24), "depths": (2, 1), "dims": (2, 3), "prune": (1, 0), "strides": (1, 2)}
    rest = {"node_drop_rates": (0.0, 0.1), "stem_type": "cifar", "num_classes": 5, "placement": "aognet"}
    return AOGNet(**(options | rest | changes))


def test_placement_of_other_graphs():
    """With both mirror cuts three words have two ANDs on top, 2 and 3; K may be given per stage."""
    expected = {
        f"stages.{s}.blocks.{j}.nodes.{node}.bn2": k
        for s, j, nodes, k in ((0, 0, "012", 3), (0, 1, "012", 3), (1, 0, "0123", 4))
        for node in nodes
    }
    assert attentive(tiny(num_components=(3, 4))) == expected
    assert set(attentive(tiny(num_components=2)).values()) == {2}
    assert attentive(tiny(placement={r".*\.bn3": 5})) == {
        f"{block}.nodes.{node}.bn3": 5
        for block, size in (("stages.0.blocks.0", 7), ("stages.0.blocks.1", 7), ("stages.1.blocks.0", 16))
        for node in range(size)
    }
    assert attentive(tiny(placement=None)) == {}


def test_dropout_is_where_the_stage_has_it():
    rates = {name: m.p for name, m in create_model("aognet_12m").named_modules() if isinstance(m, nn.Dropout2d)}
    assert set(rates.values()) == {0.1}
    assert {name.split(".")[1] for name in rates} == {"2", "3"}
    assert len(rates) == 3 * 21


def test_initialisation():
    """Reference 4.5: every convolution by its fan-out."""
    torch.manual_seed(0)
    model = create_model("aognet_12m")
    for name in ("stages.2.blocks.1.nodes.0.conv2", "stages.3.blocks.0.nodes.1.shortcut.0", "stages.3.transition.conv"):
        kernel = model.get_submodule(name).weight
        assert abs(kernel.std() / (2 / (kernel[:, 0].numel())) ** 0.5 - 1) < 0.02


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"strides": (1, 2, 2)},
            "strides must have one value for each of the 2 stages that widths name; got (1, 2, 2)",
        ),
        ({"node_drop_rates": (0.1,)}, "node_drop_rates must have one value for each of the 2 stages"),
        ({"stem_type": "9x9"}, "stem_type must be 'deep', '7x7' or 'cifar'; got '9x9'"),
        ({"extra_node_hierarchy": 3}, "extra_node_hierarchy must be 0 (no lateral links) or 4; got 3"),
        ({"widths": (8, 16, 25)}, "out_channels must be a multiple of dims where lateral links add neighbours; got 25"),
        ({"global_pool": ""}, "a classifier needs pooled features; got num_classes=5 with global_pool=''"),
    ],
)
def test_refusals(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        tiny(**changes)


def test_intermediates():
    """Takes timm's arguments; a pruned network ends with the last output that was asked for."""
    model = tiny(
        widths=(8, 16, 32, 24),
        depths=(1, 1, 1),
        dims=(2, 2, 3),
        prune=(1, 2, 1),
        strides=(1, 2, 2),
        node_drop_rates=(0, 0, 0),
    ).eval()
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        features, (stem, *stages) = model.forward_intermediates(x)
        assert_close(stem, model.stem(x))
        assert [tuple(fmap.shape[1:]) for fmap in stages] == [(16, 16, 16), (32, 8, 8), (24, 4, 4)]
        assert_close(features, model.forward_features(x))
        last, one = model.forward_intermediates(x, [1], stop_early=True)
        assert_close(last, stages[0])
        assert_close(one[0], stages[0])
        assert_close(model.forward_intermediates(x, 2, intermediates_only=True), stages[1:])
        with pytest.raises(ValueError, match="output_fmt must be 'NCHW'; got 'NLC'"):
            model.forward_intermediates(x, output_fmt="NLC")
        assert model.prune_intermediate_layers([1, 2]) == [1, 2]
        assert_close(model(x), stages[1])
        assert model.num_features == 32
        model.reset_classifier(3, "avg")
        assert model(x).shape == (2, 3)


# One block with scaled children: tracing takes a second per node.
ONE_BLOCK = {"widths": (8, 12), "depths": (1,), "dims": (3,), "prune": (0,), "strides": (1,), "node_drop_rates": (0.0,)}


@pytest.mark.parametrize("training", [pytest.param(False, marks=pytest.mark.slow), True])
def test_compiles_whole(training):
    """Without graph breaks, with values and statistics of the eager network."""
    x = torch.randn(3, 3, 4, 4, dtype=torch.float64)
    eager = tiny(**ONE_BLOCK, dtype=torch.float64).train(training)
    model = tiny(**ONE_BLOCK, dtype=torch.float64).train(training)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert_close(compiled(x), eager(x), rtol=1e-9, atol=1e-9)
    assert_close(model.state_dict(), eager.state_dict(), rtol=1e-9, atol=1e-9)


def test_exports_with_any_batch_size():
    model = tiny(**ONE_BLOCK).eval().double()
    batch = torch.export.Dim("batch", min=2)
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: batch},))
    wider = torch.randn(5, 3, 4, 4, dtype=torch.float64)
    assert_close(program.module()(wider), model(wider), rtol=1e-9, atol=1e-9)


def test_mixed_precision():
    """Sums in place of tensors of two precisions would fail, or lose digits: bfloat16 has eight bits."""
    model = tiny(node_drop_rates=(0.0, 0.0))
    x = torch.randn(4, 3, 8, 8)
    expected = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(x)
    assert logits.dtype == torch.bfloat16
    assert (logits - expected).norm() < 0.1 * expected.norm()
    logits.float().square().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
