"""An order that reads shards a few at a time, for storage on which reading here and there is slow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attnorm.data.augment import epoch_order


@dataclass(frozen=True, kw_only=True, eq=False)
class ShardWindows:
    """Shards in random order, dealt out to the processes; of each process's, `window` after another are mixed.

    In every epoch the shards, and the images within each, are permuted. Laid end to end they are cut into one part of
    the same length per process; what is left over (fewer images than there are processes) is not in that epoch. A
    process reads its part by windows of so many shards (those that a cut went through among them), whose images are
    permuted. So it holds at most `window` shards open at a time, and at most two that another process reads too.

    Attributes:
        starts: the number of each shard's first image, and at the end the number of images; int64 (S + 1,).
        window: shards whose images are mixed, at least 1.
    """

    starts: np.ndarray
    window: int

    def order(self, seed: int, epoch: int, rank: int, world_size: int) -> np.ndarray:
        """The images of a process in an epoch, int64 (N // world_size,): a function of the arguments alone."""
        # Parts 0 of the epoch's orders: the shards; 1 to S: the images of each; after these: the window of each shard.
        sizes = np.diff(self.starts)
        shards = epoch_order(len(sizes), seed, epoch)
        ends = np.cumsum(sizes[shards])
        share = int(self.starts[-1]) // world_size
        if share == 0:
            return np.empty(0, dtype=np.int64)
        first, last = share * rank, share * (rank + 1)
        pieces: list[np.ndarray] = []
        for place in range(np.searchsorted(ends, first, side="right"), np.searchsorted(ends, last) + 1):
            shard = int(shards[place])
            images = self.starts[shard] + epoch_order(sizes[shard], seed, epoch, 1 + shard)
            begin = ends[place] - sizes[shard]
            pieces.append(images[max(first - begin, 0) : last - begin])
        windows = [np.concatenate(pieces[i : i + self.window]) for i in range(0, len(pieces), self.window)]
        mixed = [window[epoch_order(len(window), seed, epoch, 1 + len(sizes) + i)] for i, window in enumerate(windows)]
        return np.concatenate(mixed)
