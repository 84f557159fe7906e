"""The processes that read for a loader, when the run is told to stop.

torchrun and schedulers send SIGTERM to every process that they find, the readers among them. These must go on until
the run has saved its state: where one dies, the training process fails with it.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torchdata.stateful_dataloader import StatefulDataLoader


class Loader(StatefulDataLoader[Any]):
    """A loader whose reading processes go on when the run is told to stop, from their first moment."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named, worker_init_fn=outlive_the_signals)

    def __iter__(self) -> Any:
        with _term_held_back():  # a process inherits this when it is started, and keeps it
            return super().__iter__()


@contextmanager
def _term_held_back() -> Iterator[None]:
    if not hasattr(signal, "sigwaitinfo"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def outlive_the_signals(worker: int) -> None:
    """Makes a reading process end by SIGTERM only when its parent sends it, as Python does at its exit.

    Args:
        worker: its number, which torch's loader gives.
    """
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS and Windows
        # It is held back here, see above, and in threads to come: only the one that waits for it sees it.
        threading.Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
