"""What the engine asks of a device: memory, streams in which copies and launches run in order, events between them,
and graphs of launches that are replayed at once.

Addresses are integers; a device never hands out 0. Work of one stream runs in the order in which it was given, beside
that of others; ``record`` and ``wait`` order streams among each other. Nothing here is safe for threads: whoever shares
a driver takes turns (:class:`hetal.native.cuda.device.Device`).
"""

from __future__ import annotations

from ctypes import Structure
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Stream = Any
Event = Any
Graph = Any


class OutOfMemory(Exception):  # noqa: N818 - caught by the pool, never seen by users
    """An allocation that the device has no room for."""


class Grid(NamedTuple):
    """Blocks of a limb, limbs, polynomials; and threads of a block."""

    blocks: int
    limbs: int
    polynomials: int
    threads: int


@dataclass(frozen=True, slots=True)
class Facts:
    """Of a device.

    Attributes:
        name: of the product.
        architecture: e.g. "sm_90".
        version: of its driver.
        total_bytes: of its memory.
    """

    name: str
    architecture: str
    version: str
    total_bytes: int


class Driver(Protocol):
    """One device. Raises DeviceError where the device fails."""

    facts: Facts

    # -- memory -------------------------------------------------------------------------------------------------------

    def allocate(self, nbytes: int) -> int:
        """Memory at a multiple of 256. OutOfMemory where there is none."""

    def free(self, address: int) -> None:
        """Of memory that no work given uses."""

    def free_bytes(self) -> int: ...

    def pinned(self, nbytes: int) -> Bytes:
        """Host memory that transfers read while the host goes on. Lives as long as the array."""

    def upload(self, address: int, source: Bytes, stream: Stream) -> None:
        """The source may change at once, but where it is pinned: then when the copy is done."""

    def download(self, target: Bytes, address: int, stream: Stream) -> None:
        """Returns when it is done."""

    def copy(self, target: int, source: int, nbytes: int, stream: Stream) -> None: ...

    def clear(self, address: int, nbytes: int, stream: Stream) -> None: ...

    # -- work ---------------------------------------------------------------------------------------------------------

    def stream(self) -> Stream: ...

    def event(self) -> Event: ...

    def record(self, event: Event, stream: Stream) -> None: ...

    def wait(self, stream: Stream, event: Event) -> None:
        """What is given to the stream from now on waits for what was recorded last."""

    def synchronize(self, stream: Stream) -> None: ...

    def elapsed_s(self, start: Event, end: Event) -> float:
        """Between two events of the past."""

    def launch(self, entry: str, log2: int, grid: Grid, argument: Structure, stream: Stream) -> None:
        """One of the entry points of ``kernels/gpu_entry.cu``, compiled for limbs of 2^log2 words."""

    # -- graphs -------------------------------------------------------------------------------------------------------

    def begin_capture(self, stream: Stream) -> None:
        """Launches, copies on the device and clearing given to the stream from now on are kept, not run."""

    def end_capture(self, stream: Stream) -> Graph: ...

    def replay(self, graph: Graph, stream: Stream) -> None: ...

    def destroy(self, graph: Graph) -> None:
        """Of a graph that no longer runs."""

    def close(self) -> None: ...
