"""Lightning's Trainer as this package uses it."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from attnorm.files import replacing
from attnorm.training.config import TrainConfig
from attnorm.training.fetching import FetchClock
from attnorm.training.processes import Processes

LIGHTNING_PRECISION = {"32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


class WholeFiles(TorchCheckpointIO):
    """Writes Lightning's checkpoints whole or not at all, without a copy in memory or in another folder."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes one, in the process that Lightning chose.

        Raises:
            JobError: the disk has no room for it; those before are whole.
        """
        with replacing(path) as temporary, temporary.open("wb") as file:
            torch.save(checkpoint, file)


def make_trainer(
    config: TrainConfig,
    processes: Processes,
    device: torch.device,
    callbacks: list[Any],
    *,
    clock: FetchClock,
    batches: int | None = None,
) -> pl.Trainer:
    """The Trainer of a run: it drives the batches and the processes; evaluation, logs and checkpoints are ours.

    Args:
        config: the run, resolved.
        processes: those that train together.
        device: of this process.
        callbacks: what else happens.
        clock: to be told when batches are fetched.
        batches: train on so many and stop, without a callback that writes checkpoints; None: the whole run.
    """
    return pl.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=processes.local_count if processes.count > 1 or device.type == "cpu" else [device.index or 0],
        num_nodes=processes.count // processes.local_count,
        strategy=_strategy(config, processes),
        precision=LIGHTNING_PRECISION[config.precision],  # pyright: ignore[reportArgumentType]
        max_epochs=config.epochs if batches is None else 1,
        limit_train_batches=batches,
        enable_checkpointing=batches is None,
        profiler=clock,
        limit_val_batches=0,  # evaluation is ours: the same function as `attnorm eval`
        accumulate_grad_batches=config.grad_accum_steps,
        gradient_clip_val=config.clip_grad,
        callbacks=callbacks,
        plugins=[WholeFiles()],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        benchmark=device.type == "cuda",
    )


def _strategy(config: TrainConfig, processes: Processes) -> Any:
    if processes.count == 1:
        return "auto"
    if config.strategy == "ddp":
        return "ddp"
    from attnorm.training.sharding import ShardedStrategy

    return ShardedStrategy()


def run_trainer(trainer: pl.Trainer, module: pl.LightningModule, loader: Any, checkpoint: Path | None) -> None:
    """Trains, from a checkpoint where there is one.

    Raises:
        JobError: the run was told to stop, or its state cannot be written.
        KeyboardInterrupt: it was interrupted.
    """
    try:
        trainer.fit(module, loader, ckpt_path=checkpoint, weights_only=True)
    except SystemExit:
        # Lightning turns an interrupt into an exit; what it means is for the caller to say.
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silences Lightning for the length of a run: what a user is to know is said by this package."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "lightning")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        # Its advice (more workers, sync_dist, a logger) is about choices that are made here, not by the user.
        warnings.filterwarnings("ignore", module=r"lightning(\..*)?")
        warnings.filterwarnings("ignore", message=r".*torch\.distributed\.reduce_op.*")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
