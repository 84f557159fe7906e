"""The GPU script without a GPU: its refusal, its bookkeeping, and its check of the kernels in the interpreter."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from attnorm.evidence.interleaved import Ratio
from attnorm.layers import eager
from attnorm.layers.activation import Activation
from benchmarks import gpu, gpu_kernels
from benchmarks.contenders import Case
from benchmarks.gpu_layers import Entry, Settings, entry, queued
from benchmarks.tables import gpu as gpu_table

SETTINGS = Settings(batch_size=4, side=32)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_one_line_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert gpu.main(["--json", str(tmp_path / "gpu.json")]) == 1
    assert capsys.readouterr().err == "benchmarks.gpu needs a CUDA device, and torch finds none: nothing was measured\n"
    assert not (tmp_path / "gpu.json").exists()


class OneBitOff:
    """The eager passes with a mean divided by L - 1: what the check of the kernels must notice."""

    def __getattr__(self, name: str) -> Any:
        return getattr(eager, name)

    @staticmethod
    def measure(x: Tensor) -> tuple[Tensor, Tensor]:
        mean, var = eager.measure(x)
        pixels = x.shape[2] * x.shape[3]
        return mean * (pixels / (pixels - 1)), var


def cases(*dtypes: str) -> list[Case]:
    return [
        Case(channels=5, side=6, components=3, layout=layout, dtype=dtype, batch=2)
        for layout in ("NCHW", "channels_last")
        for dtype in dtypes
    ]


def test_the_check_of_the_kernels_passes_right_ones_and_names_wrong_ones():
    worst, wrong = gpu_kernels.check_kernels(eager, cases("float32", "bfloat16"))
    assert wrong == []
    assert 0 < worst <= 1
    worst, wrong = gpu_kernels.check_kernels(OneBitOff(), cases("float32"))
    assert worst > 1
    assert len(wrong) == 4  # measure in both layouts, asked for without and with the activation
    assert wrong[0].startswith("measure, 5x6x6 NCHW float32: relative error 0.0")


@pytest.mark.skipif(torch.cuda.is_available(), reason="the script itself checks the kernels on a device")
def test_the_kernels_take_the_arguments_that_the_script_gives_them():
    """Through Triton's interpreter: a misunderstanding would otherwise show only on rented time."""
    triton = pytest.importorskip("triton")
    from attnorm.layers import kernels

    try:
        _, wrong = gpu_kernels.check_kernels(kernels, cases("float32"))
    except triton.runtime.errors.InterpreterError as error:
        if "only 0-dimensional arrays" not in str(error):
            raise
        pytest.skip(f"Triton {triton.__version__}'s interpreter cannot run loops with this NumPy")
    assert wrong == []


def test_bytes_of_the_passes_are_those_of_the_formulas():
    """Reads and writes by hand: x; x and y; g and x; g, x and dx."""
    assert gpu_kernels.MOVES == {"measure": 1, "apply": 2, "gradient_sums": 2, "input_gradient": 3}
    steps = gpu_kernels.passes(eager, cases("float32")[0], Activation("relu"))
    assert set(steps) == set(gpu_kernels.MOVES)


def test_queued_steps_run_without_a_wait_in_between():
    calls: list[int] = []

    def step() -> Iterator[str]:
        calls.append(1)
        yield "one"
        calls.append(2)
        yield "two"

    assert list(queued(step, 3)()) == ["queued"]
    assert calls == [1, 2] * 3


def failing(_: Settings) -> Iterator[Entry]:
    yield entry("a / b", Ratio(median=1.02, low=1.0, high=1.04, rounds=9), "an_bn_train")
    raise RuntimeError("out of memory\nand much more")


def test_a_failing_part_keeps_what_it_has_and_says_why(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(gpu.PARTS, "layers", (failing, 20))
    row = gpu.run_part("layers", SETTINGS, 100)
    assert row["failed"] == "RuntimeError: out of memory"
    assert [item["name"] for item in row["entries"]] == ["a / b", "layers"]
    assert gpu_table({"rows": [row]}).splitlines()[2:] == [
        "| layers | a / b | 1.020 [1.000, 1.040]; ≤ 1.05: met |",
        "| layers | layers | failed: RuntimeError: out of memory |",
    ]


def test_a_part_for_which_no_time_is_left_is_skipped(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(gpu.PARTS, "layers", (failing, 20))
    row = gpu.run_part("layers", SETTINGS, 19)
    assert row["skipped"] == "skipped: 19 s left, 20 needed"
