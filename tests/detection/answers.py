"""Heads whose answers a test chooses, on regions that are nothing but the boxes: every rule can be seen by itself."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from attnorm.detection.config import DetectorConfig
from attnorm.detection.conventions import Modern
from attnorm.detection.roi_heads import BoxStage, MaskBranch, RoIHeads


def regions_are_boxes(geometry: Modern) -> Modern:
    """The same conventions, with the boxes (n, 4) of all images in the place of their features."""

    class Boxes(nn.Module):
        def forward(self, features: object, boxes: list[Tensor], sizes: object) -> Tensor:
            return torch.cat(boxes)

    class Regions(type(geometry)):
        def pooler(self, output_size: int) -> nn.Module:
            return Boxes()

    return Regions()


class Answer(nn.Module):
    """Gives the same logits and deltas whatever it is asked: a row for all boxes, or one for each. Keeps the boxes."""

    def __init__(self, *answers: Any) -> None:
        super().__init__()
        self.answers = nn.ParameterList(nn.Parameter(torch.tensor(a)) for a in answers)
        self.asked: list[Tensor] = []

    def forward(self, boxes: Tensor) -> tuple[Tensor, ...]:
        self.asked.append(boxes)
        return tuple(a if a.ndim == 2 else a.expand(len(boxes), -1) for a in self.answers)


class MaskAnswer(nn.Module):
    """Gives every box masks of one logit for each class."""

    def __init__(self, logits: Sequence[float]) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))
        self.asked: list[Tensor] = []

    def forward(self, boxes: Tensor) -> Tensor:
        self.asked.append(boxes)
        return self.logits[None, :, None, None].expand(len(boxes), -1, 28, 28)


def heads_with(
    stages: Sequence[BoxStage],
    masks: Sequence[MaskBranch] = (),
    *,
    geometry: Modern,
    num_classes: int,
    class_agnostic: bool = True,
    box_beta: float = 1.0,
    **settings: Any,
) -> RoIHeads:
    """RoIHeads of such stages; settings are those of DetectorConfig."""
    return RoIHeads(
        stages,
        masks,
        conventions=regions_are_boxes(geometry),
        config=DetectorConfig(**settings),
        num_classes=num_classes,
        class_agnostic=class_agnostic,
        box_beta=box_beta,
    )


def stage(logits: Any, deltas: Any, **options: Any) -> BoxStage:
    """A stage that gives these answers."""
    return BoxStage(nn.Identity(), Answer(logits, deltas), **options)


def asked(of: BoxStage | MaskBranch) -> Tensor:
    """The boxes that a stage or branch was last asked about."""
    predictor = of.predictor
    assert isinstance(predictor, Answer | MaskAnswer)
    return predictor.asked[-1]
