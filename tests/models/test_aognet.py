"""AOGNet is the released one: its sizes, its values, entry by entry; and it keeps timm's contract."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from attnorm.layers.attentive import AttentiveNorm
from attnorm.models import create_model

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
        pytest.param("aognet_40m", 1964),
        pytest.param("aognet_40m_an", 2104),
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
