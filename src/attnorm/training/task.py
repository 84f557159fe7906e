"""What a network is trained for: to classify images, or to detect the objects in them.

The loop is one for both. What differs is a `Task`: the data, the network, the loss of a batch and the evaluation.
"""

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from attnorm.data import DetectionData, ImageData, load_data, load_detection
from attnorm.detection.config import finds_masks
from attnorm.models.transfer import TransferReport
from attnorm.training.checkpoint import CheckpointMeta
from attnorm.training.config import Recipe, TrainConfig
from attnorm.training.metric import Metric

Row = dict[str, Any]
Place = tuple[int, int, int, int]  # seed, epoch, batch and process: what random draws depend on


class Task(Protocol):
    """A run's data, read and checked, and what is to be learned from them.

    Attributes:
        train: the training part, for `make_loader`.
        val: the evaluation part.
        metric: by which the best epoch is chosen; one of `metrics`.
        metrics: names of the numbers that `evaluate` gives.
        notes: what a person should know of the data, in sentences.
        initial: account of the weights that `network` took from elsewhere; None where it took none.
    """

    train: Any
    val: Any
    metric: Metric
    metrics: tuple[str, ...]
    notes: tuple[str, ...]
    initial: TransferReport | None

    def network(self) -> nn.Module:
        """The network with the initial weights that the seed gives.

        Raises:
            ConfigError: the network does not fit the data, or cannot be built so.
            CheckpointError: weights to start from cannot be read or do not fit.
            JobError: they cannot be fetched.
        """
        ...

    def losses(self, model: nn.Module, batch: Any, place: Place) -> dict[str, Tensor]:
        """Means over the images of a batch: `train_loss`, which is minimised, and the parts of it, to be logged."""
        ...

    def evaluate(self, model: nn.Module, loader: Iterable[Any], device: torch.device) -> Row:
        """The numbers named in `metrics`, None where one is not defined, and `val_count`, images; of all processes."""
        ...

    def header(self, model: nn.Module) -> CheckpointMeta:
        """The header of a file of the network's weights, apart from epoch and metrics."""
        ...

    def facts(self) -> dict[str, Any]:
        """What the record says of the data."""
        ...

    def line(self, row: Row) -> str:
        """An epoch's numbers for a person."""
        ...


def read_data(config: Recipe) -> ImageData | DetectionData:
    """Both parts of the data set of a recipe, for what the networks' names say that they do.

    Raises:
        ConfigError: the settings cannot be followed.
        DataError: the data are missing, empty or damaged.
    """
    if config.detects:
        return load_detection(config, masks=any(finds_masks(name) for name in config.networks))
    return load_data(config)


def make_task(config: TrainConfig, data: ImageData | DetectionData | None = None) -> Task:
    """The task of a run.

    Args:
        config: the run, resolved.
        data: what `read_data` gives; read when not given.
    """
    data = read_data(config) if data is None else data
    if isinstance(data, ImageData):
        from attnorm.training.classification import Classification

        return Classification(config, data)
    from attnorm.training.detecting import Detection

    return Detection(config, data)
