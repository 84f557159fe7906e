"""Joules, from the counter that NVIDIA's driver keeps for a device; nothing is estimated where there is none."""

import ctypes
from ctypes import byref, c_char_p, c_ulonglong, c_void_p

import torch


class NoMeterError(Exception):
    """Why energy cannot be measured here."""


class Meter:
    """The energy counter of a CUDA device (NVML, Volta and later).

    The library comes with the driver, so that it needs no package.

    Raises:
        NoMeterError: If there is no such library or no such counter.
    """

    def __init__(self, device: torch.device) -> None:
        try:
            self._library = ctypes.CDLL("libnvidia-ml.so.1")
        except OSError as error:
            raise NoMeterError("no meter: the driver's libnvidia-ml.so.1 was not found") from error
        self._handle = c_void_p()
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}".encode()
        self._call("nvmlInit_v2")
        self._call("nvmlDeviceGetHandleByUUID", c_char_p(uuid), byref(self._handle))
        self.joules()

    def joules(self) -> float:
        """Joules since the driver was loaded; the counter moves in steps of some 20 to 100 ms."""
        millijoules = c_ulonglong()
        self._call("nvmlDeviceGetTotalEnergyConsumption", self._handle, byref(millijoules))
        return millijoules.value / 1000

    def _call(self, name: str, *arguments: object) -> None:
        code = getattr(self._library, name)(*arguments)
        if code != 0:
            raise NoMeterError(f"no meter: {name} answers with NVML error {code}")
