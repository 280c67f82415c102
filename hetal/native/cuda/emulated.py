"""A device without a device: the launches that a GPU would get, run lane by lane on the CPU.

The entry points are compiled by the host's compiler from the same source. Work of a stream runs late: when somebody
waits for it, and not before, so that a missing event or a host buffer changed too early gives a wrong result here too.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections import deque
from collections.abc import Callable
from ctypes import Structure
from pathlib import Path
from typing import Any, Final

import numpy as np

from hetal.errors import BackendError
from hetal.native.cuda.batches import ARGUMENTS
from hetal.native.cuda.code import ENTRY, KERNELS, compiled
from hetal.native.cuda.driver import Bytes, Facts, Grid, OutOfMemory

ALIGNMENT: Final = 256
MEMORY_BYTES: Final = 8 << 30
_OPTIONS: Final = ("-std=c++17", "-O2", "-ffp-contract=off", "-fno-math-errno", "-fPIC", "-shared", "-DHETAL_GPU_FORM")
# Without the instruction a fused multiply-add is a library call.
_FMA: Final = ("-mavx2", "-mfma")
# What memory holds before it is written, and after it is freed: a NaN to doubles, no residue to integers.
_POISON: Final = 0xFF

_Task = Callable[[], None]


class EmulatedStream:
    def __init__(self) -> None:
        self.tasks: deque[_Task] = deque()
        self.captured: list[_Task] | None = None
        self.running = False

    def run(self) -> None:
        if self.running:
            raise RuntimeError("streams wait for each other")
        self.running = True
        try:
            while self.tasks:
                self.tasks.popleft()()
        finally:
            self.running = False


class EmulatedEvent:
    def __init__(self) -> None:
        self.recorded = 0
        self.done = 0
        self.stream: EmulatedStream | None = None


class EmulatedDriver:
    """See :class:`hetal.native.cuda.driver.Driver`.

    Args:
        memory_bytes: that it pretends to have.
    """

    def __init__(self, memory_bytes: int = MEMORY_BYTES) -> None:
        self.facts = Facts("emulated", "cpu", "0", memory_bytes)
        self._memory: dict[int, Bytes] = {}
        self._held = 0
        self._modules: dict[int, ctypes.CDLL] = {}
        # With the threads of a block.
        self._entries: dict[tuple[str, int], tuple[Any, int]] = {}
        self.streams: list[EmulatedStream] = []

    # -- memory -------------------------------------------------------------------------------------------------------

    def allocate(self, nbytes: int) -> int:
        if nbytes > self.free_bytes():
            raise OutOfMemory
        whole = np.empty(nbytes + ALIGNMENT, dtype=np.uint8)
        whole.fill(_POISON)
        address = -(-whole.ctypes.data // ALIGNMENT) * ALIGNMENT
        self._memory[address] = whole
        self._held += nbytes
        return address

    def free(self, address: int) -> None:
        whole = self._memory.pop(address)
        self._held -= whole.size - ALIGNMENT
        whole.fill(_POISON)

    def free_bytes(self) -> int:
        return self.facts.total_bytes - self._held

    def pinned(self, nbytes: int) -> Bytes:
        return np.empty(nbytes, dtype=np.uint8).view(_Pinned)

    def upload(self, address: int, source: Bytes, stream: EmulatedStream) -> None:
        kept = source if isinstance(source, _Pinned) else source.copy()
        self._give(stream, lambda: _move(address, kept.ctypes.data, kept.nbytes))

    def download(self, target: Bytes, address: int, stream: EmulatedStream) -> None:
        _refuse_capture(stream)
        stream.run()
        _move(target.ctypes.data, address, target.nbytes)

    def copy(self, target: int, source: int, nbytes: int, stream: EmulatedStream) -> None:
        self._give(stream, lambda: _move(target, source, nbytes))

    def clear(self, address: int, nbytes: int, stream: EmulatedStream) -> None:
        self._give(stream, lambda: _clear(address, nbytes))

    # -- work ---------------------------------------------------------------------------------------------------------

    def stream(self) -> EmulatedStream:
        made = EmulatedStream()
        self.streams.append(made)
        return made

    def event(self) -> EmulatedEvent:
        return EmulatedEvent()

    def record(self, event: EmulatedEvent, stream: EmulatedStream) -> None:
        _refuse_capture(stream)
        event.recorded += 1
        event.stream = stream
        number = event.recorded

        def reached() -> None:
            event.done = number

        stream.tasks.append(reached)

    def wait(self, stream: EmulatedStream, event: EmulatedEvent) -> None:
        _refuse_capture(stream)
        number, other = event.recorded, event.stream

        def wait() -> None:
            while event.done < number and other is not None:
                other.tasks.popleft()()

        if other is not stream:
            stream.tasks.append(wait)

    def synchronize(self, stream: EmulatedStream) -> None:
        _refuse_capture(stream)
        stream.run()

    def elapsed_s(self, start: EmulatedEvent, end: EmulatedEvent) -> float:
        """Time here says nothing about a device."""
        return 0.0

    def launch(self, entry: str, log2: int, grid: Grid, argument: Structure, stream: EmulatedStream) -> None:
        function, threads = self._entries.get((entry, log2)) or self._function(entry, log2)
        if grid.threads != threads:
            raise RuntimeError(f"{entry} is compiled for {threads} threads, not {grid.threads}")
        kept = type(argument).from_buffer_copy(argument)
        self._give(stream, lambda: function(ctypes.addressof(kept), grid.blocks, grid.limbs, grid.polynomials))

    def _function(self, entry: str, log2: int) -> tuple[Any, int]:
        module = self._modules.get(log2)
        if module is None:
            module = self._modules[log2] = _load(log2)
        size = getattr(module, f"hetal_{entry}_bytes")
        size.restype = ctypes.c_ulong
        if size() != ctypes.sizeof(ARGUMENTS[entry]):
            raise BackendError(f"the argument of {entry} has {ctypes.sizeof(ARGUMENTS[entry])} bytes, not {size()}")
        function = getattr(module, f"hetal_{entry}")
        function.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int]
        function.restype = None
        self._entries[entry, log2] = function, getattr(module, f"hetal_{entry}_threads")()
        return self._entries[entry, log2]

    # -- graphs -------------------------------------------------------------------------------------------------------

    def begin_capture(self, stream: EmulatedStream) -> None:
        _refuse_capture(stream)
        stream.captured = []

    def end_capture(self, stream: EmulatedStream) -> list[_Task]:
        captured, stream.captured = stream.captured, None
        return captured or []

    def replay(self, graph: list[_Task], stream: EmulatedStream) -> None:
        _refuse_capture(stream)
        stream.tasks.extend(graph)

    def destroy(self, graph: list[_Task]) -> None:
        graph.clear()

    def close(self) -> None:
        for stream in self.streams:
            stream.tasks.clear()
        self._memory.clear()
        self._held = 0

    @staticmethod
    def _give(stream: EmulatedStream, task: _Task) -> None:
        (stream.tasks if stream.captured is None else stream.captured).append(task)


class _Pinned(np.ndarray[Any, Any]):
    """Host memory that is read when a copy runs."""


def _refuse_capture(stream: EmulatedStream) -> None:
    if stream.captured is not None:
        raise RuntimeError("not possible in a capture")


def _move(target: int, source: int, nbytes: int) -> None:
    ctypes.memmove(target, source, nbytes)


def _clear(address: int, nbytes: int) -> None:
    ctypes.memset(address, 0, nbytes)


def compiler() -> str | None:
    """The host's C++ compiler."""
    return shutil.which(os.environ.get("CXX", "g++"))


