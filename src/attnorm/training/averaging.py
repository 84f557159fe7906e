"""The average of the weights over the steps of a run."""

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from torch import nn

from attnorm.training.module import TrainModule


class WeightAverage(Callback):
    """Exponential moving average of the weights and of the running statistics of normalisation, by timm's ModelEmaV3.

    Lightning's own callback averages the integer buffers of BatchNorm as well and rounds them down, so that
    `num_batches_tracked` stands still at 1; timm's copies integers.

    Args:
        model: the network, before it is compiled or wrapped.
        decay: of the average per optimizer step.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        from timm.utils.model_ema import ModelEmaV3

        self.ema = ModelEmaV3(model, decay=decay)
        self._step = 0

    @property
    def model(self) -> nn.Module:
        """The network with the averaged weights."""
        return self.ema.module

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Brings the average to the device of the network."""
        self.ema.to(trainer.strategy.root_device)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Finds the step from which the run goes on."""
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Follows the network after each optimizer step."""
        assert isinstance(pl_module, TrainModule)
        if trainer.global_step > self._step:
            self._step = trainer.global_step
            self.ema.update(pl_module.model, step=self._step)

    def state_dict(self) -> dict[str, Any]:
        """The average, for the resume state."""
        return {"average": self.model.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the average back."""
        self.model.load_state_dict(state_dict["average"])
