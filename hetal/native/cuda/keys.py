"""Keys on a device, and those that do not fit.

A key lives on the device until memory runs short, or until keys hold more than a limit. Then those that were used
longest ago move to the host; when they are needed, they come back in a stream of their own while the device computes
what was asked for before.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hetal.errors import DeviceMemoryError
from hetal.native.cuda.device import Buffer, CaptureRefused, Device
from hetal.native.cuda.driver import Bytes
from hetal.native.cuda.polynomials import Key


@dataclass(slots=True)
class _Place:
    nbytes: int
    block: Buffer | None
    host: Bytes | None = None
    # After the last launch that read it.
    used: Any = None
    # Graphs that have its address.
    graphs: int = 0


class _Hold:
    """On a key, while it lives: the graphs that have its address."""

    def __init__(self, place: _Place) -> None:
        self._place = place
        place.graphs += 1

    def __del__(self) -> None:
        self._place.graphs -= 1


class KeyCache:
    """The keys of one device.

    Args:
        device: theirs.
        limit_bytes: that keys may hold on it; None for as much as there is.

    Attributes:
        dropped: numbers of keys that nobody refers to any more.
    """

    def __init__(self, device: Device, limit_bytes: int | None = None) -> None:
        self.device = device
        self.limit_bytes = limit_bytes
        self.dropped: deque[int] = deque()
        self._places: OrderedDict[int, _Place] = OrderedDict()
        self._numbers = 0
        # Memory of keys that moved out, with the event after which it may be written.
        self._spare: dict[int, deque[tuple[Buffer, Any]]] = {}
        self._needed: frozenset[int] = frozenset()
        self.resident_bytes = 0
        device.pool.relief = self._relieve

    def make(self, q_limbs: int, p_limbs: int, digits: int, nbytes: int) -> tuple[Key, int]:
        """A key to be written at the address, by work given next."""
        self._forget()
        self._make_room(nbytes)
        # What uses the memory of a key that moved out, and what writes there now, are in the same stream.
        spare = self._spare_block(nbytes)
        block = spare[0] if spare else self.device.take(nbytes)
        self._numbers += 1
        self._places[self._numbers] = _Place(nbytes, block)
        self.resident_bytes += nbytes
        return Key(self, self._numbers, q_limbs, p_limbs, digits, nbytes), block.address

    def need(self, keys: Sequence[Key]) -> list[int]:
        """Where the keys are, for work given next; :meth:`used` follows it.

        Raises:
            DeviceMemoryError: they do not fit, all together.
        """
        self._forget()
        self._needed = frozenset(key.number for key in keys)
        places = [self._places[key.number] for key in keys]
        for key in keys:
            self._places.move_to_end(key.number)
        absent = [place for place in places if place.block is None]
        self.device.counts["key_hits"] += len(places) - len(absent)
        try:
            for place in absent:
                self._bring(place)
        finally:
            if absent and self.device.recording is None:
                event = self.device.driver.event()
                self.device.driver.record(event, self.device.transfers)
                self.device.driver.wait(self.device.compute, event)
        for place in places:
            self.device.keep(_Hold(place))
        return [place.block.address for place in places if place.block is not None]

    def used(self, keys: Sequence[Key]) -> None:
        """After the launches that read them."""
        self._needed = frozenset()
        # Without a host copy a key has never moved, and moving it waits for the device anyway.
        places = [p for p in (self._places[key.number] for key in keys) if p.host is not None]
        if places and self.device.recording is None:
            event = self.device.driver.event()
            self.device.driver.record(event, self.device.compute)
            for place in places:
                place.used = event

    def _bring(self, place: _Place) -> None:
        device = self.device
        if device.recording is not None:
            raise CaptureRefused
        device.counts["key_misses"] += 1
        device.counts["key_bytes_uploaded"] += place.nbytes
        self._make_room(place.nbytes)
        spare = self._spare_block(place.nbytes)
        if spare:
            block, event = spare
        else:
            block, event = device.take(place.nbytes), device.driver.event()
            device.driver.record(event, device.compute)
        device.driver.wait(device.transfers, event)
        assert place.host is not None  # noqa: S101 - for the type checker
        device.driver.upload(block.address, place.host, device.transfers)
        place.block = block
        self.resident_bytes += place.nbytes

    def _spare_block(self, nbytes: int) -> tuple[Buffer, Any] | None:
        """Memory of the key that moved out first, of that size; that of others goes back to the pool."""
        fitting = self._spare.get(nbytes)
        found = fitting.popleft() if fitting else None
        self._spare.clear()
        return found

    def _make_room(self, nbytes: int) -> None:
        while self.limit_bytes is not None and self.resident_bytes + nbytes > self.limit_bytes:
            if not self._evict():
                raise DeviceMemoryError(
                    f"a key of {nbytes} bytes is needed on {self.device.name}, and keys may hold {self.limit_bytes}"
                )

    def _evict(self) -> bool:
        """The key used longest ago, that nobody needs now, moves to the host."""
        for number, place in self._places.items():
            if place.block is None or place.graphs or number in self._needed:
                continue
            device = self.device
            device.counts["key_evictions"] += 1
            if place.host is None:
                place.host = device.driver.pinned(place.nbytes)
                # Keys do not change: they move to the host once.
                device.driver.download(place.host, place.block.address, device.compute)
                place.used = device.driver.event()
                device.driver.record(place.used, device.compute)
            self._spare.setdefault(place.nbytes, deque()).append((place.block, place.used))
            place.block = None
            self.resident_bytes -= place.nbytes
            return True
        return False

    def _relieve(self, nbytes: int) -> bool:
        """Gives memory of keys to the pool."""
        self._forget()
        if not any(self._spare.values()) and not self._evict():
            return False
        self._spare.clear()
        return True

    def _forget(self) -> None:
        while self.dropped:
            place = self._places.pop(self.dropped.popleft())
            if place.block is not None:
                self.resident_bytes -= place.nbytes
