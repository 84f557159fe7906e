"""A comparison that nobody trained: numbers chosen by hand, so that the tests know what must come out."""

from typing import Any

import pytest

from attnorm.evidence.notes import cautions, notes
from attnorm.evidence.summary import summarise

DATA = {
    "name": "made_up",
    "classes": 10,
    "in_chans": 1,
    "image_size": 28,
    "train_images": 60_000,
    "test_images": 10_000,
}
TOP1 = {"bn": (91.0, 91.4, 91.2), "se": (91.3, 91.1, 91.4), "an": (92.0, 92.3, 92.3)}


def made_up_run(model: str, seed: int, top1: float) -> dict[str, Any]:
    """A finished run of two epochs, as `attnorm.evidence.compare` describes it."""
    epochs = [
        {"epoch": 1, "train_loss": 0.8, "top1": top1 - 5, "seconds": 20.0},
        {"epoch": 2, "train_loss": 0.4, "top1": top1, "seconds": 15.0},
    ]
    record = {
        "history": epochs,
        "best_top1": top1,
        "versions": {"torch": "2.15.0"},
        "environment": {"processor": "x86_64", "threads": 1},
        "git": {"commit": "abc", "dirty": False},
        "processes": 1,
        "config": {"data_dir": "somewhere", "output": "elsewhere"},
    }
    return {"model": model, "seed": seed, "status": "done", "why": None, "top1": top1, "record": record}


def made_up_result(runs: list[dict[str, Any]], models: tuple[str, ...] = ("bn", "se", "an")) -> dict[str, Any]:
    """The content of a compare.json with these runs."""
    times = {
        "train_ms_per_image": {"low": 0.27, "median": 0.3, "high": 0.33},
        "eval_ms_per_image": {"low": 0.1499, "median": 0.15, "high": 0.1502},
    }
    costs = {name: {"parameters": 77_850, "macs": 12_345_678, **times} for name in models}
    entries = summarise(models, runs, costs, DATA["test_images"])
    return {
        "format": "attnorm-compare",
        "format_version": 1,
        "finished": "2026-11-22T20:00:00+00:00",
        "seconds": 60.0,
        "command": "attnorm compare --models bn,se,an --data-dir somewhere --output elsewhere",
        "config": {"epochs": 2, "seeds": "0,1,2", "data_dir": "somewhere", "output": "elsewhere"},
        "data": DATA,
        "baseline": models[0],
        "models": entries,
        "cautions": cautions(DATA, entries),
        "notes": notes(DATA, entries),
        "environment": {"versions": {"torch": "2.15.0"}, "machine": {"processor": "x86_64"}},
        "runs": runs,
    }


@pytest.fixture
def result() -> dict[str, Any]:
    """Three networks, three seeds: se without, an with a difference."""
    runs = [made_up_run(name, seed, top1) for name, values in TOP1.items() for seed, top1 in enumerate(values)]
    return made_up_result(runs)
