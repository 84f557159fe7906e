"""The processes that read for a loader, when the run is told to stop.

torchrun and schedulers send SIGTERM to every process that they find, the readers among them. These must go on until
the run has saved its state: where one dies, the training process fails with it.
"""

import os
import signal
import threading


def outlive_the_signals(worker: int) -> None:
    """Makes a reading process end by SIGTERM only when its parent sends it, as Python does at its exit.

    Args:
        worker: its number, which torch's loader gives.
    """
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS and Windows
        # Blocked here and so in threads to come; the one that waits for it is the only one to see it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
