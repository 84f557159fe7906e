"""What a detector costs: Mask R-CNN ResNet-50 FPN with AN, the same with BatchNorm, and torchvision's own.

    python -m benchmarks.detector_cost [--time-limit-s 90] [--json FILE]

A whole training step (forward, losses, backward, SGD) and an evaluation, as in benchmarks/network_cost.py, on random
images with the same random objects. Nothing is frozen and batch statistics are used; a further training row has the
authors' way of fine-tuning: the first stage frozen, running statistics everywhere. torchvision's detector stands in the
rows for which it can be built alike.

What a detector has to do depends on what it proposes, so all of them have the same weights: torchvision's, AN being
swapped in such that it computes what BatchNorm did. That they then give the same losses, or the same detections, is
checked before anything is timed. Writes benchmarks/results/detector_cost.json.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import maskrcnn_resnet50_fpn

from attnorm import replace_norm
from attnorm.detection import create_detector, from_torchvision
from attnorm.evidence.cost import count_parameters
from attnorm.evidence.interleaved import Interleaved, Step, timing_dict
from attnorm.models import create_model
from attnorm.models.transfer import BODY
from benchmarks.contenders import LAYOUTS
from benchmarks.network_cost import HALF_WIDTH, summary
from benchmarks.record import Record, options_of, parser

AN, BN, TORCHVISION = "mask_rcnn_resnet50_an_fpn", "mask_rcnn_resnet50_fpn", "torchvision maskrcnn_resnet50_fpn"
CLASSES = 81
OBJECTS = 20  # in every image
# In evaluation every network must have as much to do, whatever it finds: one class, no threshold, so that each image
# has as many detections, and masks, as may be.
EVAL: dict[str, Any] = {"num_classes": 2, "score_threshold": 0.0}
FINE_TUNING: dict[str, Any] = {"frozen_stages": 1, "norm_policy": "eval"}

Batch = tuple[list[Tensor], list[dict[str, Tensor]]]


def detectors(kind: str, layout: str, data: Batch) -> dict[str, nn.Module]:
    """The contenders of a row, of the same random weights: ours, and torchvision's where it can be the same.

    Args:
        kind: "train", "fine_tune" or "eval".
        layout: Of the weights.
        data: Square images, of which the running statistics are, and targets.
    """
    side = data[0][0].shape[-1]
    sizes = {"min_size": side, "max_size": side}
    options = {"train": {}, "fine_tune": FINE_TUNING, "eval": {"score_threshold": EVAL["score_threshold"]}}[kind]
    classes = EVAL["num_classes"] if kind == "eval" else CLASSES
    torch.manual_seed(0)
    theirs = maskrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=classes,
        **sizes,
        **({"box_score_thresh": EVAL["score_threshold"]} if kind == "eval" else {}),
    )
    _measure_statistics(theirs, data[0])
    made: dict[str, nn.Module] = {BN: create_detector(BN, classes, **sizes, **options)}
    made[BN].load_state_dict(from_torchvision(theirs.state_dict()))
    made[AN] = create_detector(AN, classes, **sizes, **options)
    made[AN].load_state_dict(_swapped(made[BN].state_dict()))
    if kind != "fine_tune":
        made[TORCHVISION] = theirs
    form = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    return {name: model.to(memory_format=form).train(kind != "eval") for name, model in made.items()}  # pyright: ignore


@torch.no_grad()
def _measure_statistics(detector: nn.Module, images: list[Tensor]) -> None:
    """Give a detector of random weights the running statistics of the images, without which activations explode."""
    body: Any = detector.get_submodule("backbone.body")
    norms = [module for module in body.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    body.train()(torch.stack(images))
    for norm in norms:
        norm.momentum = 0.1


def _swapped(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A detector's weights with AN, of the same function, in its ResNet-50."""
    network = create_model("resnet50", num_classes=0)
    network.load_state_dict({k.removeprefix(BODY): value for k, value in weights.items() if k.startswith(BODY)})
    replace_norm(network, preserve_function=True)
    others = {key: value for key, value in weights.items() if not key.startswith(BODY)}
    return {**{f"{BODY}{key}": value for key, value in network.state_dict().items()}, **others}


