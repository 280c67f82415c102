"""Engines by the names of their devices."""

from __future__ import annotations

import re
from typing import Final

from hetal.errors import DeviceError
from hetal.native.cuda.device import Device
from hetal.native.cuda.driver import Driver
from hetal.native.cuda.keys import KeyCache
from hetal.native.cuda.ring import Ring, Words

_NAME: Final = re.compile(r"(cuda|emulated)(?::(\d{1,3}))?")


class Engine:
    """What the compiled module is to the CPU: a class Ring, on one device.

    Args:
        device: opened; closed with the engine.
        key_bytes: that keys may hold there; None for as much as there is.
    """

    def __init__(self, device: Device, key_bytes: int | None = None) -> None:
        self.device = device
        self.keys = KeyCache(device, key_bytes)
        self.Ring: type[Ring] = type("Ring", (Ring,), {"device": device, "keys": self.keys})

    @staticmethod
    def forward_ntt(ring: Ring, coefficients: Words, limb: int) -> Words:
        """As the compiled module's."""
        return ring.transformed_limb(coefficients, limb, forward=True)

    @staticmethod
    def inverse_ntt(ring: Ring, values: Words, limb: int) -> Words:
        return ring.transformed_limb(values, limb, forward=False)

    def set_sequential(self, on: bool) -> None:
        """Operations have no threads here: those of several threads take turns."""

    def close(self) -> None:
        """Frees all memory on the device. Rings must not be used any more."""
        self.device.close()


def open_engine(name: str, key_bytes: int | None = None) -> Engine:
    """An engine of its own on a device.

    Args:
        name: "cuda", "cuda:N", or "emulated" (the launches of a GPU on the CPU, for tests).
        key_bytes: that keys may hold there; None for as much as there is.

    Raises:
        DeviceError: there is no such device.
    """
    return Engine(Device(name, open_driver(name)), key_bytes)


def open_driver(name: str) -> Driver:
    """The driver of a device; errors as :func:`open_engine`."""
    match = _NAME.fullmatch(name)
    if not match:
        raise DeviceError(f"no device {name!r}; there are cpu and cuda:N")
    if match[1] == "emulated":
        from hetal.native.cuda.emulated import EmulatedDriver

        return EmulatedDriver()
    from hetal.native.cuda.nvidia import CudaDriver

    return CudaDriver(int(match[2] or 0))
