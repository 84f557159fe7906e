"""A network as a program of torch.export, for images of one size or of any."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from attnorm.deploy.fold import fold_norm
from attnorm.deploy.subject import Subject
from attnorm.errors import JobError, shown

# Tracing computes nothing, so the size costs nothing; a map of one pixel would be taken for the rule.
MIN_SIDE = 128


class _Traced(nn.Module):
    """A network whose one argument is called "images" and whose outputs are a tuple."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        found = self.network(images)
        return (found,) if isinstance(found, Tensor) else tuple(found)


def trace(subject: Subject, *, static: bool) -> ExportedProgram:
    """The program of a network with its constants multiplied out.

    Args:
        subject: The network.
        static: For one image of the network's size; else for batches and images of any size.

    Raises:
        JobError: The network cannot be traced.
    """
    side = subject.meta.image_size if static else max(subject.meta.image_size, MIN_SIDE)
    images = torch.zeros(1 if static else 2, subject.meta.in_chans, side, side)
    sizes = None if static else ({0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC},)
    network = _Traced(fold_norm(subject.model)).eval()
    try:
        with quiet():
            program = torch.export.export(network, (images,), dynamic_shapes=sizes)
    except Exception as error:  # which one, depends on what torch.export meets
        cause = shown(" ".join(str(error).split()), 300)
        way_out = "; --static exports it for one size" if not static else ""
        raise JobError(
            f"{subject.meta.model} must be traceable by torch.export, and is not ({cause}){way_out}"
        ) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # lines of files on this machine
    return program


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings that torch's exporters give to themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
