"""On which device a worker computes: the one with the most memory free, what others on it will need counted."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from hetal.errors import InputError
from hetal.server.devices import Devices

_DEVICE: Final = re.compile(r"(cuda|emulated):(\d{1,3})")
_GPU: Final = re.compile(r"gpu(\d+) ")
CHOICES: Final = ("auto", "cpu")


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """A worker's share of a device: its name, and the memory that the worker is expected to need."""

    device: str
    memory_bytes: int


class Placement:
    """Workers on devices. Safe for threads; :meth:`take` may block for as long as a driver takes to answer.

    Args:
        devices: names, such as "cuda:0".
    """

    def __init__(self, devices: Sequence[str]) -> None:
        self.devices = tuple(devices)
        self._places: list[Place] = []
        self._lock = threading.Lock()
        self._watched = Devices() if any(name.startswith("cuda") for name in devices) else None

    def take(self, memory_bytes: int) -> Place:
        """Room for a worker; :meth:`give` it back when the worker has ended."""
        with self._lock:
            free = self._free() if len(self.devices) > 1 else {}
            best = max(self.devices, key=lambda name: self._room(name, free))
            place = Place(best, memory_bytes)
            self._places.append(place)
            return place

    def give(self, place: Place) -> None:
        with self._lock:
            self._places.remove(place)

    def _room(self, name: str, memory: Mapping[str, tuple[int, int]]) -> float:
        """Bytes free, or what workers leave of all where that is less: a worker that has just started holds little.
        Of devices that tell neither, those with the least promised come first."""
        promised = sum(place.memory_bytes for place in self._places if place.device == name)
        if name not in memory:
            return -promised
        free, total = memory[name]
        return min(free, total - promised)

    def _free(self) -> dict[str, tuple[int, int]]:
        """By name: bytes free and bytes in all."""
        if self._watched is None:
            return {}
        found = {}
        for device in self._watched.look():
            match = _GPU.match(device.name)
            if match:
                total = device.memory_total_bytes
                found[int(match[1])] = total - device.memory_used_bytes, total
        return {f"cuda:{i}": found[number] for i, number in enumerate(_visible(sorted(found))) if number in found}


def _visible(numbers: list[int]) -> list[int]:
    """Numbers of the system by those of CUDA, which an operator may have chosen and ordered."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return numbers
    parts = [part.strip() for part in chosen.split(",")]
    # Other names than numbers are possible; such devices count as telling nothing.
    return [int(part) if part.isdigit() else -1 for part in parts]


def device_names(text: str) -> tuple[str, ...]:
    """The devices of an option: "auto", "cpu", or others with commas.

    Raises:
        InputError: it names no device, or one twice.
    """
    if text in CHOICES:
        return (text,)
    names = tuple(part.strip() for part in text.split(","))
    if not all(_DEVICE.fullmatch(name) for name in names) or len(set(names)) < len(names):
        raise InputError(f"device = {text!r} is none of auto, cpu, cuda:N and cuda:N,cuda:M")
    return names
