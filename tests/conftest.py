"""Set up before anything is imported: without a CUDA device, Triton kernels run through Triton's interpreter."""

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read by triton when a kernel is declared, so set before that
