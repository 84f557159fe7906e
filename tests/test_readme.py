"""The README's example runs as printed, and the commands it names exist."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

import attnorm
from attnorm.evidence.config import CompareConfig
from attnorm.evidence.inspect_config import InspectConfig
from attnorm.evidence.profile_config import ProfileConfig
from attnorm.options import parse_settings
from attnorm.training.config import TrainConfig
from attnorm.training.swap_config import SwapConfig
from attnorm.training.use_config import ConvertConfig, EvalConfig, PredictConfig

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SETTINGS: dict[str, Any] = {
    "train": TrainConfig,
    "eval": EvalConfig,
    "predict": PredictConfig,
    "compare": CompareConfig,
    "convert": ConvertConfig,
    "profile": ProfileConfig,
    "inspect": InspectConfig,
    "swap": SwapConfig,
}
PYTHON_BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_python_examples_run_as_printed_and_train_attentive_layers():
    """Afterwards the components of each mixture get distinct gradients: it is AN that is trained.

    Not in the example's own first step, as timm starts every residual branch of a new ResNet at zero.
    """
    assert PYTHON_BLOCKS
    scope: dict = {"__name__": "__main__"}
    for block in PYTHON_BLOCKS:
        exec(compile(block, "README.md", "exec"), scope)
    logits = scope["model"](torch.randn(8, 3, 64, 64))
    torch.nn.functional.cross_entropy(logits, torch.arange(8)).backward()
    layers = [module for module in scope["model"].modules() if isinstance(module, attnorm.AttentiveBatchNorm2d)]
    assert layers
    gradients = [layer.weight.grad for layer in layers]
    assert all(g is not None and g.shape[0] > 1 for g in gradients)
    assert all((g[0] - g[1]).abs().max() > 0 for g in gradients)


def test_make_targets_named_in_the_docs_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    for page in ("README.md", "CONTRIBUTING.md"):
        named = re.findall(
            r"(?:^ {4}|`)(?:[A-Z_]+=\w+ )*make ([a-z-]+)", (ROOT / page).read_text("utf-8"), re.MULTILINE
        )
        assert named, page
        assert set(named) <= targets, page


def test_relative_links_lead_somewhere():
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link


def test_commands_are_understood(monkeypatch: pytest.MonkeyPatch):
    """Every indented line that starts with `attnorm`, continued lines joined; nothing is run."""
    monkeypatch.chdir(ROOT)
    lines = re.findall(r"^ {4}attnorm +(.*)", README.replace("\\\n", " "), re.MULTILINE)
    assert {line.split()[0] for line in lines} == SETTINGS.keys()
    for name, *arguments in map(shlex.split, lines):
        settings = SETTINGS[name]
        recipe = settings in (TrainConfig, CompareConfig)
        parse_settings(settings, arguments, command=f"attnorm {name}", recipe=recipe)
