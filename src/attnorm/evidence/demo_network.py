"""What the demo page asks of a network: what it makes of an image, what its AN layers mixed, how long it takes."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor

from attnorm.data.images import eval_transform
from attnorm.detection.coco_entries import Entry
from attnorm.errors import shown
from attnorm.evidence.interleaved import Interleaved
from attnorm.evidence.mixture import Array
from attnorm.evidence.mixture_watch import MixtureWatch
from attnorm.evidence.timing import Timing
from attnorm.layers.attentive import AttentiveNorm
from attnorm.layers.walk import named_modules
from attnorm.training.checkpoint import check_classifies, load_checkpoint
from attnorm.training.objective import prepare_images
from attnorm.training.predict import classify
from attnorm.training.predict_detection import DetectionPredictor

LOWEST_SCORE = 0.05  # of objects that are kept, so that the page can show fewer without detecting anew
ROUNDS = 5  # in which every network is timed once


@dataclass(frozen=True)
class Answer:
    """What a network makes of one image.

    Attributes:
        classes: probabilities of the most likely classes by name, the best first; empty of a detector.
        objects: COCO result entries; empty of a network that classifies.
        mixtures: lambda (K,) by the name of the AN layer, in the order in which they run; of a layer that saw several
            inputs, such as the regions of a detector's heads, their mean.
    """

    classes: dict[str, float]
    objects: list[Entry]
    mixtures: dict[str, Array]


class DemoNetwork:
    """A trained network of the page.

    Args:
        checkpoint: as in `attnorm.training.checkpoint.load_checkpoint`.
        device: where it runs.

    Attributes:
        name: of the architecture.
        names: of a detector's categories, by their ids; empty of a network that classifies.

    Raises:
        CheckpointError: the checkpoint cannot be used.
    """

    def __init__(self, checkpoint: str, device: torch.device) -> None:
        model, self.meta = load_checkpoint(checkpoint)
        check_classifies(self.meta, checkpoint)
        self.checkpoint, self.model, self.device = checkpoint, model.to(device), device
        self.name = shown(self.meta.model)
        self.layers = [module for _, module in named_modules(model) if isinstance(module, AttentiveNorm)]
        self.names: dict[int, str] = {}
        self._detector: DetectionPredictor | None = None
        if self.meta.detector is not None:
            self._detector = DetectionPredictor(cast(Any, self.model), self.meta, LOWEST_SCORE)
            self.names = self._detector.names

    @property
    def detects(self) -> bool:
        """Whether it finds objects, rather than one class for the image."""
        return self._detector is not None

    def facts(self) -> str:
        """What it is, in two lines of Markdown."""
        count = sum(parameter.numel() for parameter in self.model.parameters())
        sizes = sorted({layer.weight.shape[0] for layer in self.layers})
        components = f"K = {sizes[0]}" if len(sizes) == 1 else f"K = {sizes[0]} to {sizes[-1]}" if sizes else ""
        layers = f"{len(self.layers)} AN layers, {components}" if sizes else "no AN layer"
        return f"{count:,} parameters\\\n{layers}"

    @torch.no_grad()
    def answer(self, image: Image.Image) -> Answer:
        """What it makes of an image.

        Args:
            image: upright, RGB.
        """
        with MixtureWatch(self.model) if self.layers else nullcontext() as watch:
            if self._detector is not None:
                classes, objects = {}, self._detector.find(image, image_id=1)
            else:
                classes, objects = self._classes(image), []
            mixed = {} if watch is None else watch.take()
        return Answer(classes, objects, {name: _mean(parts) for name, parts in mixed.items()})

    def _classes(self, image: Image.Image) -> dict[str, float]:
        top = classify(self.model, self._pixels(image), self.meta, self.device)
        named = Counter(item["label"] for item in top)  # ImageNet has two classes "crane" and two "maillot"
        return {
            shown(item["label"]) + (f" ({item['class']})" if named[item["label"]] > 1 else ""): item["probability"]
            for item in top
        }

    def seen(self, image: Image.Image) -> Image.Image:
        """The part of the image, and the size, that a network which classifies gets to see."""
        pixels = self._pixels(image)
        return Image.fromarray(pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).numpy())

    def step(self, image: Image.Image) -> Iterator[str]:
        """One pass for timing, see `attnorm.evidence.interleaved`: from pixels in memory to logits or objects."""
        with torch.no_grad():
            if self._detector is not None:
                self._detector.detector.detect([self._detector.pixels(image)])
            else:
                mean, std = (torch.tensor(values, device=self.device) for values in (self.meta.mean, self.meta.std))
                self.model(prepare_images(self._pixels(image)[None].to(self.device), mean, std))
        yield "image"

    def _pixels(self, image: Image.Image) -> Tensor:
        meta = self.meta
        return eval_transform(meta.image_size, meta.crop_pct, meta.interpolation, meta.in_chans)(image)


def _mean(parts: Sequence[Tensor]) -> Array:
    return torch.cat(list(parts)).double().mean(0).cpu().numpy()


def time_per_image(networks: Sequence[DemoNetwork], image: Image.Image) -> list[Timing]:
    """Milliseconds that each network takes for one image, warm and in turns.

    Args:
        networks: at least one, on one device.
        image: upright, RGB.
    """
    steps: Mapping[str, Any] = {
        str(place): lambda network=network: network.step(image) for place, network in enumerate(networks)
    }
    timer = Interleaved(steps, networks[0].device)
    timer.run(ROUNDS)
    return [timer.timing(place) for place in steps]
