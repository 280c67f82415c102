"""What the NVIDIA driver of this machine says of itself, without any GPU library installed."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Final

DRIVER_LIBRARY: Final = "libcuda.so.1"
NAME_BYTES: Final = 256
COMPUTE_MAJOR, COMPUTE_MINOR = 75, 76


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU. ``compute``: its capability, such as (9, 0)."""

    name: str
    memory_bytes: int
    compute: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Driver:
    """The driver. ``cuda``: the newest CUDA version that it runs, such as (12, 4)."""

    cuda: tuple[int, int]
    devices: tuple[Device, ...]


class DriverError(Exception):
    """There is a driver library, and it does not answer."""


def hardware_present() -> bool:
    """Whether the kernel has loaded an NVIDIA driver, or the PCI bus shows a display device of NVIDIA's."""
    if Path("/proc/driver/nvidia/version").exists():
        return True
    for device in Path("/sys/bus/pci/devices").glob("*"):
        try:
            vendor, kind = (device / "vendor").read_text(), (device / "class").read_text()
        except OSError:
            continue
        if vendor.strip() == "0x10de" and kind.startswith("0x03"):
            return True
    return False


def query(library: str | None = None) -> Driver | None:
    """Ask the driver, ``DRIVER_LIBRARY`` by default; None where there is no such library. No context is made.

    Raises:
        DriverError: the library loads and its calls fail.
    """
    library = library or DRIVER_LIBRARY
    try:
        cuda = ctypes.CDLL(library)
    except OSError:
        return None

    def call(name: str, *arguments: object) -> None:
        try:
            status = getattr(cuda, name)(*arguments)
        except AttributeError:
            raise DriverError(f"{library} has no {name}") from None
        if status:
            raise DriverError(f"{name} failed with CUDA error {status}")

    version, count = ctypes.c_int(), ctypes.c_int()
    call("cuInit", 0)
    call("cuDriverGetVersion", ctypes.byref(version))
    call("cuDeviceGetCount", ctypes.byref(count))
    devices = []
    for index in range(count.value):
        handle, memory, name = ctypes.c_int(), ctypes.c_size_t(), ctypes.create_string_buffer(NAME_BYTES)
        major, minor = ctypes.c_int(), ctypes.c_int()
        call("cuDeviceGet", ctypes.byref(handle), index)
        call("cuDeviceGetName", name, NAME_BYTES, handle)
        call("cuDeviceTotalMem_v2", ctypes.byref(memory), handle)
        call("cuDeviceGetAttribute", ctypes.byref(major), COMPUTE_MAJOR, handle)
        call("cuDeviceGetAttribute", ctypes.byref(minor), COMPUTE_MINOR, handle)
        devices.append(Device(name.value.decode(errors="replace"), memory.value, (major.value, minor.value)))
    return Driver((version.value // 1000, version.value % 1000 // 10), tuple(devices))
