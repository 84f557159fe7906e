"""Channel attention: from the instance moments of a layer's input to the weights of its mixture.

    statistic (N, C)  ->  logits = statistic @ weight.T (N, K)  ->  logit norm  ->  gate  ->  lambda (N, K)

The weights are not normalised to sum to one, except by the "softmax" gate. All that was ever released is reachable:

| released as | gate | logit_norm | head | logit_bias | statistic |
|---|---|---|---|---|---|
| all ImageNet networks (mode 2) | hard_sigmoid | batch | linear | no | mean_over_std |
| AN (w/ GN) of the COCO heads | hard_sigmoid | None | linear | yes | mean_over_std |
| first release, modes 0, 1, 3, 4, 5, 6 | any | batch or None | linear or mlp | without a norm | mean_over_std |
| refactor | hard_sigmoid | batch, layer, group | linear | no | also mean, mean_plus_max |
"""

import math
from collections.abc import Callable
from typing import Literal, TypedDict

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from attnorm.layers.logit_norm import LogitNorm, LogitNormName
from attnorm.layers.reference import mean_over_std
from attnorm.layers.walk import is_untouched

Gate = Literal["hard_sigmoid", "sigmoid", "softmax"]
Head = Literal["linear", "mlp"]
Statistic = Literal["mean_over_std", "mean", "mean_plus_max"]


def hard_sigmoid(z: Tensor) -> Tensor:
    """min(max(z + 3, 0), 6) / 6; F.hardsigmoid has no second derivative."""
    return (z + 3).clamp(0, 6) / 6


def softmax(z: Tensor) -> Tensor:
    """Softmax over the K components."""
    return z.softmax(1)


GATES: dict[str, Callable[[Tensor], Tensor]] = {
    "hard_sigmoid": hard_sigmoid,
    "sigmoid": torch.sigmoid,
    "softmax": softmax,
}
# Those whose derivative :mod:`attnorm.layers.coefficients` knows. A gate that is added to GATES is left to autograd.
_CLOSED_FORM_GATES = tuple(GATES)


class AttentionOptions(TypedDict, total=False):
    """The rarer choices of the attention branch; see :class:`ChannelAttention`."""

    logit_groups: int
    logit_bias: bool | None
    head: Head
    statistic: Statistic
    var_eps: float


def _check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}")


