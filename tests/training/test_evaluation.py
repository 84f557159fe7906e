import pytest
import torch
from torch import nn

from attnorm.errors import DataError
from attnorm.training.evaluation import evaluate


class Table(nn.Module):
    """Looks the logits up by the first pixel, so that the answers are known."""

    def __init__(self, rows):
        super().__init__()
        self.rows = nn.Parameter(torch.tensor(rows, dtype=torch.float32))

    def forward(self, images):
        return self.rows[images[:, 0, 0, 0].round().long()]


def batches(labels, size):
    """Image i has the pixel i; mean 0 and std 1/255 leave it as it is."""
    images = torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1)
    return list(zip(images.split(size), torch.tensor(labels).split(size), strict=True))


def run(rows, labels, size=2):
    return evaluate(Table(rows), batches(labels, size), mean=(0.0,), std=(1 / 255,))


def test_counts_and_loss_by_hand():
    """Classes ranked 5, 4, 3, 2, 1, 0: label 5 is right, labels 4 and 1 are in the top five, label 0 is not."""
    row = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    result = run([row] * 4, [5, 4, 1, 0], size=3)  # a last batch of another size
    assert result["count"] == 4
    assert (result["top1"], result["top5"]) == (25.0, 75.0)
    log_sum = torch.tensor(row).exp().sum().log().item()
    assert result["loss"] == pytest.approx(log_sum - (5 + 4 + 1 + 0) / 4, rel=1e-6)


def test_top5_of_fewer_than_five_classes_is_everything():
    assert run([[1.0, 0.0]] * 3, [0, 1, 1])["top5"] == 100.0


def test_a_network_that_is_not_finite_is_never_right():
    result = run([[float("nan"), 0.0, 0.0], [3.0, 0.0, 0.0]], [0, 0])
    assert (result["top1"], result["top5"], result["count"]) == (50.0, 50.0, 2)
    assert result["loss"] != result["loss"]


def test_training_mode_is_put_back_and_no_gradient_is_made():
    model = Table([[1.0, 0.0]] * 2).train()
    evaluate(model, batches([0, 1], 2), mean=(0.0,), std=(1 / 255,))
    assert model.training
    assert model.rows.grad is None


def test_no_images_is_an_error():
    with pytest.raises(DataError, match="has no images"):
        evaluate(Table([[1.0, 0.0]]), [], mean=(0.0,), std=(1 / 255,))
