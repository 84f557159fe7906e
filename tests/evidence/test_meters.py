"""The meters without hardware: a folder of RAPL's files, a driver's library that answers as it is told."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from attnorm.evidence import meters
from attnorm.evidence.meters import NoMeterError, NvmlMeter, PowerIntegral, RaplMeter, meter_for

CUDA = torch.device("cuda", 0)


def zone(root: Path, folder: str, name: str, microjoules: int, size: int = 1_000_000) -> Path:
    """One counter as Linux shows it; the file that holds its value."""
    path = root / folder
    path.mkdir(parents=True)
    (path / "name").write_text(name + "\n")
    (path / "max_energy_range_uj").write_text(f"{size}\n")
    (path / "energy_uj").write_text(f"{microjoules}\n")
    return path / "energy_uj"


def test_rapl_adds_packages_and_their_memory_and_nothing_twice(tmp_path: Path):
    """Cores are part of a package, psys is all of the machine, mmio repeats a package: 0.3 + 0.2 + 0.1 J."""
    counters = [
        (zone(tmp_path, "intel-rapl:0", "package-0", 100), 300_100),
        (zone(tmp_path, "intel-rapl:1", "package-1", 0), 200_000),
        (zone(tmp_path, "intel-rapl:0:1", "dram", 7), 100_007),
        (zone(tmp_path, "intel-rapl:0:0", "core", 0), 50_000),
        (zone(tmp_path, "intel-rapl:2", "psys", 0), 900_000),
        (zone(tmp_path, "intel-rapl-mmio:0", "package-0", 0), 300_000),
    ]
    meter = RaplMeter(tmp_path)
    assert meter.joules() == 0
    for file, value in counters:
        file.write_text(f"{value}\n")
    assert meter.joules() == pytest.approx(0.6)
    assert meter.joules() == pytest.approx(0.6)
    assert meter.covers == "2 processor packages and their memory; not the rest of the machine"


def test_rapl_goes_on_when_a_counter_starts_again(tmp_path: Path):
    """0.9 J of a range of 1 J, then 0.05 J: 0.15 J passed; and once more round the clock."""
    file = zone(tmp_path, "intel-rapl:0", "package-0", 900_000)
    meter = RaplMeter(tmp_path)
    readings: list[float] = []
    for value in (50_000, 999_999, 0, 10):
        file.write_text(f"{value}\n")
        readings.append(meter.joules())
    assert readings == pytest.approx([0.15, 1.099999, 1.1, 1.10001])


def test_no_counters_are_said_plainly(tmp_path: Path):
    with pytest.raises(NoMeterError, match=r"there is no .*/intel-rapl:\*: the system does not show the processor's"):
        RaplMeter(tmp_path / "powercap")


def test_counters_for_root_only_are_said_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The tests may run as root, who reads everything: so reading is made to fail as it does for others."""
    zone(tmp_path, "intel-rapl:0", "package-0", 0)
    read = Path.read_text

    def refuse(self: Path, *args: Any, **kwargs: Any) -> str:
        if self.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return read(self, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(NoMeterError, match=r"energy_uj may be read by root only.*sudo chmod a\+r .*/energy_uj$"):
        RaplMeter(tmp_path)


def test_a_counter_that_vanishes_is_named(tmp_path: Path):
    zone(tmp_path, "intel-rapl:0", "package-0", 0).unlink()
    with pytest.raises(NoMeterError, match=r"energy_uj cannot be read \(FileNotFoundError\)"):
        RaplMeter(tmp_path)


class Driver(ModuleType):
    """pynvml of a machine with one device; what the device does not tell is None."""

    class NVMLError(Exception):
        pass

    def __init__(self, millijoules: int | None, milliwatts: int | None, uuid: str = "GPU-1234") -> None:
        super().__init__("pynvml")
        self.millijoules, self.milliwatts, self.uuid = millijoules, milliwatts, uuid

    def nvmlInit(self) -> None:
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        if uuid != self.uuid:
            raise self.NVMLError("Not Found")
        return "handle"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        return self._told(handle, self.millijoules)

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        return self._told(handle, self.milliwatts)

    def _told(self, handle: str, value: int | None) -> int:
        assert handle == "handle"
        if value is None:
            raise self.NVMLError("Not Supported")
        return value


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch):
    """Puts a driver and a device, whose UUID is 1234, into this machine."""
    device = SimpleNamespace(uuid="1234", name="a device")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: device)

    def install(made: Driver) -> Driver:
        monkeypatch.setitem(sys.modules, "pynvml", made)
        return made

    return install


def test_nvml_reads_the_energy_counter_in_millijoules(driver):
    made = driver(Driver(5_000, 100_000))
    meter = meter_for(CUDA)
    before = meter.joules()
    made.millijoules = 7_250
    assert meter.joules() - before == pytest.approx(2.25)
    assert meter.name == "NVML's energy counter"
    assert meter.covers.startswith("a device, its memory included")


def test_nvml_samples_the_power_where_energy_is_not_counted(driver, monkeypatch: pytest.MonkeyPatch):
    """250 W for as long as a thread that never runs does not look; the moments are those of a simulated clock."""
    monkeypatch.setattr(meters.threading, "Thread", lambda **_: SimpleNamespace(start=lambda: None))
    now = [0.0]
    monkeypatch.setattr(PowerIntegral.__init__, "__defaults__", (lambda: now[0],))
    driver(Driver(None, 250_000))
    meter = NvmlMeter(CUDA)
    now[0] = 4.0
    assert meter.joules() == pytest.approx(1000)
    assert meter.name == "NVML's power, read every 20 ms"


def test_the_integral_of_power_is_the_area_under_its_samples():
    """100 W at 0 s, 300 W at 1 s, 0 W at 3 s: 200 J and 300 J more."""
    moments, powers = iter([0.0, 1.0, 3.0]), iter([100.0, 300.0, 0.0])
    integral = PowerIntegral(lambda: next(powers), lambda: next(moments))
    assert integral.joules() == pytest.approx(200)
    assert integral.joules() == pytest.approx(500)


def test_a_device_that_tells_nothing_is_no_meter(driver):
    driver(Driver(None, None))
    with pytest.raises(NoMeterError, match=r"tells NVML neither its energy nor its power \(Not Supported\)"):
        NvmlMeter(CUDA)


def test_a_device_that_the_driver_does_not_know_is_no_meter(driver):
    driver(Driver(0, 0, uuid="GPU-other"))
    with pytest.raises(NoMeterError, match=r"management library does not know the device \(Not Found\)"):
        NvmlMeter(CUDA)


def test_without_the_package_nothing_is_estimated(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(NoMeterError, match="NVML needs the package nvidia-ml-py, which is not installed"):
        NvmlMeter(CUDA)
