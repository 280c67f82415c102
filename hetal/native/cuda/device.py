"""One device as the rings on it share it: memory that is reused in the order of its stream, launches counted, small
tables kept, graphs of launches.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ctypes import Structure
from dataclasses import dataclass
from threading import RLock
from typing import Any, Final, TypeVar

import numpy as np

from hetal.errors import DeviceMemoryError
from hetal.native.cuda.batches import Shape
from hetal.native.cuda.driver import Bytes, Driver, Graph, Grid, OutOfMemory, Stream

# Tables of addresses, made for one launch and kept for the next like it.
TABLES_MAX: Final = 4096
# Processors whose units for doubles are a fraction of their integer ones: all moduli are treated as wide there.
# GeForce and workstation parts run doubles at 1/64 of singles' speed; sm_103 (B300) has lost them too.
SLOW_DOUBLES: Final = frozenset({"sm_75", "sm_86", "sm_87", "sm_89", "sm_103", "sm_110", "sm_120", "sm_121"})

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Launch:
    """What one launch has to do: bytes to and from memory, operations on doubles."""

    entry: str
    grid: Grid
    nbytes: int
    operations: float


class Buffer:
    """Memory of a pool; reused when nobody refers to it any more, by work that is given later."""

    __slots__ = ("_pool", "address", "nbytes")

    def __init__(self, pool: Pool, address: int, nbytes: int) -> None:
        self._pool = pool
        self.address = address
        self.nbytes = nbytes

    def __del__(self) -> None:
        # From any thread, at any time: taken back by the pool when it needs something next.
        self._pool.returned.append((self.address, self.nbytes))


class Pool:
    """Memory of one device for work of one stream.

    A block given back is handed out again at once: what uses it next comes later in the stream. Blocks are reused for
    the same size only; where the device has no room, all that lie idle are freed.

    Attributes:
        held_bytes: in use or idle.
        returned: by owners, to be sorted in.
    """

    def __init__(self, driver: Driver, stream: Stream) -> None:
        self._driver = driver
        self._stream = stream
        self.returned: deque[tuple[int, int]] = deque()
        self._idle: dict[int, list[int]] = {}
        self._blocks: set[int] = set()
        # Blocks of a graph, which nobody else may write, and their idle ones while it is made.
        self._private: dict[int, int] = {}
        self._arenas: dict[int, dict[int, list[int]]] = {}
        self._arena: int | None = None
        self.held_bytes = 0
        self.relief: Callable[[int], bool] = lambda nbytes: False

    def take(self, nbytes: int) -> Buffer:
        """Raises OutOfMemory."""
        self._sort_in()
        idle = self._idle if self._arena is None else self._arenas[self._arena]
        blocks = idle.get(nbytes)
        return Buffer(self, blocks.pop() if blocks else self._grow(nbytes), nbytes)

    def fresh(self, nbytes: int) -> Buffer:
        """Memory that no work given so far has used, of no graph's."""
        arena, self._arena = self._arena, None
        try:
            return Buffer(self, self._grow(nbytes), nbytes)
        finally:
            self._arena = arena

    def trim(self) -> None:
        """Frees what lies idle."""
        self._sort_in()
        if not any(self._idle.values()):
            return
        self._driver.synchronize(self._stream)
        for nbytes, blocks in self._idle.items():
            for address in blocks:
                self._driver.free(address)
                self._blocks.remove(address)
                self.held_bytes -= nbytes
        self._idle.clear()

    def _grow(self, nbytes: int) -> int:
        while True:
            try:
                address = self._driver.allocate(nbytes)
                break
            except OutOfMemory:
                # No waiting for a stream that is being captured.
                if self._arena is not None:
                    raise
                before = self.held_bytes
                self.trim()
                if self.held_bytes == before and not self.relief(nbytes):
                    raise
        self.held_bytes += nbytes
        self._blocks.add(address)
        if self._arena is not None:
            self._private[address] = self._arena
        return address

    def _sort_in(self) -> None:
        while self.returned:
            address, nbytes = self.returned.popleft()
            owner = self._private.get(address)
            if owner is None:
                self._idle.setdefault(nbytes, []).append(address)
            elif owner in self._arenas:
                self._arenas[owner].setdefault(nbytes, []).append(address)

    # -- graphs -------------------------------------------------------------------------------------------------------

    def open_arena(self, number: int) -> None:
        """What is taken from now on is the graph's with this number."""
        self._sort_in()
        self._arenas[number] = {}
        self._arena = number

    def is_private(self, address: int) -> bool:
        """Whether a block is a graph's."""
        return address in self._private

    def close_arena(self) -> None:
        self._arena = None

    def give_back(self, number: int) -> None:
        """The blocks of a graph that no longer runs are everybody's; those that are still in use, when returned."""
        self._sort_in()
        for nbytes, blocks in self._arenas.pop(number).items():
            self._idle.setdefault(nbytes, []).extend(blocks)
        self._private = {address: owner for address, owner in self._private.items() if owner != number}

    def close(self) -> None:
        """Frees all, in use or not."""
        self._driver.synchronize(self._stream)
        for address in self._blocks:
            self._driver.free(address)
        self._blocks.clear()
        self._idle.clear()
        self.held_bytes = 0


