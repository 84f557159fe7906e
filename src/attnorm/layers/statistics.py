"""Statistics of a batch: those at hand, those kept for evaluation, those of all processes together.

Everything here works on instance moments (N, C); no pass over an activation is made.
"""

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from attnorm.layers.reference import batch_statistics

# A statistic of a single value says nothing: nn.BatchNorm refuses it in training, and so do the layers here.
WAYS_OUT = "use model.eval(), attnorm.freeze_norm(model)"


class BatchStatistics(nn.Module):
    """The statistics side of a batch-standardised layer, with the names and rules of nn.BatchNorm2d.

    Not a subclass of any BatchNorm: converters that look for one would replace the layer and lose its parameters.

    Attributes:
        frozen: Use the running statistics in training too, and leave them as they are.
        process_group: The processes over which training statistics are pooled; None: this process alone.
        synchronised: Whether they are pooled at all.
    """

    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(
        self,
        num_features: int,
        eps: float,
        momentum: float | None,
        track_running_stats: bool,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.track_running_stats = track_running_stats
        self.frozen = False
        self.synchronised = False
        self.process_group: dist.ProcessGroup | None = None
        tracked = track_running_stats
        stat = torch.empty(num_features, device=device, dtype=dtype)
        self.register_buffer("running_mean", torch.zeros_like(stat) if tracked else None)
        self.register_buffer("running_var", torch.ones_like(stat) if tracked else None)
        count = torch.zeros((), device=device, dtype=torch.long)
        self.register_buffer("num_batches_tracked", count if tracked else None)
        if tracked:
            self.register_load_state_dict_pre_hook(_count_from_zero)  # pyright: ignore[reportUnknownMemberType]

    def reset_running_stats(self) -> None:
        """Set the running statistics to mean 0, variance 1, no batches seen."""
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            self.running_mean.zero_()
            self.running_var.fill_(1)
            self.num_batches_tracked.zero_()

    @property
    def uses_batch(self) -> bool:
        """Whether the batch's own statistics are used, rather than the running ones."""
        return (self.training and not self.frozen) or self.running_mean is None

    @property
    def is_synchronised(self) -> bool:
        """Whether statistics are pooled over more than one process right now."""
        return (
            self.synchronised
            and self.training
            and dist.is_available()
            and dist.is_initialized()
            and dist.get_world_size(self.process_group) > 1
        )

    def standardiser(self, mean: Tensor, var: Tensor, pixels: int) -> tuple[Tensor, Tensor]:
        """The mean and variance (C,) to standardise with; in training, the running statistics are updated.

        Args:
            mean: Instance means (N, C).
            var: Biased instance variances (N, C).
            pixels: Values behind each of them.
        """
        running_mean, running_var = self.given_statistics(mean.dtype)
        if running_mean is not None and running_var is not None:
            return running_mean, running_var
        samples = mean.shape[0]
        if self.is_synchronised:
            mu, sigma2, count = synchronised_statistics(mean, var, pixels, self.process_group)
            # On the device, so that no process waits for the number.
            self.update_running(mu, sigma2, count / (count - 1).clamp(min=1))
            return mu, sigma2
        if samples == 0:
            # An empty batch has no statistics: nothing to standardise, nothing to learn from.
            return mean.sum(0), var.sum(0) + 1
        self.check_count(samples * pixels)
        mu, sigma2 = batch_statistics(mean, var)
        count = samples * pixels
        self.update_running(mu, sigma2, count / max(count - 1, 1))
        return mu, sigma2

    def given_statistics(self, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
        """The running mean and variance (C,), or None, None where the batch's own are used."""
        if self.uses_batch:
            return None, None
        mean, var = self.running_mean, self.running_var
        assert mean is not None
        assert var is not None
        return mean.to(dtype), var.to(dtype)

    def check_count(self, values: int) -> None:
        """Refuse a single value per channel in training."""
        if self.training and values == 1:
            raise ValueError(
                f"batch statistics need more than 1 value per channel; got 1 sample of 1 pixel: {WAYS_OUT}, or a "
                "larger batch"
            )

    @torch.no_grad()
    def update_running(self, mean: Tensor, var: Tensor, unbias: Tensor | float) -> None:
        """Let the running statistics follow those of a batch, in training mode.

        Args:
            mean: (C,).
            var: (C,), biased.
            unbias: What makes var unbiased, n / (n - 1).
        """
        if not self.training or self.running_mean is None:
            return
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        rate = self.momentum
        if rate is None:
            # The plain average of all batches; its rate stays a tensor, so that compiling does not break here.
            rate = self.num_batches_tracked.to(mean.dtype).reciprocal()
        _step_towards(mean, self.running_mean, rate)
        _step_towards(var * unbias, self.running_var, rate)


def _step_towards(new: Tensor, running: Tensor, rate: Tensor | float) -> None:
    """Move running statistics by a share of the way, in place; those in half precision are rounded once, at the end."""
    dtype = torch.promote_types(new.dtype, running.dtype)
    wide = running.to(dtype)
    wide.lerp_(new.to(dtype), rate.to(dtype) if isinstance(rate, Tensor) else rate)
    if wide is not running:
        running.copy_(wide)


def _count_from_zero(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Networks saved without the counter, such as frozen ones, load all the same, as into nn.BatchNorm."""
    key = prefix + "num_batches_tracked"
    if prefix + "running_mean" in state_dict:
        state_dict.setdefault(key, torch.zeros((), dtype=torch.long))


class _PooledStatistics(Function):
    """Mean and variance over all processes, with one collective in each direction.

    Forward gathers 2C + 1 values of every process: they cannot simply be summed, since squares are to be taken around
    the common mean. Backward sums 2C values, the gradients of the pooled mean and variance; the rest is local.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, mean: Tensor, var: Tensor, pixels: int, group: dist.ProcessGroup | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        samples, channels = mean.shape
        # No samples have no mean, but they weigh nothing.
        mu, sigma2 = batch_statistics(mean, var) if samples else (mean.sum(0), var.sum(0))
        local = torch.cat([mu, sigma2, mu.new_full((1,), samples * pixels)])
        parts = [torch.empty_like(local) for _ in range(dist.get_world_size(group))]
        dist.all_gather(parts, local, group=group)
        gathered = torch.stack(parts)
        mus, sigma2s, counts = gathered[:, :channels], gathered[:, channels:-1], gathered[:, -1:]
        count = counts.sum()
        shares = counts / count.clamp(min=1)
        pooled = (shares * mus).sum(0)
        # Centred on the common mean before squaring, so that no digits are lost where |mean| >> std.
        pooled_var = (shares * (sigma2s + (mus - pooled).square())).sum(0)
        ctx.save_for_backward(mean, pooled, pixels / count.clamp(min=1))
        ctx.group = group
        ctx.mark_non_differentiable(count)
        return pooled, pooled_var, count

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]
        ctx: Any, grad_mean: Tensor, grad_var: Tensor, _: Tensor
    ) -> tuple[Tensor, Tensor, None, None]:
        mean, pooled, share = ctx.saved_tensors
        grads = torch.stack([grad_mean, grad_var])
        dist.all_reduce(grads, group=ctx.group)
        grad_mean, grad_var = share * grads  # what one sample has in them
        # The variance is taken around a mean that moves as well, but to first order that does not change it.
        return grad_mean + 2 * grad_var * (mean - pooled), grad_var.expand_as(mean), None, None


def synchronised_statistics(
    mean: Tensor, var: Tensor, pixels: int, group: dist.ProcessGroup | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Pool instance moments (N, C) over all processes in one collective.

    N may differ between the processes and may be 0; so may `pixels`, as where images have several sizes: every value
    counts the same. The backward pass is one collective too, so all processes have to make it.

    Args:
        mean: Instance means (N, C).
        var: Biased instance variances (N, C).
        pixels: Values behind each of them.
        group: The processes; None: all.

    Returns:
        Mean (C,), biased variance (C,), number of values per channel of all processes ().
    """
    return cast(tuple[Tensor, Tensor, Tensor], _PooledStatistics.apply(mean, var, pixels, group))
