"""A device on which nothing happens: what an operation would launch can be counted at any size, without memory."""

from __future__ import annotations

from ctypes import Structure
from typing import Any, Final

import numpy as np

from hetal.native.cuda.driver import Bytes, Facts, Grid, OutOfMemory

ALIGNMENT: Final = 256


class DryDriver:
    """See :class:`hetal.native.cuda.driver.Driver`. What is read from it is zero."""

    def __init__(self, architecture: str = "sm_90", memory_bytes: int = 80 << 30) -> None:
        self.facts = Facts("none", architecture, "0", memory_bytes)
        self._next = ALIGNMENT
        self._sizes: dict[int, int] = {}
        self._held = 0

    def allocate(self, nbytes: int) -> int:
        if nbytes > self.free_bytes():
            raise OutOfMemory
        address = self._next
        self._next += -(-nbytes // ALIGNMENT) * ALIGNMENT
        self._sizes[address] = nbytes
        self._held += nbytes
        return address

    def free(self, address: int) -> None:
        self._held -= self._sizes.pop(address)

    def free_bytes(self) -> int:
        return self.facts.total_bytes - self._held

    def pinned(self, nbytes: int) -> Bytes:
        return np.zeros(nbytes, dtype=np.uint8)

    def upload(self, address: int, source: Bytes, stream: Any) -> None:
        pass

    def download(self, target: Bytes, address: int, stream: Any) -> None:
        target.fill(0)

    def copy(self, target: int, source: int, nbytes: int, stream: Any) -> None:
        pass

    def clear(self, address: int, nbytes: int, stream: Any) -> None:
        pass

    def stream(self) -> Any:
        return object()

    def event(self) -> Any:
        return object()

    def record(self, event: Any, stream: Any) -> None:
        pass

    def wait(self, stream: Any, event: Any) -> None:
        pass

    def synchronize(self, stream: Any) -> None:
        pass

    def elapsed_s(self, start: Any, end: Any) -> float:
        return 0.0

    def launch(self, entry: str, log2: int, grid: Grid, argument: Structure, stream: Any) -> None:
        pass

    def begin_capture(self, stream: Any) -> None:
        pass

    def end_capture(self, stream: Any) -> Any:
        return object()

    def replay(self, graph: Any, stream: Any) -> None:
        pass

    def destroy(self, graph: Any) -> None:
        pass

    def close(self) -> None:
        pass
