"""What ties a process to torchrun, which started it: it ends when torchrun has ended, and tells torchrun its reason.

torchrun ends its processes when one of them fails, but not when it is itself killed: they would go on, holding memory
and devices, until somebody finds them. Imports nothing heavy, so that a process is watched from its first moment.
"""

import json
import os
import sys
import time
from functools import cache
from multiprocessing import active_children
from threading import Thread

POLL_SECONDS = 1.0


@cache
def watch_launcher() -> None:
    """Ends this process, and the workers of its loaders, within seconds after torchrun has gone; at most one watch.

    A thread looks at who the parent is: that holds on every system, whatever the main thread is waiting for, and leaves
    a line on stderr. Linux's PR_SET_PDEATHSIG would send SIGTERM, which waits for the end of a batch that may never
    come, or SIGKILL, which says nothing and leaves the loaders' workers. Does nothing in processes that torchrun has
    not started. Torchrun has to be the parent itself: of a shell script in between only the script's end is seen.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        Thread(target=_end_with, args=(os.getppid(),), name="launcher-watch", daemon=True).start()


def _end_with(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(POLL_SECONDS)
    try:
        print(f"attnorm: {rank_prefix()}error: torchrun has ended, so this process ends", file=sys.stderr, flush=True)
        for child in active_children():
            child.kill()
    finally:
        os._exit(1)  # at once: the main thread may be waiting for a process that is gone


def rank_prefix() -> str:
    """What a message of one process among several begins with: "rank 1 of 2: "; nothing for one alone."""
    count = os.environ.get("WORLD_SIZE", "1")
    return "" if count == "1" else f"rank {os.environ.get('RANK', '?')} of {count}: "


def tell_launcher(reason: str, *, is_cause: bool) -> None:
    """Leaves the reason of a failure where torchrun looks for it: its closing summary then has this line.

    Args:
        reason: one line.
        is_cause: False where this process fails because another one did. Torchrun calls the earliest failure the root
            cause and counts whole seconds, so such a process dates its own a little later.
    """
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        when = str(int(time.time()) + (0 if is_cause else 5))
        try:
            with open(path, "w") as file:
                json.dump({"message": {"message": reason, "extraInfo": {"timestamp": when}}}, file)
        except OSError:
            pass  # the reason is on stderr already
