"""The steps that a profile times: an inference, and a training step with its optimizer."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from attnorm.evidence.profile_config import PRECISIONS, Case
from attnorm.evidence.timing import Batch
from attnorm.training.evaluation import autocast

# So slow that random labels move no weight to where arithmetic takes another time (denormals, infinities).
LEARNING_RATE = 1e-6
MOMENTUM = 0.9


class Worker:
    """A network at work in one case.

    Args:
        model: on the device and in the memory format of the case; its mode is set.
        batch: likewise.
        case: what is measured.
        device: where it runs.
    """

    def __init__(self, model: nn.Module, batch: Batch, case: Case, device: torch.device) -> None:
        self.model = model.train(case.mode == "training")
        self.batch, self.case, self.device = batch, case, device
        self.runs: nn.Module = model
        if case.compiled:
            self.runs = torch.compile(model, dynamic=False)  # pyright: ignore
        trainable = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = None
        if case.mode == "training":
            self.optimizer = torch.optim.SGD(trainable, lr=LEARNING_RATE, momentum=MOMENTUM)

    def step(self) -> Iterator[str]:
        """Inference, or forward with loss, backward and update; see `attnorm.evidence.interleaved`."""
        return self._inference() if self.optimizer is None else self._training(self.optimizer)

    def run(self) -> None:
        """One whole step."""
        for _ in self.step():
            pass

    def forward(self) -> Tensor:
        """Forward and loss, in training."""
        with self._autocast():
            return self.batch.loss(self.runs)

    def held(self) -> list[Tensor]:
        """What is there before a step: parameters, buffers, the optimizer's state and the batch."""
        state: list[Any] = []
        if self.optimizer is not None:
            state = [value for each in self.optimizer.state.values() for value in each.values()]
        batch = [value for value in vars(self.batch).values() if isinstance(value, Tensor)]
        for value in vars(self.batch).values():
            if isinstance(value, list):
                batch += [t for each in value for t in (each.values() if isinstance(each, dict) else [each])]
        tensors = [*self.model.parameters(), *self.model.buffers(), *state, *batch]
        return [tensor for tensor in tensors if isinstance(tensor, Tensor)]

    def _inference(self) -> Iterator[str]:
        with torch.no_grad(), self._autocast():
            self.batch.infer(self.runs)
        yield "inference"

    def _training(self, optimizer: torch.optim.Optimizer) -> Iterator[str]:
        with _same_draws(self.device):
            loss = self.forward()
        yield "forward"
        loss.backward()
        yield "backward"
        optimizer.step()
        yield "update"
        optimizer.zero_grad(set_to_none=True)

    def _autocast(self) -> Any:
        return autocast(PRECISIONS[self.case.dtype], self.device)


@contextmanager
def _same_draws(device: torch.device) -> Iterator[None]:
    """The same random numbers every time: a detector draws proposals, and no step may get easier ones than others."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(2)
        yield
