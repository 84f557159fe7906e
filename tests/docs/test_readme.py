"""The README's example trains what it says, and the README speaks of every command and of files that are there."""

import re
from pathlib import Path

import pytest
import torch

import attnorm
from attnorm.cli import COMMANDS
from tests.docs.blocks import ROOT
from tests.docs.sessions import read_through

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_example_runs_as_printed_and_trains_attentive_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Afterwards the components of each mixture get distinct gradients: it is AN that is trained.

    Not in the example's own first step, as timm starts every residual branch of a new ResNet at zero.
    """
    model = read_through("README.md", tmp_path, monkeypatch)["model"]
    torch.nn.functional.cross_entropy(model(torch.randn(8, 3, 64, 64)), torch.arange(8)).backward()
    layers = [module for module in model.modules() if isinstance(module, attnorm.AttentiveBatchNorm2d)]
    assert layers
    for layer in layers:
        gradient = layer.weight.grad
        assert gradient is not None
        assert gradient.shape[0] > 1
        assert (gradient[0] - gradient[1]).abs().max() > 0


def test_make_targets_named_in_the_docs_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    for page in ("README.md", "CONTRIBUTING.md"):
        named = re.findall(
            r"(?:^ {4}|`)(?:[A-Z_]+=\w+ )*make ([a-z-]+)", (ROOT / page).read_text("utf-8"), re.MULTILINE
        )
        assert named, page
        assert set(named) <= targets, page


def test_links_lead_to_files_and_headings():
    """The site's own are checked by its build, which does not see this page."""
    for file, anchor in re.findall(r"\]\((?!https?:)([^)#]+)#?([^)]*)\)", README):
        assert (ROOT / file).exists(), file
        titles = re.findall(r"^#+ (.*)", (ROOT / file).read_text("utf-8"), re.MULTILINE) if anchor else []
        assert not anchor or anchor in [re.sub(r"[^\w -]", "", t).lower().replace(" ", "-") for t in titles], anchor


def test_every_command_is_named():
    words = re.sub(r" +", " ", README)
    assert [name for name in COMMANDS if f"attnorm {name}" not in words] == []
