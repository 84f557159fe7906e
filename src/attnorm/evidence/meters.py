"""Joules, from a counter that the hardware keeps; nothing is estimated where there is none.

| meter | of | read from |
|---|---|---|
| NVML's energy counter | a CUDA device, its memory included | nvmlDeviceGetTotalEnergyConsumption (Volta and later) |
| NVML's power | the same, where that counter is missing | nvmlDeviceGetPowerUsage every 20 ms, integrated |
| RAPL | the processor's packages, and their memory where it has a counter | files in /sys/class/powercap (Linux) |

A meter sees the whole device, whoever uses it: measure on a machine that does nothing else.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch

POWERCAP = Path("/sys/class/powercap")
SAMPLING_S = 0.02


class NoMeterError(Exception):
    """Why energy cannot be measured here."""


class Meter(Protocol):
    """A counter of joules."""

    @property
    def name(self) -> str:
        """What is read."""
        ...

    @property
    def covers(self) -> str:
        """Whose energy it is."""
        ...

    def joules(self) -> float:
        """Joules since some moment in the past; never falls."""
        ...


def meter_for(device: torch.device) -> Meter:
    """The meter of the device that computes.

    Raises:
        NoMeterError: There is none, with the reason in one sentence.
    """
    return NvmlMeter(device) if device.type == "cuda" else RaplMeter()


class NvmlMeter:
    """The energy of a CUDA device, as NVIDIA's driver counts it.

    The counter moves in steps of some 20 to 100 ms: measure seconds.

    Raises:
        NoMeterError: The driver's library or its Python package is missing, or the device tells neither energy nor
            power.
    """

    def __init__(self, device: torch.device) -> None:
        try:
            import pynvml
        except ImportError:
            raise NoMeterError("NVML needs the package nvidia-ml-py, which is not installed") from None
        self._nvml: Any = pynvml
        self._integral: PowerIntegral | None = None
        properties = torch.cuda.get_device_properties(device)
        self.covers = f"{properties.name}, its memory included; not the rest of the machine"
        try:
            pynvml.nvmlInit()
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{properties.uuid}")
        except pynvml.NVMLError as error:
            raise NoMeterError(f"NVIDIA's management library does not know the device ({error})") from None
        try:
            self._counted()
            self.name = "NVML's energy counter"
        except pynvml.NVMLError:
            self._integral = self._sampled()
            self.name = f"NVML's power, read every {SAMPLING_S * 1000:.0f} ms"

    def joules(self) -> float:
        """Joules since the driver was loaded, or since the meter was made where power is sampled."""
        return self._counted() if self._integral is None else self._integral.joules()

    def _counted(self) -> float:
        return self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) / 1000  # from mJ

    def _watts(self) -> float:
        return self._nvml.nvmlDeviceGetPowerUsage(self._handle) / 1000  # from mW

    def _sampled(self) -> "PowerIntegral":
        try:
            integral = PowerIntegral(self._watts)
        except self._nvml.NVMLError as error:
            raise NoMeterError(f"the device tells NVML neither its energy nor its power ({error})") from None
        threading.Thread(target=integral.keep_sampling, daemon=True).start()
        return integral


class PowerIntegral:
    """Joules out of watts: the area under the samples, joined by straight lines.

    Args:
        watts: reads the power.
        clock: seconds.
    """

    def __init__(self, watts: Callable[[], float], clock: Callable[[], float] = time.perf_counter) -> None:
        self._watts, self._clock = watts, clock
        self._lock = threading.Lock()
        self._total = 0.0
        self._last = (clock(), watts())

    def joules(self) -> float:
        """Joules since this was made, up to this moment."""
        with self._lock:
            moment, power = self._clock(), self._watts()
            before, former = self._last
            self._total += (moment - before) * (power + former) / 2
            self._last = (moment, power)
            return self._total

    def keep_sampling(self) -> None:
        """Samples until the process ends: what a thread is for, as power may jump between two questions."""
        while True:
            self.joules()
            time.sleep(SAMPLING_S)


class RaplMeter:
    """The energy of the processor, from RAPL's counters of its packages and, where they exist, of their memory.

    A counter starts again from 0 when it has reached its range, every few minutes under load at the shortest: between
    two readings once at most, so read it more often than that.

    Args:
        root: the folder of the counters.

    Raises:
        NoMeterError: There are no counters, or they cannot be read.
    """

    name = "RAPL"

    def __init__(self, root: Path = POWERCAP) -> None:
        # intel-rapl:0 is a package (AMD's too), intel-rapl:0:1 a part of it; intel-rapl-mmio repeats the packages.
        zones = {path: _text(path / "name") for path in sorted(root.glob("intel-rapl:*")) if (path / "name").is_file()}
        packages = [path for path, name in zones.items() if name.startswith("package")]
        if not packages:
            raise NoMeterError(
                f"there is no {root}/intel-rapl:*: the system does not show the processor's energy counters, "
                "which virtual machines and containers mostly hide"
            )
        # A package's own counter holds its cores and graphics, but not its memory.
        memory = [path for path, name in zones.items() if name == "dram"]
        self._zones = [_Zone(path) for path in (*packages, *memory)]
        count, their = (f"{len(packages)} processor packages", "their") if packages[1:] else ("the processor", "its")
        covered = f"{count} and {their} memory" if memory else f"{count} without {their} memory"
        self.covers = f"{covered}; not the rest of the machine"

    def joules(self) -> float:
        """Joules since the meter was made."""
        return sum(zone.joules() for zone in self._zones)


class _Zone:
    """One counter of microjoules, with its wrap-around."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "energy_uj"
        self._range = int(_text(folder / "max_energy_range_uj"))
        self._last = self._read()
        self._total = 0

    def joules(self) -> float:
        now = self._read()
        self._total += now - self._last + (self._range if now < self._last else 0)
        self._last = now
        return self._total / 1e6

    def _read(self) -> int:
        return int(_text(self._file))


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except PermissionError:
        everyone = f"sudo chmod a+r {file.parent.parent}/intel-rapl:*/{file.name}"
        raise NoMeterError(f"{file} may be read by root only, as Linux has it since 2020; {everyone}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise NoMeterError(f"{file} cannot be read ({type(error).__name__})") from None
