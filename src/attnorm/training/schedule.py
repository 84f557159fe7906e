"""The learning rate of the paper's recipes: a linear warm-up, then half a cosine (ImageNet) or steps (COCO)."""

import math
from collections.abc import Sequence


def learning_rate(
    epoch: int,
    iteration: int,
    iterations: int,
    *,
    lr: float,
    epochs: int,
    warmup_epochs: float = 0,
    warmup_lr: float = 0.0,
    min_lr: float = 0.0,
    milestones: Sequence[int] = (),
    decay_rate: float = 0.1,
) -> float:
    """Learning rate of one iteration.

    With the progress p = epoch + (iteration + 1) / iterations and W = warmup_epochs:

        p <= W:  warmup_lr + (lr - warmup_lr) * p / W
        else:    min_lr + (lr - min_lr) * (1 + cos(pi * (p - W) / (epochs - W))) / 2

    so the first iteration already has a rate above `warmup_lr` and the last one has exactly `min_lr`. With milestones
    there is no cosine: the rate, that of the warm-up too, is multiplied by `decay_rate` for each one that is past.

    Args:
        epoch: the running epoch, from 0.
        iteration: the running iteration within it, from 0.
        iterations: iterations per epoch.
        lr: the peak rate, reached at the end of the warm-up.
        epochs: length of the whole run.
        warmup_epochs: length of the warm-up, less than `epochs`; a fraction is allowed.
        warmup_lr: the rate at which the warm-up starts.
        min_lr: the rate at the end of the cosine.
        milestones: epochs after which the rate falls: 16 is past from epoch 16 on, counted from 0.
        decay_rate: what the rate is multiplied by at a milestone.
    """
    progress = epoch + (iteration + 1) / iterations
    steps = decay_rate ** sum(epoch >= milestone for milestone in milestones)
    if progress <= warmup_epochs:
        return (warmup_lr + (lr - warmup_lr) * progress / warmup_epochs) * steps
    if milestones:
        return lr * steps
    phase = (progress - warmup_epochs) / (epochs - warmup_epochs)
    return min_lr + (lr - min_lr) * 0.5 * (1 + math.cos(math.pi * phase))
