"""Archives of torch.export (.pt2)."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from attnorm.deploy.subject import Subject

CARD = "attnorm.json"  # the extra file with what the network's user has to know


def write_pt2(program: ExportedProgram, subject: Subject, path: Path) -> None:
    """Writes a program with the subject's card as an extra file."""
    program.example_inputs = None  # zeros, which would be most of a small file
    with path.open("wb") as file:  # by name torch.export.save asks for an ending
        torch.export.save(program, file, extra_files={CARD: subject.card()})


def pt2_runner(path: Path) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """What runs an archive: images in, outputs out."""
    with path.open("rb") as file:
        module = torch.export.load(file).module()

    def run(images: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return tuple(module(images))

    return run


def count_nodes(path: Path) -> dict[str, int]:
    """How many calls of which operator an archive has, the most frequent first."""
    with path.open("rb") as file:
        nodes = torch.export.load(file).graph.nodes
    return dict(Counter(str(node.target) for node in nodes if node.op == "call_function").most_common())
