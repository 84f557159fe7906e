"""Batches from a data set, in an order that can be resumed in mid-epoch."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import distributed
from torch.utils.data import IterableDataset, Sampler

from attnorm.data.augment import SampleKey, epoch_order
from attnorm.errors import ConfigError, DataError

if TYPE_CHECKING:
    from torchdata.stateful_dataloader import StatefulDataLoader

    from attnorm.data.detection_data import DetectionDataset
    from attnorm.data.image_data import BatchDataset
    from attnorm.data.shard_order import ShardWindows


class TrainSampler(Sampler[SampleKey]):
    """A new permutation in every epoch, dealt out to the processes, with the augmentation's key beside each index.

    The order is a function of (seed, epoch). With several processes each takes every world_size-th sample, and the
    count % world_size samples at the end of the permutation are left out of that epoch, so that all processes do the
    same number of steps.

    Args:
        count: the number of samples in the data set.
        seed: at least 0.
        rank: this process.
        world_size: the number of processes.
        groups: for each sample the number of its group, (count,): the batches of all processes are then of one group
            each, see `grouped_order`. None: no groups.
        batch_size: per process; matters with groups only.
        windows: shards that are read a few at a time, see `ShardWindows`; each process then has shards of its own
            instead of every world_size-th sample. None: no shards. Not together with groups.
    """

    def __init__(
        self,
        count: int,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        groups: np.ndarray | None = None,
        batch_size: int = 1,
        windows: ShardWindows | None = None,
    ) -> None:
        if seed < 0:
            raise ConfigError(f"seed must be at least 0; got {seed}")
        self.count, self.seed, self.rank, self.world_size = count, seed, rank, world_size
        self.groups, self.batch_size, self.windows = groups, batch_size, windows
        self.epoch: int | None = None

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next iteration is; Lightning does so by itself. Without it, epoch 0 is repeated."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count // self.world_size

    def __iter__(self) -> Iterator[SampleKey]:
        return _TrainOrder(self)


class _TrainOrder(Iterator[SampleKey]):
    """One epoch's samples; its state is (epoch, position)."""

    def __init__(self, sampler: TrainSampler) -> None:
        self.sampler = sampler
        self._start(sampler.epoch or 0, 0)

    def _start(self, epoch: int, position: int) -> None:
        s = self.sampler
        if s.windows is not None:
            self.order = s.windows.order(s.seed, epoch, s.rank, s.world_size)
        else:
            order = epoch_order(s.count, s.seed, epoch)
            if s.groups is not None:
                order = grouped_order(order, s.groups, s.batch_size * s.world_size)
            self.order = order[: len(s) * s.world_size][s.rank :: s.world_size].copy()  # not the others' parts too
        self.epoch, self.position = epoch, position

    def __next__(self) -> SampleKey:
        if self.position >= len(self.order):
            raise StopIteration
        self.position += 1
        return SampleKey(int(self.order[self.position - 1]), self.epoch, self.sampler.seed)

    def _identity(self) -> dict[str, int]:
        s = self.sampler
        batch_size = 0 if s.groups is None else s.batch_size  # the order depends on it in groups only
        window = 0 if s.windows is None else s.windows.window
        return {
            "count": s.count,
            "seed": s.seed,
            "world_size": s.world_size,
            "grouped_batch_size": batch_size,
            "shard_window": window,
        }

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "position": self.position, **self._identity()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where `state` was taken; start anew when set_epoch has meanwhile named another epoch.

        The latter is what a checkpoint written after an epoch's last batch needs: its loader has nothing left.

        Raises:
            DataError: the state was taken with other data, another seed or another number of processes.
        """
        for name, here in self._identity().items():
            there = state.get(name, 0)  # a checkpoint from before there were groups or windows does not have theirs
            if there != here:
                raise DataError(
                    f"a run can only be resumed in mid-epoch with the same {name}: the checkpoint has {there}, "
                    f"this run {here}; use the same settings, or resume from a checkpoint at an epoch's end"
                )
        if self.sampler.epoch in (None, state["epoch"]):
            self._start(state["epoch"], state["position"])


def grouped_order(order: np.ndarray, groups: np.ndarray, size: int) -> np.ndarray:
    """Rearrange an order so that every `size` samples in a row are of one group.

    Such a row comes where its last sample would have come. What does not fill a row lies at the end, mixed.

    Args:
        order: a permutation of the samples, (N,).
        groups: for each sample the number of its group, (N,).
        size: samples in a row.
    """
    rows: list[np.ndarray] = []
    rest: list[np.ndarray] = []
    for group in np.unique(groups):
        places = np.flatnonzero(groups[order] == group)
        full = len(places) // size * size
        rows.append(places[:full].reshape(-1, size))
        rest.append(places[full:])
    whole = np.concatenate(rows)
    whole = whole[np.argsort(whole[:, -1])]
    return order[np.concatenate([whole.ravel(), np.sort(np.concatenate(rest))])]


class EvalSampler(Sampler[int]):
    """Every sample once, in order; with several processes each takes every world_size-th, none twice."""

    def __init__(self, count: int, *, rank: int = 0, world_size: int = 1) -> None:
        self.indices = range(rank, count, world_size)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)


def make_loader(
    dataset: BatchDataset | DetectionDataset | IterableDataset[Any],
    *,
    batch_size: int,
    train: bool,
    seed: int = 0,
    workers: int = 0,
    drop_last: bool | None = None,
) -> StatefulDataLoader[Any]:
    """Batches of (images uint8 (B, C, H, W), labels int64 (B,)); of a `DetectionDataset` lists of images and targets.

    With torch.distributed initialised, each process gets its own part: in training all the same number of batches, in
    evaluation every sample exactly once over all processes (so the last batches may differ in size and number).
    Lightning must be told `use_distributed_sampler=False`. Its `set_epoch` is called on `loader.sampler`.

    Args:
        dataset: a part of an `ImageData` or of a `DetectionData`, whose images in training are batched by their groups.
        batch_size: images per batch and process.
        train: shuffled and augmented by (seed, epoch), else in order and plain.
        seed: of order and augmentation, at least 0; unused in evaluation.
        workers: processes that read; 0 reads in this one, which is best for the sets that are held in memory.
        drop_last: leave out an incomplete last batch. None: in training only.

    Raises:
        ConfigError: batch_size, workers or seed are out of range, or no batch can be filled.
    """
    from attnorm.data.workers import Loader

    if batch_size < 1 or workers < 0:
        raise ConfigError(f"batch_size must be at least 1 and workers at least 0; got {batch_size} and {workers}")
    drop_last = train if drop_last is None else drop_last
    sampler = None if isinstance(dataset, IterableDataset) else _sampler(dataset, train, seed, batch_size)
    if sampler is not None and drop_last and len(sampler) < batch_size:
        raise ConfigError(
            f"batch_size must be at most {len(sampler)}, the number of images per process, when an incomplete batch is "
            f"left out; got {batch_size}"
        )
    with warnings.catch_warnings():
        # torchdata 0.11 calls it at every construction; nothing that a user could act on
        warnings.filterwarnings("ignore", "'set_vital' is deprecated", UserWarning)
        return Loader(
            dataset,  # pyright: ignore[reportArgumentType]  # a protocol, where torch asks for its base class
            batch_size=batch_size,
            sampler=sampler,
            num_workers=workers,
            collate_fn=_as_it_is if sampler is not None else None,  # pyright: ignore[reportArgumentType]
            pin_memory=torch.cuda.is_available(),
            drop_last=drop_last,
            persistent_workers=workers > 0,
        )


def _sampler(
    dataset: BatchDataset | DetectionDataset, train: bool, seed: int, batch_size: int
) -> TrainSampler | EvalSampler:
    rank, world_size = 0, 1
    if distributed.is_available() and distributed.is_initialized():
        rank, world_size = distributed.get_rank(), distributed.get_world_size()
    if train:
        return TrainSampler(
            len(dataset),
            seed=seed,
            rank=rank,
            world_size=world_size,
            groups=getattr(dataset, "groups", None),  # data sets of images of one size have none
            batch_size=batch_size,
            windows=getattr(dataset, "windows", None),  # nor those whose images are not in shards
        )
    return EvalSampler(len(dataset), rank=rank, world_size=world_size)


def _as_it_is(batch: Any) -> Any:
    """The data sets make whole batches themselves."""
    return batch