class LogitLayer(nn.Module):
    """One 1x1 convolution of the attention branch, as a matrix, with its norm.

    Not an nn.Linear: the initialisers of whole networks look for those and would overwrite, or trip over, this one.
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool,
        norm: LogitNorm | None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features, device=device, dtype=dtype))
        self.register_parameter(
            "bias", nn.Parameter(torch.empty(out_features, device=device, dtype=dtype)) if bias else None
        )
        self.norm = norm
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Kaiming normal over the fan-out in front of a norm, as in the released backbones.

        Without a norm (the released detection heads) PyTorch's own default for convolutions: logits then start
        small, inside the gate's range.
        """
        out_features, in_features = self.weight.shape
        if self.norm is not None:
            nn.init.normal_(self.weight, std=math.sqrt(2 / out_features))
            if self.bias is not None:
                nn.init.zeros_(self.bias)
            self.norm.reset_running_stats()
            nn.init.ones_(self.norm.weight)
            nn.init.zeros_(self.norm.bias)
            return
        bound = 1 / math.sqrt(in_features)
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_features) to (N, out_features)."""
        y = x @ self.weight.to(x.dtype).T
        if self.bias is not None:
            y = y + self.bias.to(x.dtype)
        return y if self.norm is None else self.norm(y)


class ChannelAttention(nn.Module):
    """Mixture weights lambda (N, K) from instance moments (N, C).

    Args:
        num_channels: C.
        num_components: K.
        gate: What bounds the weights: "hard_sigmoid" (the paper's), "sigmoid" or "softmax".
        logit_norm: "batch", "layer" (over the K logits of a sample), "group" or None.
        logit_groups: Groups of logit_norm="group".
        logit_bias: Whether the projection has a bias; None: where no norm follows it.
        head: "linear": C -> K. "mlp": C -> 2K, ReLU, 2K -> K.
        statistic: What the attention sees of a channel: "mean_over_std" is m / sqrt(v + var_eps); "mean" the
            average pool; "mean_plus_max" the sum of average and maximum pool.
        var_eps: The constant beside the variance.
        momentum: Of the running statistics of logit_norm="batch"; None: their plain average.
        track_running_stats: False: logit_norm="batch" takes the batch's own statistics in evaluation too.
        device: As in every torch.nn layer.
        dtype: As in every torch.nn layer.

    Raises:
        ValueError: For a gate, logit norm, head or statistic that does not exist.
    """

    def __init__(
        self,
        num_channels: int,
        num_components: int,
        *,
        gate: Gate = "hard_sigmoid",
        logit_norm: LogitNormName | None = "batch",
        logit_groups: int = 1,
        logit_bias: bool | None = None,
        head: Head = "linear",
        statistic: Statistic = "mean_over_std",
        var_eps: float = 1e-3,
        momentum: float | None = 0.1,
        track_running_stats: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _check_choice("gate", gate, tuple(GATES))
        _check_choice("logit_norm", logit_norm, ("batch", "layer", "group", None))
        _check_choice("head", head, ("linear", "mlp"))
        _check_choice("statistic", statistic, ("mean_over_std", "mean", "mean_plus_max"))
        self.gate, self.logit_norm, self.logit_groups = gate, logit_norm, logit_groups
        self.head, self.statistic, self.var_eps = head, statistic, var_eps
        self.logit_bias = logit_norm is None if logit_bias is None else logit_bias

        def layer(inputs: int, outputs: int) -> LogitLayer:
            norm = None
            if logit_norm is not None:
                norm = LogitNorm(
                    outputs,
                    logit_norm,
                    logit_groups,
                    momentum=momentum,
                    track_running_stats=track_running_stats,
                    device=device,
                    dtype=dtype,
                )
            return LogitLayer(inputs, outputs, bias=self.logit_bias, norm=norm, device=device, dtype=dtype)

        hidden = 2 * num_components
        self.hidden = layer(num_channels, hidden) if head == "mlp" else None
        self.logits = layer(hidden if head == "mlp" else num_channels, num_components)

    def reset_parameters(self) -> None:
        """Initialise the projection and its norm anew."""
        for layer in (self.hidden, self.logits):
            if layer is not None:
                layer.reset_parameters()

    @property
    def needs_maximum(self) -> bool:
        """Whether the channel maxima have to be measured too."""
        return self.statistic == "mean_plus_max"

    def forward(self, mean: Tensor, var: Tensor, pixels: int, maximum: Tensor | None = None) -> Tensor:
        """Mixture weights (N, K) of instances.

        Args:
            mean: (N, C), the mean of every channel of every sample.
            var: (N, C), its biased variance.
            pixels: L, over which both were taken.
            maximum: (N, C), its maximum, where :attr:`needs_maximum`.
        """
        if self.statistic == "mean_over_std":
            statistic = mean_over_std(mean, var, pixels, self.var_eps)
        else:
            statistic = mean if maximum is None else mean + maximum
        if self.hidden is not None:
            statistic = torch.relu(self.hidden(statistic))
        return GATES[self.gate](self.logits(statistic))

    @property
    def has_closed_form(self) -> bool:
        """Whether :mod:`attnorm.layers.coefficients` computes what a call would, with nobody looking on.

        It knows the linear head on mean over std and this module's own gates, in one process. Hooks, replaced methods
        and subclasses want to see or change the branch at work, so for them the modules are called.
        """
        logits, norm = self.logits, self.logits.norm
        return (
            self.hidden is None
            and self.statistic == "mean_over_std"
            and self.gate in _CLOSED_FORM_GATES
            and is_untouched(self, ChannelAttention)
            and is_untouched(logits, LogitLayer)
            and (norm is None or (is_untouched(norm, LogitNorm) and not norm.is_synchronised))
        )

    def batch_norms(self) -> list[LogitNorm]:
        """The logit norms that keep statistics of the batch."""
        layers = (self.hidden, self.logits)
        norms = [layer.norm for layer in layers if layer is not None and layer.norm is not None]
        return [norm for norm in norms if norm.kind == "batch"]

    def set_process_group(self, synchronised: bool, group: ProcessGroup | None) -> None:
        """Pool the logit norms' statistics over processes, or stop doing so."""
        for norm in self.batch_norms():
            norm.synchronised, norm.process_group = synchronised, group

    def extra_repr(self) -> str:
        """Name every argument."""
        norm = f"{self.logit_norm!r}" + (f", logit_groups={self.logit_groups}" if self.logit_norm == "group" else "")
        return (
            f"gate={self.gate!r}, logit_norm={norm}, head={self.head!r}, logit_bias={self.logit_bias}, "
            f"statistic={self.statistic!r}, var_eps={self.var_eps}"
        )
