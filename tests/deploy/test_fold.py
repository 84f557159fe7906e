"""AN for inference, folded: the same outputs in float64, in every variant, in few nodes."""

import itertools

import pytest
import torch
from torch import nn
from torch.export import Dim

from attnorm.deploy.fold import FoldedNorm, fold_norm
from attnorm.layers.attention import GATES
from attnorm.layers.norm import AttentiveBatchNorm1d, AttentiveBatchNorm2d, AttentiveBatchNorm3d, AttentiveGroupNorm
from attnorm.layers.norm_act import AttentiveBatchNormAct2d, AttentiveGroupNormAct
from attnorm.models import create_model
from benchmarks.inference_cost import enliven

NODES = 17  # of an AN layer
SIZES = 12  # further ones for every size of a map: the number of its pixels, from the size of the images


def trained(layer):
    """A layer in evaluation mode whose every parameter and running statistic has been somewhere."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, value in itertools.chain(layer.named_parameters(), layer.named_buffers()):
            if value.is_floating_point():
                value.add_(torch.rand(value.shape, generator=generator).to(value) * 0.5)
    return layer.double().eval()


@pytest.mark.parametrize("logit_norm", ["batch", "layer", "group", None])
@pytest.mark.parametrize("gate", list(GATES))
@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_equals_the_layer(gate, logit_norm, head):
    """To 1e-12 in float64: the algebra is exact, some twenty roundings of 1e-16 are grown by the mixture's sums."""
    x = 3 + 2 * torch.randn(4, 16, 7, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for statistic in ("mean_over_std", "mean", "mean_plus_max"):
        options = {"gate": gate, "logit_norm": logit_norm, "logit_groups": 2, "head": head, "statistic": statistic}
        for layer in (AttentiveBatchNorm2d(16, 4, **options), AttentiveGroupNorm(16, 4, 4, **options)):
            trained(layer)
            folded = fold_norm(layer)
            assert isinstance(folded, FoldedNorm)
            torch.testing.assert_close(folded(x), layer(x), rtol=1e-12, atol=1e-12)
            pixel = x[:, :, :1, :1]
            torch.testing.assert_close(folded(pixel), layer(pixel), rtol=1e-12, atol=1e-12)


def test_equals_layers_of_other_ranks_and_with_activations():
    maps = torch.randn(4, 16, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    cases = [
        (AttentiveBatchNorm1d(16, 4), maps[:, :, 0, 0]),
        (AttentiveBatchNorm1d(16, 4), maps[:, :, 0]),
        (AttentiveBatchNorm3d(16, 4), maps[:, :, None]),
        (AttentiveBatchNormAct2d(16, 4, act_layer="silu"), maps),
        (AttentiveGroupNormAct(16, 4, 4, drop_layer=lambda: nn.Dropout2d(0.5)), maps),
    ]
    for layer, x in cases:
        trained(layer)
        torch.testing.assert_close(fold_norm(layer)(x), layer(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["resnet20_cifar_an", "mobilenetv2_100_an", "aognet_1m_cifar_an"])
def test_equals_the_network(name):
    """In float64, where what a random network makes of rounding is far below any mistake in the algebra."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = enliven(create_model(name), torch.randn(4, 3, 32, 32, generator=generator)).double()
    x = torch.randn(2, 3, 40, 33, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(fold_norm(model)(x), model(x), rtol=1e-9, atol=1e-9)


def test_a_network_is_copied_and_shared_layers_stay_shared():
    shared = trained(AttentiveBatchNorm2d(8, 4))
    model = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared)}).train()
    folded = fold_norm(model)
    assert folded["a"] is folded["b"][0]
    assert model["a"] is shared
    assert model.training
    assert not folded.training


def test_a_layer_that_depends_on_the_batch_stays():
    layer = AttentiveBatchNorm2d(8, 4, track_running_stats=False).double().eval()
    folded = fold_norm(nn.Sequential(layer))
    assert isinstance(folded[0], AttentiveBatchNorm2d)


def nodes_of(model, channels):
    """The operators of a model as ONNX, with any batch and image size."""
    images = torch.randn(2, channels, 32, 32)
    sizes = ({0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC},)
    program = torch.export.export(fold_norm(model.float().eval()), (images,), dynamic_shapes=sizes)
    made = torch.onnx.export(program, dynamo=True, verbose=False)
    return [node.op_type for node in made.model_proto.graph.node]


def test_a_layer_is_few_nodes():
    """Three matrix products and one multiplication and addition of the map; no chain of shapes, nothing expanded."""
    layer = trained(AttentiveBatchNorm2d(16, 4))
    operators = nodes_of(nn.Sequential(layer, nn.ReLU()), 16)
    assert operators.count("Gemm") == 3
    assert operators.count("Relu") == 1
    # The number of pixels comes from the two sides of the images.
    assert operators.count("Shape") == 2
    assert not {"Expand", "Concat", "Gather", "BatchNormalization", "ReduceSum"} & set(operators)
    assert len(operators) <= NODES + SIZES + 1
    # What belongs to the size is there once.
    assert len(nodes_of(nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU()), 16)) <= 2 * (NODES + 1) + SIZES
