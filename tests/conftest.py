"""Real files where they are there; and, before anything is imported, Triton's interpreter without a CUDA device."""

import os

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
