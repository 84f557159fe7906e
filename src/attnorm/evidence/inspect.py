"""`attnorm inspect`: what the mixture weights of a trained network do over a data set, as numbers and a report."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attnorm.errors import DataError, JobError
from attnorm.evidence.inspect_config import InspectConfig
from attnorm.evidence.inspect_data import Batch, Source, open_source
from attnorm.evidence.inspect_report import write_result
from attnorm.evidence.inspect_table import print_result
from attnorm.evidence.mixture import MixtureStatistics
from attnorm.evidence.mixture_summary import DEFINITIONS, summarise
from attnorm.evidence.mixture_watch import MixtureWatch
from attnorm.layers.attentive import AttentiveNorm
from attnorm.training.checkpoint import load_checkpoint
from attnorm.training.processes import Processes, choose_device
from attnorm.training.record import environment, git_state, versions

FORMAT, FORMAT_VERSION = "attnorm-inspect", 1


@dataclass
class Example:
    """An image that is shown with its own weights.

    Attributes:
        position: among the images that were looked at, from 0.
        label: number of its class; None without classes.
        picture: uint8 (H, W, C).
        weights: its lambda by layer, of the layers that see images.
    """

    position: int
    label: int | None
    picture: NDArray[np.uint8]
    weights: dict[str, list[float]]


class Seen:
    """What a pass over the data leaves: bounded, whatever the number of images.

    Args:
        affine: `weight` (K, C) of each layer, by name.
        classes: of the images; None without.
        examples: how many images to keep, each of another class, from classes that are evenly spread.

    Attributes:
        images: how many.
        per_class: images of each class; empty without classes.
        layers: statistics by name, in the order in which the layers first ran.
        examples: in the order of the images.
    """

    def __init__(self, affine: dict[str, NDArray[np.float64]], classes: int | None, examples: int = 0) -> None:
        self.affine, self.groups = affine, classes or 1
        self.images = 0
        self.per_class = [0] * (classes or 0)
        self.layers: dict[str, MixtureStatistics] = {}
        self.examples: list[Example] = []
        self._wanted = _spread(examples, classes) if classes else set(range(examples))  # classes, or positions

    def add(self, batch: Batch, calls: dict[str, list[Tensor]]) -> None:
        """Takes a batch and what the layers mixed for it.

        A layer sees images if every forward pass calls it once with as many inputs as there are images. The others,
        such as those of a detector's heads, which see regions, have no classes.

        Raises:
            JobError: a layer's weights are not finite.
        """
        count = len(batch.images)
        labels = np.zeros(count, dtype=np.int64) if batch.classes is None else batch.classes
        own: dict[str, NDArray[np.float64]] = {}  # of the layers that see images
        for name, parts in calls.items():
            weights = _numbers(torch.cat(parts))
            if not np.isfinite(weights).all():
                raise JobError(
                    f"the mixture weights of {name} must be finite, and those of images {self.images} to "
                    f"{self.images + count - 1} are not: the network is damaged, or diverged when it was trained"
                )
            per_image = len(parts) == 1 and len(weights) == count
            if name not in self.layers:
                self.layers[name] = MixtureStatistics(*self.affine[name].shape, classes=self.groups)
            self.layers[name].add(weights, self.affine[name], labels if per_image else None)
            if per_image:
                own[name] = weights
        self._keep_examples(batch, own)
        if batch.classes is not None:
            self.per_class = (np.bincount(batch.classes, minlength=self.groups) + self.per_class).tolist()
        self.images += count

    def _keep_examples(self, batch: Batch, weights: dict[str, NDArray[np.float64]]) -> None:
        for i, image in enumerate(batch.images):
            position = self.images + i
            label = None if batch.classes is None else int(batch.classes[i])
            key = position if label is None else label
            if key in self._wanted:
                self._wanted.remove(key)
                own = {name: values[i].tolist() for name, values in weights.items()}
                self.examples.append(Example(position, label, _picture(image), own))

    def finish(self) -> None:
        """Puts examples in the order of their classes, without the layers that turned out not to see every image."""
        for statistics in self.layers.values():
            statistics.per_image &= statistics.samples == self.images
        self.examples.sort(key=lambda example: -1 if example.label is None else example.label)
        for example in self.examples:
            example.weights = {name: w for name, w in example.weights.items() if self.layers[name].per_image}


def inspect(config: InspectConfig) -> dict[str, Any]:
    """Shows a data set to a network and writes report.html, inspect.json and the pictures.

    Args:
        config: what to look at.

    Returns:
        The content of inspect.json: `layers` in the order in which they run, see
        `attnorm.evidence.mixture_summary.summarise`, each with its name, type, gate and sizes; `classes` with the
        number of their images, or None; `examples`; `not_run`, the layers that had fewer than two inputs;
        `definitions`; and what made it.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        ConfigError: the network has no AN layer (of such a name), or the data set is not one for it.
        DataError: the data are missing, damaged, of other channels than the network's, or fewer than two images.
        JobError: the folder cannot be written to, or a layer's weights are not finite.
    """
    device = choose_device(config.device, Processes())
    model, meta = load_checkpoint(config.checkpoint)
    with MixtureWatch(model, config.layers, f"{meta.model} of {config.checkpoint}") as watch:
        source = open_source(config, meta)
        _check_output(Path(config.output))
        seen = look(model.to(device), watch, source, examples=config.images)
    shown = {name: statistics for name, statistics in seen.layers.items() if statistics.samples > 1}
    classes = None
    if source.classes is not None:
        classes = [{"name": name, "images": n} for name, n in zip(source.classes, seen.per_class, strict=True)]
    result = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "checkpoint": config.checkpoint,
        "model": meta.model,
        "dataset": source.name,
        "images": seen.images,
        "class_rule": source.rule,
        "notes": list(source.notes),
        "classes": classes,
        "layers": [{**_identity(name, watch.layers[name]), **summarise(shown[name])} for name in shown],
        "not_run": [name for name in watch.layers if name not in shown],
        "examples": [{"position": e.position, "class": e.label, "lambda": e.weights} for e in seen.examples],
        "definitions": DEFINITIONS,
        "config": vars(config),
        "versions": versions(),
        "git": git_state(),
        "environment": environment(device),
    }
    files = write_result(result, [example.picture for example in seen.examples], Path(config.output))
    print_result(result, files)
    return result


@torch.no_grad()
def look(model: nn.Module, watch: MixtureWatch, source: Source, *, examples: int = 0) -> Seen:
    """Runs the network on every image and keeps sums of what its layers mixed.

    Args:
        model: in evaluation mode.
        watch: on its layers.
        source: the images.
        examples: how many images to keep; see `Seen`.

    Raises:
        DataError: there are fewer than two images.
        JobError: a layer's weights are not finite.
    """
    affine = {name: _numbers(layer.weight) for name, layer in watch.layers.items()}
    seen = Seen(affine, None if source.classes is None else len(source.classes), examples)
    for batch in source.batches():
        source.show(model, batch.images)
        seen.add(batch, watch.take())
    if seen.images < 2:
        raise DataError(f"{source.name} must have at least 2 readable images to look at, it has {seen.images}")
    seen.finish()
    return seen


def _spread(wanted: int, classes: int) -> set[int]:
    """So many classes, from the first on at equal distances."""
    return {i * classes // wanted for i in range(wanted)} if wanted < classes else set(range(classes))


def _numbers(values: Tensor) -> NDArray[np.float64]:
    return values.detach().double().cpu().numpy()


def _picture(image: Tensor, side: int = 160) -> NDArray[np.uint8]:
    """The image (C, H, W) at most `side` pixels wide and high, as (H, W, C)."""
    from PIL import Image

    pixels = image.cpu().numpy().transpose(1, 2, 0)
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    picture.thumbnail((side, side))
    return np.asarray(picture.convert("RGB"))


def _identity(name: str, layer: AttentiveNorm) -> dict[str, Any]:
    components, channels = layer.weight.shape
    kind = {"name": name, "type": type(layer).__name__, "gate": layer.attention.gate}
    return {**kind, "components": components, "channels": channels}


def _check_output(folder: Path) -> None:
    """Before the pass over the data, which may take long."""
    import tempfile

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise JobError(f"output must be a folder that can be written to; {folder} is not ({error.strerror})") from None
