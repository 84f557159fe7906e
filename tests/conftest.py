"""Real files where they are there; and, before anything is imported, Triton's interpreter without a CUDA device."""

import os
from collections import Counter

import pytest
import torch

from tests.shared import shared_file

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read by triton when a kernel is declared, so set before that


@pytest.fixture(scope="session")
def shared_data():
    """The folder of real data, see `tests.shared`."""
    folder = shared_file("data")
    if not folder.is_dir():
        pytest.skip(f"the real data are not here: {folder} (ATTNORM_SHARED names another shared folder)")
    return folder


@pytest.fixture
def tally(record_property):
    """Counts what a test went through, `tally["inputs"] += 1`; docs/reliability.md tells them, by the JUnit report."""
    counts: Counter[str] = Counter()
    yield counts
    for name, count in counts.items():
        record_property(name, count)
