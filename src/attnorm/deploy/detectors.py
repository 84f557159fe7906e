"""Detectors as ONNX files, for one image of one size: experimental.

torch.export cannot trace torchvision's detection parts (tried with torch 2.15 and torchvision 0.29: `batched_nms`
chooses its algorithm by the number of boxes, which depends on the image). torch's former exporter, which records what
is run on an example, can, provided that nothing but the number of objects depends on the image: hence the one size, and
masks as small maps over their boxes.
"""

from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from attnorm.deploy.fold import fold_norm
from attnorm.deploy.subject import Subject
from attnorm.deploy.trace import quiet
from attnorm.detection.detector import Detector
from attnorm.errors import JobError, shown
from attnorm.training.header import KEY, CheckpointMeta


class OneImage(nn.Module):
    """A detector for batches of one image: (1, C, H, W), values from 0 to 1, to a tuple of what it finds.

    Boxes (n, 4) in pixels of the image, labels (n,), scores (n,) and, where the detector finds masks, their
    probabilities (n, 28, 28) over the boxes.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Detect."""
        found = self.detector.detect([images[0]])[0]
        return tuple(found[name] for name in outputs_of(self.detector))


class Pyramid(nn.Module):
    """A detector's backbone: prepared images (N, C, H, W) to the levels of its feature pyramid, the finest first."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.backbone = detector.backbone

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Levels at strides 4, 8, 16, 32 and 64."""
        return tuple(self.backbone(images).values())


def outputs_of(detector: Detector) -> tuple[str, ...]:
    """The names of what a detector finds."""
    return ("boxes", "labels", "scores", *(("mask_probabilities",) if detector.has_masks else ()))


def detector_subject(model: nn.Module, meta: CheckpointMeta, *, features: bool) -> Subject:
    """What to export of a detector: all of it, or its feature pyramid."""
    detector = cast(Detector, model)
    if features:
        return Subject(Pyramid(detector).eval(), meta, tuple(f"features_{i}" for i in range(5)), (4, 8, 16, 32, 64))
    return Subject(OneImage(detector).eval(), meta, outputs_of(detector), detects=True)


def write_detector(subject: Subject, opset: int, path: Path) -> None:
    """Writes an ONNX file for one image of `image_size`; its metadata has the subject's card under "attnorm".

    Raises:
        JobError: The detector cannot be traced.
    """
    import onnx

    side = subject.meta.image_size
    images = torch.rand(1, subject.meta.in_chans, side, side, generator=torch.Generator().manual_seed(0))
    try:
        with quiet():
            torch.onnx.export(
                fold_norm(subject.model),
                (images,),
                str(path),
                dynamo=False,
                opset_version=opset,
                input_names=["images"],
                output_names=list(subject.outputs),
                dynamic_axes={name: {0: "objects"} for name in subject.outputs},
            )
    except Exception as error:  # which one, depends on what the exporter meets
        cause = shown(" ".join(str(error).split()), 300)
        raise JobError(
            f"{subject.meta.model} must be traceable, and is not ({cause}): --features exports its pyramid"
        ) from error
    model = onnx.load(str(path))
    for node in model.graph.node:
        node.ClearField("doc_string")
    onnx.helper.set_model_props(model, {KEY: subject.card()})
    onnx.save(model, str(path))
