"""What the machine computes with, and how busy it is: the processor, NVIDIA devices where their driver is. Blocking."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import psutil

NVML: Final = "libnvidia-ml.so.1"
NVML_SUCCESS: Final = 0
NAME_BYTES: Final = 96


@dataclass(frozen=True, slots=True)
class Device:
    """Memory in bytes; ``utilisation`` in 0..1 since the last look, None where the device does not tell."""

    name: str
    memory_used_bytes: int
    memory_total_bytes: int
    utilisation: float | None


class Devices:
    """All devices of this machine. The processor comes first; its memory is the machine's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._nvml = _load()
        psutil.cpu_percent(None)

    def look(self) -> tuple[Device, ...]:
        with self._lock:
            memory = psutil.virtual_memory()
            processor = Device("cpu", memory.total - memory.available, memory.total, psutil.cpu_percent(None) / 100)
            return (processor, *(self._gpus(self._nvml) if self._nvml is not None else ()))

    @staticmethod
    def _gpus(nvml: Any) -> Iterator[Device]:
        count = ctypes.c_uint()
        if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) != NVML_SUCCESS:
            return
        for index in range(count.value):
            handle = ctypes.c_void_p()
            if nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle)) != NVML_SUCCESS:
                continue
            memory = _Memory()
            # A device that fell off the bus still has a handle.
            if nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) != NVML_SUCCESS:
                continue
            text, use = ctypes.create_string_buffer(NAME_BYTES), _Utilisation()
            named = nvml.nvmlDeviceGetName(handle, text, ctypes.c_uint(NAME_BYTES)) == NVML_SUCCESS
            told = nvml.nvmlDeviceGetUtilizationRates(handle, ctypes.byref(use)) == NVML_SUCCESS
            name = text.value.decode(errors="replace") if named else "NVIDIA device"
            yield Device(f"gpu{index} {name}", memory.used, memory.total, use.gpu / 100 if told else None)


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class _Utilisation(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


def _load() -> Any:
    try:
        nvml = ctypes.CDLL(NVML)
        return nvml if nvml.nvmlInit_v2() == NVML_SUCCESS else None
    except (OSError, AttributeError):
        return None
