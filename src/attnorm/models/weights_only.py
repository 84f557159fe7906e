"""torch.load kept from running pickles, in other libraries too."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

_SWITCH = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


@contextmanager
def weights_only() -> Iterator[None]:
    """Makes every torch.load in this process read weights only, by torch's own switch.

    torchvision loads what it has downloaded without that restriction, and timm falls back to loading without it where
    the restricted reading ends in a TypeError, which a file can bring about. A cache is not worth that trust: what
    lies in it is compared with the download's hash only when it is fetched.
    """
    before = os.environ.get(_SWITCH)
    os.environ[_SWITCH] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_SWITCH]
        else:
            os.environ[_SWITCH] = before
