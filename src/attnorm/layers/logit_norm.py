"""The norm on the logits of the channel attention."""

from typing import Literal

import torch
from torch import Tensor, nn

from attnorm.layers.statistics import WAYS_OUT, BatchStatistics

LogitNormName = Literal["batch", "layer", "group"]


class LogitNorm(BatchStatistics):
    """The norm on the attention's logits (N, K), with affine parameters of its own.

    "batch" sees N values per component and keeps running statistics; "layer" and "group" see one sample's logits.
    """

    def __init__(
        self,
        num_features: int,
        kind: LogitNormName,
        num_groups: int,
        *,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        track_running_stats: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, kind == "batch" and track_running_stats, device, dtype)
        if kind == "group" and num_features % num_groups:
            raise ValueError(f"logit_groups must divide the {num_features} logits; got {num_groups}")
        self.kind = kind
        self.num_groups = num_groups if kind == "group" else 1
        self.weight = nn.Parameter(torch.ones(num_features, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(num_features, device=device, dtype=dtype))

    def forward(self, logits: Tensor) -> Tensor:
        """Normalise logits (N, K)."""
        weight, bias = self.weight.to(logits.dtype), self.bias.to(logits.dtype)
        if self.kind != "batch":
            # Not F.group_norm, which refuses one logit of one sample, in evaluation as well.
            return torch.group_norm(logits, self.num_groups, weight, bias, self.eps)
        self.check_count(logits.shape[0])
        mu, var = self.standardiser(logits, torch.zeros_like(logits), pixels=1)
        return (logits - mu) * (var + self.eps).rsqrt() * weight + bias

    @torch.no_grad()
    def follow(self, logits: Tensor, mean: Tensor, rstd: Tensor) -> None:
        """Let the running statistics follow those of logits (N, K), of which mean and rstd (K,) are known."""
        running = self.running_mean
        if running is None:
            return
        if self.momentum is not None and running.dtype == logits.dtype and not torch.compiler.is_compiling():
            # One operation in place of seven; but compilers are not told that it changes its arguments.
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            torch.batch_norm_update_stats(logits, running, self.running_var, self.momentum)
            return
        samples = logits.shape[0]
        self.update_running(mean, rstd.square().reciprocal() - self.eps, samples / (samples - 1))

    def check_count(self, values: int) -> None:
        """Refuse a batch of one in training, where the logits are normalised over the batch."""
        if self.training and self.uses_batch and values == 1 and not self.is_synchronised:
            raise ValueError(
                "training with logit_norm='batch' needs at least 2 samples per process, since the attention is "
                f"normalised over the batch; got a batch of 1: {WAYS_OUT}, or build the layer with "
                "logit_norm='layer' or None"
            )

    def extra_repr(self) -> str:
        """Name every argument."""
        return f"{self.num_features}, {self.kind!r}" + (f", groups={self.num_groups}" if self.kind == "group" else "")
