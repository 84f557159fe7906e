"""Code run in a process of its own, so that a crash, a hang or a full memory of it can be told."""

import multiprocessing
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# The server has imported little and freed nothing: what its children take is new memory, and counts.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.data.reading"])


@dataclass(frozen=True)
class Outcome:
    """Of one call.

    Attributes:
        value: what came back.
        peak: bytes of memory that the process took at most, beyond those it began with.
        seconds: processor time.
    """

    value: Any
    peak: int
    seconds: float


def _status(name: str) -> int:
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def _call(pipe: Any, function: Callable[..., Any], arguments: tuple[Any, ...], seconds: int, memory: int) -> None:
    address_space = _status("VmSize") + memory
    resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))
    signal.alarm(seconds)  # kills: nothing handles it
    before, start = _status("VmRSS"), time.process_time()
    value = function(*arguments)
    pipe.send(Outcome(value, _status("VmHWM") - before, time.process_time() - start))


def apart(function: Callable[..., Any], *arguments: Any, seconds: int = 60, memory: int = 2**32) -> Outcome:
    """Call a module's function in a process that ends after `seconds` and gets no more than `memory` bytes.

    Raises:
        AssertionError: it did not come back.
    """
    ours, theirs = _context.Pipe(duplex=False)
    process = _context.Process(target=_call, args=(theirs, function, arguments, seconds, memory))
    process.start()
    theirs.close()
    try:
        outcome = ours.recv()
    except EOFError:
        outcome = None
    process.join()
    assert outcome is not None, f"{function.__name__}{arguments!r:.200} ended with {process.exitcode}"
    return outcome
