"""A network's numbers with what chance may do to them: over the test images, and over seeds."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnorm.errors import ConfigError
from attnorm.evidence.statistics import wilson_interval
from attnorm.hub.training_facts import TrainingFacts
from attnorm.training.header import CheckpointMeta
from attnorm.training.metric import METRICS


@dataclass(frozen=True, kw_only=True)
class Result:
    """One number.

    Attributes:
        name: Of the metric, for people.
        kind: Of the metric, as the hub calls it.
        percent: The number.
        interval: 95 %, lower and upper end, in percent; None where there is none.
        of: What the interval is about, in words; what the number is of where it has none.
    """

    name: str
    kind: str
    percent: float
    interval: tuple[float, float] | None
    of: str


# By the names in a header: for people, for the hub, and what makes a percentage of it.
_SHOWN = {
    "top1": ("top-1 accuracy", "accuracy", 1),
    "top5": ("top-5 accuracy", "accuracy", 1),
    "box_AP": ("box AP", "box_ap", 100),
    "box_AP50": ("box AP50", "box_ap50", 100),
    "mask_AP": ("mask AP", "mask_ap", 100),
    "mask_AP50": ("mask AP50", "mask_ap50", 100),
}


def results(meta: CheckpointMeta, facts: TrainingFacts | None, compare: str | Path | None) -> list[Result]:
    """All numbers that are known of a checkpoint.

    Args:
        meta: Its header, which has what was measured when it was written.
        facts: Of its run, which say how many images that was on.
        compare: compare.json of a comparison that the network was part of.

    Raises:
        ConfigError: The comparison cannot be read, or is not of this network on this data set.
    """
    images = facts.eval_images if facts is not None else None
    found = [_measured(name, value, images) for name, value in (meta.metrics or {}).items() if name in _SHOWN]
    return found + ([] if compare is None else _over_seeds(meta, Path(compare)))


def _measured(name: str, value: float, images: int | None) -> Result:
    title, kind, scale = _SHOWN[name]
    counted = "an unknown number of images" if images is None else f"{images:,} images"
    # An average precision is no share of images, so that the binomial's interval is not its own.
    interval = wilson_interval(value, images) if kind == "accuracy" and images else None
    return Result(name=title, kind=kind, percent=scale * value, interval=interval, of=counted)


def _over_seeds(meta: CheckpointMeta, path: Path) -> list[Result]:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != "attnorm-compare":
            raise ValueError("it is of another format")
        (entry,) = [entry for entry in content["models"] if entry["name"] == meta.model]
        if content["data"]["name"] != meta.dataset:
            raise ValueError(f"it is on {content['data']['name']}")
        return [_mean(name, entry[name]) for name in METRICS if entry.get(name) is not None]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ConfigError(
            f"compare must be a compare.json of `attnorm compare` with {meta.model} on {meta.dataset}; {path} is not"
        ) from None


def _mean(name: str, sample: dict[str, Any]) -> Result:
    title, kind, _ = _SHOWN[name]
    interval, count = sample["interval"], int(sample["n"])
    return Result(
        name=f"{title}, mean over {count} seed{'s' if count > 1 else ''}",
        kind=kind,
        percent=float(sample["mean"]),
        interval=None if interval is None else (float(interval[0]), float(interval[1])),
        of="training anew with another seed",
    )
