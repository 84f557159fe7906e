"""What the property tests draw: a layer in some state, an input of some shape, dtype, place in memory and values."""

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from attnorm import (
    AttentiveBatchNorm1d,
    AttentiveBatchNorm2d,
    AttentiveBatchNorm3d,
    AttentiveBatchNormAct2d,
    AttentiveGroupNorm,
    AttentiveGroupNormAct,
    freeze_norm,
)

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
LAYOUTS = ["contiguous", "channels_last", "transposed", "stepped", "offset", "expanded"]
VALUES = ["standard", "shifted", "constant", "zeros", "tiny", "huge", "rectified", "mixed"]
ACTIVATIONS = ["relu", "relu6", "silu", "hard_swish", "leaky_relu"]

# Autograd differentiates 1 / sigma by way of 1 / sigma^3, which float32 can hold up to sigma = 2e12.
LARGEST = {torch.float32: 1e12, torch.bfloat16: 1e12, torch.float16: 65504.0, torch.float64: 1e90}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One input of the property tests; with the seed it determines every number."""

    group: bool
    shape: tuple[int, ...]
    num_groups: int
    layout: str
    dy_layout: str
    dtype: torch.dtype
    layer_dtype: torch.dtype
    values: str
    dy_scale: float
    num_components: int
    attention: dict[str, object]
    activation: str | None
    mode: str  # "train", "eval" or "frozen"
    momentum: float | None
    tracked: bool
    learned: int  # bits: which of x and the parameters want gradients
    seed: int

    @property
    def pixels(self) -> int:
        """Of one map; (N, C) inputs are maps of one pixel."""
        return int(torch.Size(self.shape[2:]).numel())

    def is_refused(self) -> bool:
        """Whether a statistic in training would be that of a single value, as torch.nn refuses it."""
        if self.mode == "eval" or 0 in self.shape:
            return False
        samples, channels = self.shape[:2]
        if self.group:
            logits, values = self.mode == "train", self.pixels * channels // self.num_groups
        else:
            logits = self.mode == "train" or not self.tracked
            values = samples * self.pixels if logits else 2
        return values == 1 or (logits and samples == 1 and self.attention["logit_norm"] == "batch")


@st.composite
def cases(draw: st.DrawFn, dtypes: list[torch.dtype] = DTYPES, least_dims: int = 0, most_channels: int = 70) -> Case:
    """Cases small enough that ten thousand of them take minutes."""
    group = draw(st.booleans())
    dims = draw(st.sampled_from([d for d in (0, 1, 2, 2, 2, 3) if d >= least_dims]))
    sizes = {0: [()], 1: [1, 2, 7, 64], 2: [1, 2, 3, 5, 8], 3: [1, 2, 3, 4]}[dims]
    spatial = tuple(draw(st.sampled_from(sizes)) for _ in range(dims)) if dims else ()
    num_groups = draw(st.sampled_from([1, 2, 3, 5, 7])) if group else 0
    channels = draw(st.integers(1, most_channels // max(num_groups, 1))) * max(num_groups, 1)
    samples = draw(st.sampled_from([1, 2, 2, 3, 4, 5, 9]))
    if draw(st.integers(0, 30)) == 0:
        samples, spatial = draw(st.sampled_from([(0, spatial), (samples, tuple(0 for _ in spatial) or spatial)]))
    components = draw(st.integers(1, 20))
    dtype = draw(st.sampled_from(dtypes))
    logit_norm = draw(st.sampled_from(["batch", "batch", "layer", "group", None]))
    attention: dict[str, object] = {
        "gate": draw(st.sampled_from(["hard_sigmoid", "hard_sigmoid", "sigmoid", "softmax"])),
        "logit_norm": logit_norm,
        "logit_bias": draw(st.sampled_from([None, True, False])),
        "head": draw(st.sampled_from(["linear"] * 5 + ["mlp"])),
        # The gradient of the maximum reaches dx as a term of its own, which float16 may not hold.
        "statistic": draw(
            st.sampled_from(["mean_over_std"] * 6 + ["mean", "mean" if dtype == torch.float16 else "mean_plus_max"])
        ),
    }
    if logit_norm == "group":
        attention["logit_groups"] = draw(st.sampled_from([g for g in range(1, 5) if components % g == 0]))
    has_activation = (group or dims == 2) and draw(st.booleans())
    return Case(
        group=group,
        shape=(samples, channels, *spatial),
        num_groups=num_groups,
        layout=draw(st.sampled_from(LAYOUTS)),
        dy_layout=draw(st.sampled_from(LAYOUTS)),
        dtype=dtype,
        # As the input, as under autocast (float32 beside half precision), or anything else.
        layer_dtype=draw(st.sampled_from([dtype, torch.float32, torch.float32, *DTYPES])),
        values=draw(st.sampled_from(VALUES)),
        dy_scale=draw(st.sampled_from([1.0, 1.0, 1e-4, 1e3])),
        num_components=components,
        attention=attention,
        activation=draw(st.sampled_from(ACTIVATIONS)) if has_activation else None,
        mode=draw(st.sampled_from(["train", "train", "eval", "frozen"])),
        momentum=draw(st.sampled_from([0.1, 0.01, None])),
        tracked=draw(st.integers(0, 4)) > 0,
        learned=draw(st.sampled_from([-1, -1, 0, 1, -2]) | st.integers(0, 255)),
        seed=draw(st.integers(0, 2**31)),
    )


def lay_out(x: Tensor, layout: str, generator: torch.Generator) -> Tensor:
    """The values of x in another place in memory; "expanded" repeats some of them with stride 0."""
    dim = int(torch.randint(x.ndim, (), generator=generator))
    if layout == "channels_last":
        return x.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "transposed":
        return x.transpose(dim, -1).contiguous().transpose(dim, -1)
    if layout == "stepped":
        return torch.stack([x, x + 1], dim + 1).flatten(dim, dim + 1)[(slice(None),) * dim + (slice(None, None, 2),)]
    if layout == "offset":
        return torch.cat([x.narrow(dim, 0, 1), x], dim).narrow(dim, 1, x.shape[dim]) if x.numel() else x
    if layout == "expanded" and x.numel():
        return x.narrow(dim, 0, 1).expand_as(x)
    return x.contiguous()


def make_values(case: Case, generator: torch.Generator, values: str | None = None) -> Tensor:
    """Numbers (N, C, *spatial) of one kind, in float64."""
    values = values or case.values
    x = torch.randn(case.shape, dtype=torch.float64, generator=generator)
    if values == "mixed":  # each channel of another kind
        kinds = [make_values(case, generator, kind) for kind in VALUES if kind != "mixed"]
        which = torch.randint(len(kinds), case.shape[1:2], generator=generator)
        return torch.stack([kinds[i][:, c] for c, i in enumerate(which.tolist())], 1)
    rows = torch.randn(case.shape[1:2], dtype=torch.float64, generator=generator)
    rows = rows.reshape(-1, *(1,) * (x.ndim - 2)).expand_as(x)
    limit = LARGEST[case.dtype]
    return {
        "standard": 2 * x + 0.3,
        "shifted": x + 1e4 * rows.sign(),
        "constant": 5 * rows,
        "zeros": torch.zeros_like(x),
        "tiny": x * torch.finfo(case.dtype).tiny,
        "huge": (x * limit / 2).clamp(-limit, limit),
        "rectified": x.relu(),
    }[values]


def make_layer(case: Case) -> nn.Module:
    """The layer, with parameters and statistics as a trained one might have them."""
    torch.manual_seed(case.seed)
    options = {"num_components": case.num_components, **case.attention}
    act = {} if case.activation is None else {"act_layer": case.activation}
    channels = case.shape[1]
    if case.group:
        layer = (AttentiveGroupNormAct if act else AttentiveGroupNorm)(channels, case.num_groups, **options, **act)
    else:
        plain = {2: AttentiveBatchNorm1d, 3: AttentiveBatchNorm1d, 5: AttentiveBatchNorm3d}
        kind = AttentiveBatchNormAct2d if act else plain.get(len(case.shape), AttentiveBatchNorm2d)
        layer = kind(channels, **options, **act, momentum=case.momentum, track_running_stats=case.tracked)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if ".norm." in name:
                parameter.normal_(1.0 if name.endswith("weight") else 0.0, 0.7)
        for name, buffer in layer.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_()
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
            else:
                buffer.fill_(3)
    layer = layer.to(case.layer_dtype).train(case.mode != "eval")
    for bit, parameter in enumerate(layer.parameters(), 1):
        parameter.requires_grad_(bool(case.learned >> bit & 1))
    return freeze_norm(layer, parameters=False) if case.mode == "frozen" else layer


def make_tensors(case: Case) -> tuple[Tensor, Tensor]:
    """The input x, which wants a gradient if `learned` says so, and the gradient dy of the output."""
    generator = torch.Generator().manual_seed(case.seed)
    x = lay_out(make_values(case, generator).to(case.dtype), case.layout, generator)
    dy = torch.randn(case.shape, dtype=torch.float64, generator=generator) * case.dy_scale
    return x.requires_grad_(bool(case.learned & 1)), lay_out(dy.to(case.dtype), case.dy_layout, generator)
