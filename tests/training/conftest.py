"""A training run of seconds: a CIFAR-type ResNet with AN on scikit-learn's digits."""

from dataclasses import replace

import pytest

from attnorm.training.config import TrainConfig
from attnorm.training.loop import fit


@pytest.fixture
def tiny(tmp_path):
    """Two epochs of ten batches."""
    return TrainConfig(
        model="resnet8_cifar_an", dataset="digits", output=str(tmp_path / "run"), epochs=2, batch_size=100, lr=0.05
    )


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A finished run that tests read and do not change: its configuration and its record."""
    config = TrainConfig(
        model="resnet8_cifar_an",
        dataset="digits",
        output=str(tmp_path_factory.mktemp("trained") / "run"),
        epochs=3,
        batch_size=100,
        lr=0.1,
    )
    return config, fit(config, quiet=True)


@pytest.fixture
def elsewhere(tmp_path):
    """Gives a configuration with another output folder."""
    return lambda config, name, **changes: replace(config, output=str(tmp_path / name), **changes)
