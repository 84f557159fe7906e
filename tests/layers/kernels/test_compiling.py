"""The kernels as the compiler sees them: the interpreter lets through what it refuses, and knows no shared memory."""

import json
import os
import subprocess
import sys

import pytest

PASSES = {"_measure_kernel", "_apply_kernel", "_sums_kernel", "_input_gradient_kernel"}


@pytest.mark.slow
def test_every_kernel_compiles_for_hopper():
    """In a process of its own, where kernels are declared for the compiler; maps of 14x14, which 16 does not divide."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.layers.kernels.compiling"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    made = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(made) == 40
    for kernel in made:
        assert kernel["shared"] <= 48 * 1024, kernel  # what every CUDA device gives a thread block
        if kernel["kernel"] in PASSES and kernel["pixels"] is None:
            assert kernel["wide"] > 0, f"{kernel['kernel']} reads x value by value"