def check(models: Mapping[str, nn.Module], data: Batch) -> None:
    """Refuse to time detectors that do not do the same.

    Raises:
        RuntimeError: Their losses, or the numbers and scores of their detections, differ by more than rounding makes.
    """
    answers = {name: _answer(model, data) for name, model in models.items()}
    first, *others = answers
    for name in others:
        if answers[name].shape != answers[first].shape or not answers[name].allclose(answers[first], rtol=1e-2):
            raise RuntimeError(f"{name} and {first} must give the same; got {answers[name]} and {answers[first]}")


@torch.no_grad()
def _answer(model: nn.Module, data: Batch) -> Tensor:
    """The losses in training, or the scores of what is found."""
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    torch.manual_seed(2)
    found: Any = model(*data) if model.training else model(data[0])
    for name, buffer in model.named_buffers():  # those of the batch norms
        buffer.copy_(kept[name])
    if model.training:
        return torch.stack([found[name] for name in sorted(found)])
    return torch.cat([detection["scores"] for detection in found])


def batch(size: int, side: int) -> Batch:
    """Random square images and, for each, OBJECTS boxes of a quarter to a half of its side, with elliptic masks."""
    torch.manual_seed(1)
    images = [torch.rand(3, side, side) for _ in range(size)]
    targets: list[dict[str, Tensor]] = []
    rows = torch.arange(side).view(1, side, 1)
    columns = torch.arange(side).view(1, 1, side)
    for _ in range(size):
        sides = (0.25 + 0.25 * torch.rand(OBJECTS, 2)) * side
        corner = torch.rand(OBJECTS, 2) * (side - sides)
        centre = (corner + sides / 2).view(OBJECTS, 2, 1, 1)
        radius = (sides / 2).view(OBJECTS, 2, 1, 1)
        inside = ((columns - centre[:, 0]) / radius[:, 0]) ** 2 + ((rows - centre[:, 1]) / radius[:, 1]) ** 2 < 1
        targets.append(
            {
                "boxes": torch.cat([corner, corner + sides], 1),
                "labels": torch.randint(1, CLASSES, (OBJECTS,)),
                "masks": inside.to(torch.uint8),
            }
        )
    return images, targets


def train_step(model: nn.Module, data: Batch) -> Step:
    """Forward, losses, backward and SGD's step; the same draws of proposals' places every time."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-6, momentum=0.9)

    def step() -> Iterator[str]:
        torch.manual_seed(2)
        losses: dict[str, Tensor] = model(*data)
        yield "forward"
        torch.stack(list(losses.values())).sum().backward()
        yield "backward"
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield "update"

    return step


def eval_step(model: nn.Module, images: list[Tensor]) -> Step:
    """Inference, with boxes and masks in the images."""

    def step() -> Iterator[str]:
        with torch.no_grad():
            model(images)
        yield "eval"

    return step


def measure(kind: str, layout: str, size: int, side: int, time_limit_s: float) -> dict[str, Any]:
    """One row: kind "train", "fine_tune" or "eval"."""
    data = batch(size, side)
    models = detectors(kind, layout, data)
    check(models, data)
    mode = "eval" if kind == "eval" else "train"
    steps = {n: eval_step(m, data[0]) if mode == "eval" else train_step(m, data) for n, m in models.items()}
    pairs = {f"an_bn_{kind}": (AN, BN)}
    if TORCHVISION in models:
        pairs |= {f"bn_torchvision_{kind}": (BN, TORCHVISION), f"an_torchvision_{kind}": (AN, TORCHVISION)}
    timed = Interleaved(steps)
    narrow = timed.run_until(tuple(pairs.values()), HALF_WIDTH, time_limit_s)
    return {
        "kind": kind,
        "layout": layout,
        "batch": size,
        "side": side,
        "narrow": narrow,
        "networks": {
            name: {f"{mode}_ms": timing_dict(timed.timing(name)), "parameters": count_parameters(model)}
            for name, model in models.items()
        },
        "ratios": {key: timed.ratio(*pair).as_dict() for key, pair in pairs.items()},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    command_line = parser("What AN costs in a detector.", "detector_cost")
    command_line.add_argument("--batch-size", type=int, default=2)
    command_line.add_argument("--side", type=int, default=320, help="height and width of the images, in pixels")
    command_line.add_argument("--time-limit-s", type=float, default=90, help="for each row")
    options = command_line.parse_args(arguments)
    record = Record(options.json, "detector-cost", "cpu", options_of(options))
    for layout in LAYOUTS:
        for kind in ("train", "fine_tune", "eval"):
            row = measure(kind, layout, options.batch_size, options.side, options.time_limit_s)
            print(summary(row), flush=True)
            record.add(row)
    record.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
