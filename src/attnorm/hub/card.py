"""The model card: README.md of a network's folder, written from what is on record of it and from nothing else."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from attnorm.detection.detector import Detector
from attnorm.evidence.cost import count_parameters
from attnorm.evidence.operations import Operations, count_in, count_operations
from attnorm.hub.markdown import code, fenced, plain, table
from attnorm.hub.results import Result
from attnorm.hub.training_facts import TrainingFacts
from attnorm.hub.usage import usage
from attnorm.layers.attentive import AttentiveNorm
from attnorm.training.header import CheckpointMeta
from attnorm.training.timm_config import is_timms

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

# The ids that the hub has for data sets of ours; others are named in the text alone.
_DATASETS = {
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "fashion_mnist": "zalando-datasets/fashion_mnist",
    "imagenet": "ILSVRC/imagenet-1k",
}
PAPER = "[Attentive Normalization](https://arxiv.org/abs/1908.01259) (X. Li, W. Sun, T. Wu, ECCV 2020)"
_DETAILS = "<details><summary>Every setting, as `attnorm train --config` reads it</summary>\n\n{}\n\n</details>"


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a card is written from.

    Attributes:
        meta: Header of the weights.
        model: With the weights, on the CPU.
        facts: Of the run that made them; None where they are not known.
        results: That are known.
        licence: Of the weights, by the hub's identifier.
        name: USER/NAME on the hub; None: the folder is used where it lies.
    """

    meta: CheckpointMeta
    model: nn.Module
    facts: TrainingFacts | None
    results: list[Result]
    licence: str
    name: str | None

    def write(self) -> str:
        """The whole file."""
        parts = [*self._head(), *self._results(), *self._cost(), *self._training(), *self._limits(), *self._terms()]
        return f"---\n{self._metadata()}\n---\n\n" + "\n\n".join(parts) + "\n"

    def _metadata(self) -> str:
        from huggingface_hub import ModelCardData

        meta, detects = self.meta, self.meta.detector is not None
        timms = is_timms(meta)
        task = "object-detection" if detects else "image-classification"
        data = ModelCardData(
            license=self.licence,
            library_name="timm" if timms else "attnorm",
            pipeline_tag=task if meta.num_classes else "image-feature-extraction",
            tags=[task, "attnorm", "attentive-normalization", *(["timm"] if timms else [])],
            datasets=[_DATASETS[meta.dataset]] if meta.dataset in _DATASETS else None,
            model_name=self.name or meta.model,
            eval_results=[self._evaluated(result, task) for result in self.results] or None,
        )
        return data.to_yaml()

    def _evaluated(self, result: Result, task: str) -> "EvalResult":
        from huggingface_hub import EvalResult

        dataset = self.meta.dataset
        interval = (
            {} if result.interval is None else {"interval_95_percent": [round(end, 4) for end in result.interval]}
        )
        return EvalResult(
            task_type=task,
            dataset_type=_DATASETS.get(dataset, dataset),
            dataset_name=self.facts.data if self.facts is not None else dataset,
            dataset_split="evaluation part",
            metric_type=result.kind,
            metric_name=result.name,
            metric_value=round(result.percent, 4),
            metric_args={"of": result.of, **interval},
        )

    def _head(self) -> Iterator[str]:
        meta = self.meta
        channels = {1: "grey", 3: "colour"}.get(meta.in_chans, f"{meta.in_chans}-channel")
        names = ", ".join(plain(name, 40) for name in meta.classes[:20])
        more = f" and {len(meta.classes) - 20} more" if len(meta.classes) > 20 else ""
        yield f"# {plain(self.name or meta.model)}"
        if meta.detector is not None:
            what = f"A detector, {code(meta.model)}, for objects of {_classes(meta)} in {channels} images"
            what += f" whose shorter side is brought to {meta.image_size} pixels"
        else:
            kind = f"network for {_classes(meta)}" if meta.num_classes else "backbone without a classifier"
            what = f"A {kind}, {code(meta.model)}, of {channels} images of {meta.image_size}×{meta.image_size} pixels"
        yield f"{what}: {names}{more}." if names else f"{what}."
        count = sum(isinstance(module, AttentiveNorm) for module in self.model.modules())
        yield (
            f"{PAPER} is at {count} places in it." if count else f"{PAPER} is nowhere in it; it is one to compare with."
        )
        yield from ("## Use", *usage(meta, self.name))

    def _results(self) -> Iterator[str]:
        yield "## Results"
        if not self.results:
            yield "Nothing is on record."
            return
        rows = [["metric", "%", "95 % interval", "of"]]
        for result in self.results:
            interval = "none" if result.interval is None else "[{:.2f}, {:.2f}]".format(*result.interval)
            rows.append([result.name, f"{result.percent:.2f}", interval, result.of])
        yield table(rows)
        yield (
            f"On the evaluation part of {plain(self.facts.data if self.facts else self.meta.dataset)}. Intervals over "
            "images are Wilson's, about the choice of test images; over seeds Student's, about training anew. An "
            "average precision is no share of images and has the latter alone."
        )

    def _cost(self) -> Iterator[str]:
        yield "## Cost"
        size = self.meta.image_size
        counted = self._counted()
        image = f"one image of {size}×{size} pixels"
        rows = [
            ["what", "how much"],
            ["parameters", f"{count_parameters(self.model):,}"],
            [f"multiply-accumulates for {image}", f"{counted.macs:,}"],
            [f"other operations for {image}", f"{counted.elementwise:,}"],
        ]
        if (facts := self.facts) is not None and facts.seconds_per_epoch is not None:
            device = facts.machine.get("device")
            device = facts.machine.get("processor") if device == "cpu" else device
            where = f"{facts.processes} × {plain(device)}" if facts.processes > 1 else plain(device)
            rows.append(["training, an epoch (median)", f"{facts.seconds_per_epoch:,.1f} s on {where}"])
            rows.append(["training, images per second (median)", f"{facts.images_per_second:,.0f}"])
        yield table(rows)
        if isinstance(self.model, Detector):
            yield (
                "Operations are of an image of noise in which as much is found as may be; what a detector computes "
                "depends on the image."
            )

    def _counted(self) -> Operations:
        size = (self.meta.in_chans, self.meta.image_size, self.meta.image_size)
        if not isinstance(self.model, Detector):
            return count_operations(self.model, size)
        heads = self.model.roi_heads
        kept, heads.config = heads.config, replace(heads.config, score_threshold=0.0)
        try:
            return count_in(self.model, [torch.rand(size, generator=torch.Generator().manual_seed(0))])
        finally:
            heads.config = kept

    def _training(self) -> Iterator[str]:
        yield "## Training"
        facts = self.facts
        if facts is None:
            yield "The run is not on record."
            return
        data = f"[{plain(facts.data)}]({facts.source})" if facts.source else plain(facts.data)
        images = f", {facts.train_images:,} images" if facts.train_images is not None else ""
        yield f"On {data}{images}; {facts.epochs} epochs, seed {facts.seed}."
        yield _DETAILS.format(fenced(_yaml(facts.config), "yaml"))
        commit = plain(facts.git.get("commit") or "unknown")
        changed = " with uncommitted changes" if facts.git.get("dirty") else ""
        versions = ", ".join(f"{plain(name)} {plain(version)}" for name, version in facts.versions.items())
        yield f"Made with {versions}; commit {commit}{changed}."

    def _limits(self) -> Iterator[str]:
        yield "## Limitations"
        yield "\n".join(f"- {limit}" for limit in self._known_limits())

    def _known_limits(self) -> Iterator[str]:
        meta, facts = self.meta, self.facts
        if meta.detector is not None:
            yield f"It looks for objects of {_classes(meta)} and no others."
        elif meta.num_classes:
            yield f"It gives one of {_classes(meta)} to whatever it is shown."
        yield f"The numbers are of images as in {plain(facts.data if facts else meta.dataset)}: on others expect less."
        if facts is None:
            return
        yield f"One run with seed {facts.seed}: another seed ends elsewhere."
        if facts.best_epoch == meta.epoch != facts.epochs:
            yield f"Epoch {meta.epoch} of {facts.epochs} was chosen by its results on these images: they flatter it."
        if facts.limits:
            yield plain(facts.limits, 1000)

    def _terms(self) -> Iterator[str]:
        yield "## Licence"
        yield f"The weights: {code(self.licence)}."
        known = {key: value for key, value in (self.meta.provenance or {}).items() if isinstance(value, (str, int))}
        if known:
            told = "; ".join(f"{plain(key)}: {plain(value)}" for key, value in known.items())
            yield f"They started from others, whose terms hold too: {told}."


def _classes(meta: CheckpointMeta) -> str:
    """How many classes there are; of a detector without the background."""
    count = meta.num_classes - (meta.detector is not None)
    return f"{count} class{'' if count == 1 else 'es'}"


def _yaml(config: Any) -> str:
    import yaml

    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
