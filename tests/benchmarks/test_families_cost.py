"""What AOGNet's speed is measured against computes the same."""

import torch
from torch.testing import assert_close

from attnorm.models import create_model
from benchmarks.families_cost import plain_network


def test_the_plain_evaluation_gives_the_networks_logits():
    torch.manual_seed(0)
    model = create_model("aognet_1m_cifar_an").double()
    x = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    model(x)  # so that the running statistics are of some use
    model.eval()
    with torch.no_grad():
        assert_close(model(x), plain_network(model, x))
