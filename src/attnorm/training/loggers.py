"""TensorBoard and Weights & Biases: both get the numbers of each epoch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from attnorm.training.config import TrainConfig, recorded
from attnorm.training.task import Row


class EventFiles:
    """Writes the numbers as TensorBoard's events.

    Args:
        folder: for the event files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer: Any = None

    def write(self, row: Row) -> None:
        """Writes an epoch's numbers, those that there are."""
        from torch.utils.tensorboard import SummaryWriter

        if self._writer is None:
            # A run that was killed after it had written this epoch writes it anew: purge_step hides what was there.
            self._writer = SummaryWriter(str(self.folder), purge_step=row["epoch"])
        for name, value in row.items():
            if value is not None:
                self._writer.add_scalar(name, value, row["epoch"])
        self._writer.flush()


def make_loggers(config: TrainConfig) -> tuple[Callable[[Row], None], ...]:
    """What the recipe asks for; each is called in the first process with an epoch's row."""
    made: list[Callable[[Row], None]] = []
    if config.log_tensorboard:
        made.append(EventFiles(Path(config.output) / "tensorboard").write)
    if config.log_wandb:
        from lightning.pytorch.loggers import WandbLogger

        wandb = WandbLogger(save_dir=config.output, project="attnorm", config=recorded(config))
        made.append(lambda row: wandb.log_metrics({k: v for k, v in row.items() if v is not None}, step=row["epoch"]))
    return tuple(made)
