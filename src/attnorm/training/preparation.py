"""What comes before the first step of a run, and writes nothing: `fit` and the dry run share it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from attnorm.data import make_loader
from attnorm.data.loader import TrainSampler
from attnorm.errors import ConfigError
from attnorm.training.checks import check_batch, check_peak, check_processes, check_recipe
from attnorm.training.config import TrainConfig, resolve
from attnorm.training.optimizer import check_optimizer
from attnorm.training.output import Start, find_start
from attnorm.training.processes import (
    Processes,
    check_precision,
    choose_device,
    process_group,
    sum_over_processes,
    wait_for_all,
)
from attnorm.training.task import Task, make_task

if TYPE_CHECKING:
    from attnorm.training.averaging import WeightAverage
    from attnorm.training.module import TrainModule
    from attnorm.training.sharding import WholeNetwork


@dataclass(frozen=True)
class Launch:
    """A run whose settings are in order, in one of its processes.

    Attributes:
        config: resolved and checked.
        start: how it begins; with a record nothing is left to do.
    """

    config: TrainConfig
    start: Start
    processes: Processes
    device: torch.device


@dataclass(frozen=True)
class Prepared:
    """All that training needs.

    Attributes:
        model: the network, with the initial weights; `module` trains it.
        train: the batches of an epoch of this process.
        val: those of an evaluation.
        average: the averaged network, where the recipe has one.
        whole: where `model` is sharded, what it is put together in.
    """

    launch: Launch
    task: Task
    model: nn.Module
    module: "TrainModule"
    train: Any
    val: Any
    average: "WeightAverage | None"
    whole: "WholeNetwork | None"

    def evaluated(self) -> nn.Module:
        """The network as it is evaluated and saved, up to date; all processes ask together."""
        if self.average is not None:
            return self.average.model
        return self.model if self.whole is None else self.whole.of(self.model)


@contextmanager
def launched(config: TrainConfig) -> Iterator[Launch]:
    """Checks the settings, joins the other processes for the length of the block, and looks at the output folder.

    Raises:
        ConfigError: settings that contradict each other, or the output holds another run.
        CheckpointError: the state to resume from cannot be read.
    """
    config = resolve(config)
    check_recipe(config)
    check_optimizer(config)
    processes = Processes.from_environment()
    check_peak(config, processes.count)
    check_processes(config, processes.count)
    device = choose_device(config.device, processes)
    check_precision(config.precision, device)
    with process_group(processes, device):
        start = find_start(config, processes.count)
        _check_same_start(start, processes, device)
        yield Launch(config, start, processes, device)


def _check_same_start(start: Start, processes: Processes, device: torch.device) -> None:
    """Refuses to go on where the processes found different states: one machine's disk is not the others'."""
    own = start.batches if start.record is None else -1
    found = sum_over_processes([float(own * (rank == processes.rank)) for rank in range(processes.count)], device)
    if len(set(found)) > 1:
        raise ConfigError(
            "output must be a folder that all processes see, and they find runs there of "
            f"{', '.join(f'{count:.0f}' for count in found)} batches; name one on a disk that the machines share"
        )


def prepare(launch: Launch) -> Prepared:
    """Reads the data and makes the network, in every process of the run.

    Raises:
        ConfigError: the network does not fit the data or the recipe.
        DataError: data that are missing or damaged.
    """
    from attnorm.training.averaging import WeightAverage
    from attnorm.training.module import TrainModule

    config, processes = launch.config, launch.processes
    task = make_task(config)
    model = task.network()
    wait_for_all()  # nobody may find files of this run in the output before having looked for another run's
    if config.sync_bn and processes.count > 1:
        from attnorm.layers import sync_norm

        model = sync_norm(model)
    check_batch(config, model)
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    train, val = (
        make_loader(part, batch_size=config.batch, train=part is task.train, seed=config.seed, workers=config.workers)
        for part in (task.train, task.val)
    )
    _check_warmup(config, len(train))
    if isinstance(train.sampler, TrainSampler):
        # Before Lightning restores the loader's state: at the end of an epoch that state has no images left.
        train.sampler.set_epoch(launch.start.batches // len(train))
    module = TrainModule(
        model,
        config,
        task,
        iterations=len(train),
        processes=processes.count,
        rank=processes.rank,
    )
    if launch.start.checkpoint is not None:
        module.last_checkpoint = str(launch.start.checkpoint)
    average = WeightAverage(model, config.model_ema_decay) if config.model_ema else None
    if config.torchcompile:
        model.compile()
    return Prepared(launch, task, model, module, train, val, average, _whole(config, model))


def _whole(config: TrainConfig, model: nn.Module) -> "WholeNetwork | None":
    if config.strategy != "fsdp":
        return None
    from attnorm.training.sharding import WholeNetwork

    return WholeNetwork(model)


def _check_warmup(config: TrainConfig, iterations: int) -> None:
    steps = config.epochs * iterations // config.grad_accum_steps
    if config.warmup_iters is not None and config.warmup_iters >= steps:
        raise ConfigError(f"warmup_iters must be less than the {steps} steps of the run, got {config.warmup_iters}")