class CaptureRefused(Exception):  # noqa: N818 - caught where a graph is made
    """Work that waits for the host cannot be part of a graph."""


class Recording:
    """A graph of launches over memory of its own, with the keys that it reads."""

    def __init__(self, device: Device, number: int) -> None:
        self.device = device
        self.number = number
        self.graph: Graph = None
        self.kept: list[Any] = []

    def close(self) -> None:
        """The graph must have run."""
        self.device.driver.destroy(self.graph)
        self.kept.clear()
        self.device.pool.give_back(self.number)


class Device:
    """A driver with what its rings share. Rings lock it for each operation.

    Args:
        name: for messages, e.g. "cuda:0".
        driver: opened for it.
        integers: whether all moduli are treated as wide; by default as :data:`SLOW_DOUBLES` has it.

    Attributes:
        compute: the stream of all launches.
        transfers: the stream of what is uploaded meanwhile.
        counts: of launches, of bytes copied, and what key caches count.
        log: of launches, where somebody wants one.
        fused: whether the inner product of a switch with one key is one launch with the second pass of the transforms
            before it: 118 MB less of 930 at the default preset, with fewer threads at work. Not before it is measured.
    """

    def __init__(self, name: str, driver: Driver, *, integers: bool | None = None) -> None:
        self.name = name
        self.driver = driver
        self.integers = driver.facts.architecture in SLOW_DOUBLES if integers is None else integers
        self.lock = RLock()
        self.compute = driver.stream()
        self.transfers = driver.stream()
        self.pool = Pool(driver, self.compute)
        self.counts: Counter[str] = Counter()
        self.log: list[Launch] | None = None
        self.fused = False
        self.recording: Recording | None = None
        self._recordings = 0
        self._tables: OrderedDict[bytes, Buffer] = OrderedDict()
        self._shapes: dict[int, Shape] = {}
        self._cuts: dict[tuple[str, int], tuple[int, int]] = {}

    # -- memory -------------------------------------------------------------------------------------------------------

    def take(self, nbytes: int) -> Buffer:
        """Memory for work given from now on.

        Raises:
            DeviceMemoryError: there is not enough.
        """
        try:
            return self.pool.take(nbytes)
        except OutOfMemory:
            if self.recording is not None:
                raise CaptureRefused from None
            free = self.driver.free_bytes()
            raise DeviceMemoryError(f"{nbytes} bytes are needed on {self.name}, and {free} are free") from None

    def upload(self, address: int, source: Bytes) -> None:
        """In the order of launches."""
        if self.recording is not None:
            raise CaptureRefused
        self.counts["uploaded_bytes"] += source.nbytes
        self.driver.upload(address, source, self.compute)

    def download(self, target: Bytes, address: int) -> None:
        """After all launches given."""
        if self.recording is not None:
            raise CaptureRefused
        self.counts["downloaded_bytes"] += target.nbytes
        self.driver.download(target, address, self.compute)

    def table(self, content: bytes) -> Buffer:
        """Read-only memory with this content, kept for others who want the same."""
        known = self._tables.get(content)
        if known is not None:
            self._tables.move_to_end(content)
        else:
            source = np.frombuffer(content, dtype=np.uint8)
            if self.recording is None:
                known = self.take(len(content))
                self.upload(known.address, source)
            else:
                known = self.pool.fresh(len(content))
                self.driver.upload(known.address, source, self.transfers)
                self.driver.synchronize(self.transfers)
            self._tables[content] = known
            if len(self._tables) > TABLES_MAX:
                self._tables.popitem(last=False)
        self.keep(known)
        return known

    def constant(self, source: Bytes) -> Buffer:
        """Memory with this content, for launches given next; in a graph, for each replay."""
        if self.recording is not None:
            return self.table(source.tobytes())
        memory = self.take(source.nbytes)
        self.upload(memory.address, source)
        return memory

    def keep(self, what: Any) -> None:
        """While the graph exists that is being made; if none is, this does nothing."""
        if self.recording is not None:
            self.recording.kept.append(what)

    def keep_operand(self, buffer: Buffer) -> None:
        """As :meth:`keep`, of memory that is not the graph's own."""
        if self.recording is not None and not self.pool.is_private(buffer.address):
            self.recording.kept.append(buffer)

    # -- work ---------------------------------------------------------------------------------------------------------

    def shape(self, log2: int) -> Shape:
        known = self._shapes.get(log2)
        if known is None:
            known = self._shapes[log2] = Shape.of(log2)
        return known

    def launch(
        self, entry: str, log2: int, limbs: int, polynomials: int, argument: Structure, moved: float, work: float
    ) -> None:
        """Run an entry point.

        Args:
            log2: of the words of a limb.
            limbs, polynomials: of the grid.
            moved: limbs read and written, for the log.
            work: operations on doubles per word of a limb, summed over limbs, for the log.
        """
        cut = self._cuts.get((entry, log2))
        if cut is None:
            cut = self._cuts[entry, log2] = self.shape(log2).launch(entry)
        grid = Grid(cut[0], limbs, polynomials, cut[1])
        self.counts["launches"] += 1
        if self.log is not None:
            self.log.append(Launch(entry, grid, int(moved * (8 << log2)), work * (1 << log2)))
        self.driver.launch(entry, log2, grid, argument, self.compute)

    def copy(self, target: int, source: int, nbytes: int) -> None:
        if self.log is not None:
            self.log.append(Launch("copy", Grid(1, 1, 1, 1), 2 * nbytes, 0.0))
        self.driver.copy(target, source, nbytes, self.compute)

    def clear(self, address: int, nbytes: int) -> None:
        if self.log is not None:
            self.log.append(Launch("clear", Grid(1, 1, 1, 1), nbytes, 0.0))
        self.driver.clear(address, nbytes, self.compute)

    def synchronize(self) -> None:
        with self.lock:
            self.driver.synchronize(self.transfers)
            self.driver.synchronize(self.compute)

    @contextmanager
    def logged(self) -> Iterator[list[Launch]]:
        """Launches given meanwhile."""
        with self.lock:
            before, self.log = self.log, []
            try:
                yield self.log
            finally:
                self.log = before

    # -- graphs -------------------------------------------------------------------------------------------------------

    def record(self, work: Callable[[], T], inputs: Sequence[Any]) -> tuple[Recording, T] | None:
        """A graph of what ``work`` launches, and what it returned: memory that each replay writes. None where work
        needs the host."""
        self._recordings += 1
        recording = Recording(self, self._recordings)
        recording.kept.extend(inputs)
        self.pool.open_arena(recording.number)
        self.recording = recording
        self.driver.begin_capture(self.compute)
        done = False
        try:
            result = work()
            done = True
        except CaptureRefused:
            pass
        finally:
            self.recording = None
            self.pool.close_arena()
            recording.graph = self.driver.end_capture(self.compute)
            if not done:
                recording.close()
        return (recording, result) if done else None

    def replay(self, recording: Recording) -> None:
        self.counts["replays"] += 1
        self.driver.replay(recording.graph, self.compute)

    def close(self) -> None:
        """Rings on it must not be used any more."""
        with self.lock:
            self.synchronize()
            self._tables.clear()
            self.pool.close()
            self.driver.close()