def _load(log2: int) -> ctypes.CDLL:
    with tempfile.TemporaryDirectory(prefix="hetal-emulated-") as name:
        path = Path(name) / "kernels.so"
        path.write_bytes(library(log2))
        return ctypes.CDLL(str(path))


def library(log2: int) -> bytes:
    """The entry points for limbs of 2^log2 words, as a shared library.

    Raises:
        BackendError: there is no C++ compiler.
    """
    program = compiler()
    if program is None:
        raise BackendError("the emulated device needs a C++ compiler", hint="Install g++.")
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    fma = "fma" in Path("/proc/cpuinfo").read_text().split() if os.uname().machine == "x86_64" else False
    options = (*_OPTIONS, *(_FMA if fma else ()), f"-DHETAL_LOG2_N={log2}")

    def compile_() -> bytes:
        with tempfile.TemporaryDirectory(prefix="hetal-emulated-") as name:
            path = Path(name) / "kernels.so"
            include = (f"-I{KERNELS.parent}", f"-I{KERNELS}", "-x", "c++")
            command = [program, *options, *include, str(KERNELS / ENTRY), "-o", str(path)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise BackendError(f"the kernels do not compile: {done.stderr[:500]}")
            return path.read_bytes()

    return compiled("cpu", log2, f"{version} {options}", compile_) or b""
