"""BatchNorm on this package's machinery, for what torch's own cannot do.

torch's SyncBatchNorm runs on accelerators only, its converter drops the activation of timm's norm-act layers, and
torch has no frozen BatchNorm. This layer is synchronised on any device, can be frozen, and keeps drop and activation.
"""

import torch
from torch import Tensor, nn

from attnorm.layers.backend import passes_for
from attnorm.layers.reference import affine, at_least_float32, pixel_count
from attnorm.layers.statistics import BatchStatistics


class BatchNorm(BatchStatistics):
    """nn.BatchNorm of any rank, with the same parameters, buffers and state dict.

    Args:
        num_features: C.
        eps: As in nn.BatchNorm2d.
        momentum: As in nn.BatchNorm2d.
        affine: Whether there are weight and bias (C,).
        track_running_stats: As in nn.BatchNorm2d.
        drop: Applied to the normalised tensor, then
        act: applied last; both as in timm's norm-act layers.
        device: As in every torch.nn layer.
        dtype: As in every torch.nn layer.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        drop: nn.Module | None = None,
        act: nn.Module | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, track_running_stats, device, dtype)
        self.affine = affine
        ones = torch.ones(num_features, device=device, dtype=dtype) if affine else None
        self.register_parameter("weight", None if ones is None else nn.Parameter(ones))
        self.register_parameter("bias", None if ones is None else nn.Parameter(torch.zeros_like(ones)))
        self.drop = drop
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (N, C, *spatial)."""
        y = self._from_batch(x) if self.uses_batch else self._from_running(x)
        y = y if self.drop is None else self.drop(y)
        return y if self.act is None else self.act(y)

    def _from_batch(self, x: Tensor) -> Tensor:
        maps = x.unsqueeze(2) if x.ndim == 2 else x
        if 0 in maps.shape[2:]:  # maps without pixels are no samples, as in the AN layers
            maps = maps.reshape(0, maps.shape[1], 1)
        passes = passes_for(maps)
        mean, var = passes.instance_moments(maps)
        mu, sigma2 = self.standardiser(mean, var, pixel_count(maps))
        scale, shift = self._coefficients(mu, sigma2)
        return passes.affine(maps, scale.expand_as(mean), shift.expand_as(mean)).view_as(x)

    def _from_running(self, x: Tensor) -> Tensor:
        assert self.running_mean is not None
        assert self.running_var is not None
        wide = at_least_float32(self.running_mean), at_least_float32(self.running_var)
        scale, shift = self._coefficients(*wide)
        return affine(x, scale.unsqueeze(0), shift.unsqueeze(0))

    def _coefficients(self, mu: Tensor, sigma2: Tensor) -> tuple[Tensor, Tensor]:
        scale = (sigma2 + self.eps).rsqrt()
        if self.weight is not None:
            scale = scale * self.weight.to(scale.dtype)
        shift = -scale * mu
        return scale, shift if self.bias is None else self.bias.to(scale.dtype) + shift

    def extra_repr(self) -> str:
        """Name every argument."""
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"track_running_stats={self.track_running_stats}"
            + (", frozen=True" if self.frozen else "")
            + (", synchronised=True" if self.synchronised else "")
        )
