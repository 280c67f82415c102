"""NVIDIA's driver, called through ctypes: what a launch costs here is a microsecond or two, and no wheel of bindings
has to match the driver.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from ctypes import Structure
from functools import lru_cache
from typing import Any, Final

import numpy as np

from hetal.errors import DeviceError
from hetal.native.cuda.driver import Bytes, Facts, Grid, OutOfMemory
from hetal.native.cuda.nvrtc import cubin

_LIBRARY: Final = "libcuda.so.1"
_OUT_OF_MEMORY: Final = 2
_COMPUTE_CAPABILITY: Final = (75, 76)
_NON_BLOCKING: Final = 1
# The thread may ask for memory while it captures; what it asks waits for nothing that is captured.
_RELAXED: Final = 2
_HINT: Final = "Install NVIDIA's driver, or choose --device cpu."

_Pointer = ctypes.c_void_p
_U64 = ctypes.c_uint64
_Size = ctypes.c_size_t
_U32 = ctypes.c_uint
_I32 = ctypes.c_int

_SIGNATURES: Final[dict[str, tuple[Any, ...]]] = {
    "cuInit": (_U32,),
    "cuDriverGetVersion": (_Pointer,),
    "cuDeviceGetCount": (_Pointer,),
    "cuDeviceGet": (_Pointer, _I32),
    "cuDeviceGetName": (_Pointer, _I32, _I32),
    "cuDeviceGetAttribute": (_Pointer, _I32, _I32),
    "cuDeviceTotalMem_v2": (_Pointer, _I32),
    "cuDevicePrimaryCtxRetain": (_Pointer, _I32),
    "cuDevicePrimaryCtxRelease_v2": (_I32,),
    "cuCtxSetCurrent": (_Pointer,),
    "cuMemGetInfo_v2": (_Pointer, _Pointer),
    "cuMemAlloc_v2": (_Pointer, _Size),
    "cuMemFree_v2": (_U64,),
    "cuMemHostAlloc": (_Pointer, _Size, _U32),
    "cuMemFreeHost": (_Pointer,),
    "cuMemcpyHtoDAsync_v2": (_U64, _Pointer, _Size, _Pointer),
    "cuMemcpyDtoHAsync_v2": (_Pointer, _U64, _Size, _Pointer),
    "cuMemcpyDtoDAsync_v2": (_U64, _U64, _Size, _Pointer),
    "cuMemsetD8Async": (_U64, ctypes.c_ubyte, _Size, _Pointer),
    "cuStreamCreate": (_Pointer, _U32),
    "cuStreamDestroy_v2": (_Pointer,),
    "cuStreamSynchronize": (_Pointer,),
    "cuStreamWaitEvent": (_Pointer, _Pointer, _U32),
    "cuEventCreate": (_Pointer, _U32),
    "cuEventDestroy_v2": (_Pointer,),
    "cuEventRecord": (_Pointer, _Pointer),
    "cuEventElapsedTime": (_Pointer, _Pointer, _Pointer),
    "cuModuleLoadData": (_Pointer, ctypes.c_char_p),
    "cuModuleGetFunction": (_Pointer, _Pointer, ctypes.c_char_p),
    "cuLaunchKernel": (_Pointer, *[_U32] * 7, _Pointer, _Pointer, _Pointer),
    "cuStreamBeginCapture_v2": (_Pointer, _I32),
    "cuStreamEndCapture": (_Pointer, _Pointer),
    "cuGraphInstantiateWithFlags": (_Pointer, _Pointer, ctypes.c_ulonglong),
    "cuGraphLaunch": (_Pointer, _Pointer),
    "cuGraphExecDestroy": (_Pointer,),
    "cuGraphDestroy": (_Pointer,),
    "cuGetErrorString": (_I32, _Pointer),
}

_current = threading.local()


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise DeviceError(f"there is no driver for NVIDIA's devices: {error}", hint=_HINT) from error
    for name, signature in _SIGNATURES.items():
        try:
            getattr(library, name).argtypes = signature
        except AttributeError as error:
            raise DeviceError(f"the driver has no {name}: it is older than CUDA 12", hint=_HINT) from error
    _check(library, library.cuInit(0), "cuInit")
    return library


def _check(library: ctypes.CDLL, status: int, what: str) -> None:
    if status == 0:
        return
    if status == _OUT_OF_MEMORY:
        raise OutOfMemory
    text = ctypes.c_char_p()
    library.cuGetErrorString(status, ctypes.byref(text))
    raise DeviceError(f"{what}: {(text.value or b'error').decode()} ({status})", hint=_HINT)


def device_count() -> int:
    """Devices that this process may use.

    Raises:
        DeviceError: there is no driver.
    """
    library, count = _library(), ctypes.c_int()
    _check(library, library.cuDeviceGetCount(ctypes.byref(count)), "cuDeviceGetCount")
    return count.value


class CudaDriver:
    """See :class:`hetal.native.cuda.driver.Driver`. May be used from any thread, by one at a time.

    Raises:
        DeviceError: there is no driver, or no such device.
    """

    def __init__(self, number: int) -> None:
        self._library = library = _library()
        if number >= device_count():
            raise DeviceError(f"there is no cuda:{number}; this machine has {device_count()} devices")
        device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(device), number)
        self._device = device.value
        self._context = ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)
        self._launch = library.cuLaunchKernel
        self._functions: dict[tuple[str, int], ctypes.c_void_p] = {}
        self._modules: dict[int, ctypes.c_void_p] = {}
        self._streams: list[ctypes.c_void_p] = []
        self._closed = False
        self.facts = self._facts()

    def _facts(self) -> Facts:
        name = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", name, len(name), self._device)
        capability = []
        for attribute in _COMPUTE_CAPABILITY:
            value = ctypes.c_int()
            self._call("cuDeviceGetAttribute", ctypes.byref(value), attribute, self._device)
            capability.append(value.value)
        version, total = ctypes.c_int(), ctypes.c_size_t()
        self._call("cuDriverGetVersion", ctypes.byref(version))
        self._call("cuDeviceTotalMem_v2", ctypes.byref(total), self._device)
        return Facts(
            name.value.decode(),
            f"sm_{capability[0]}{capability[1]}",
            f"{version.value // 1000}.{version.value % 1000 // 10}",
            total.value,
        )

    def _call(self, name: str, *args: Any) -> None:
        _check(self._library, getattr(self._library, name)(*args), name)

    def _here(self, name: str, *args: Any) -> None:
        """A call in the device's context, which is one of the thread's."""
        context = self._context.value
        if getattr(_current, "context", None) != context:
            self._call("cuCtxSetCurrent", self._context)
            _current.context = context
        self._call(name, *args)

    # -- memory -------------------------------------------------------------------------------------------------------

    def allocate(self, nbytes: int) -> int:
        address = ctypes.c_uint64()
        self._here("cuMemAlloc_v2", ctypes.byref(address), nbytes)
        return address.value

    def free(self, address: int) -> None:
        self._here("cuMemFree_v2", address)

    def free_bytes(self) -> int:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._here("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value

    def pinned(self, nbytes: int) -> Bytes:
        address = ctypes.c_void_p()
        self._here("cuMemHostAlloc", ctypes.byref(address), nbytes, 0)
        memory = (ctypes.c_uint8 * nbytes).from_address(address.value or 0)
        weakref.finalize(memory, self._unpin, address)
        return np.frombuffer(memoryview(memory), dtype=np.uint8)

    def _unpin(self, address: ctypes.c_void_p) -> None:
        if not self._closed:
            self._here("cuMemFreeHost", address)

    def upload(self, address: int, source: Bytes, stream: Any) -> None:
        # Pageable memory is staged before the call returns.
        self._here("cuMemcpyHtoDAsync_v2", address, source.ctypes.data, source.nbytes, stream)

    def download(self, target: Bytes, address: int, stream: Any) -> None:
        self._here("cuMemcpyDtoHAsync_v2", target.ctypes.data, address, target.nbytes, stream)
        self._here("cuStreamSynchronize", stream)

    def copy(self, target: int, source: int, nbytes: int, stream: Any) -> None:
        self._here("cuMemcpyDtoDAsync_v2", target, source, nbytes, stream)

    def clear(self, address: int, nbytes: int, stream: Any) -> None:
        self._here("cuMemsetD8Async", address, 0, nbytes, stream)

    # -- work ---------------------------------------------------------------------------------------------------------

    def stream(self) -> Any:
        made = ctypes.c_void_p()
        self._here("cuStreamCreate", ctypes.byref(made), _NON_BLOCKING)
        self._streams.append(made)
        return made

    def event(self) -> Any:
        event = _Event()
        self._here("cuEventCreate", ctypes.byref(event.handle), 0)
        weakref.finalize(event, self._forget_event, event.handle)
        return event

    def _forget_event(self, handle: ctypes.c_void_p) -> None:
        if not self._closed:
            self._here("cuEventDestroy_v2", handle)

    def record(self, event: Any, stream: Any) -> None:
        self._here("cuEventRecord", event.handle, stream)

    def wait(self, stream: Any, event: Any) -> None:
        self._here("cuStreamWaitEvent", stream, event.handle, 0)

    def synchronize(self, stream: Any) -> None:
        self._here("cuStreamSynchronize", stream)

    def elapsed_s(self, start: Any, end: Any) -> float:
        milliseconds = ctypes.c_float()
        self._here("cuEventElapsedTime", ctypes.byref(milliseconds), start.handle, end.handle)
        return milliseconds.value / 1e3

    def launch(self, entry: str, log2: int, grid: Grid, argument: Structure, stream: Any) -> None:
        function = self._functions.get((entry, log2)) or self._function(entry, log2)
        arguments = (ctypes.c_void_p * 1)(ctypes.addressof(argument))
        context = self._context.value
        if getattr(_current, "context", None) != context:
            self._call("cuCtxSetCurrent", self._context)
            _current.context = context
        status = self._launch(
            function, grid.blocks, grid.limbs, grid.polynomials, grid.threads, 1, 1, 0, stream, arguments, None
        )
        if status:
            _check(self._library, status, entry)

    def _function(self, entry: str, log2: int) -> ctypes.c_void_p:
        module = self._modules.get(log2)
        if module is None:
            module = ctypes.c_void_p()
            self._here("cuModuleLoadData", ctypes.byref(module), cubin(self.facts.architecture, log2))
            self._modules[log2] = module
        function = ctypes.c_void_p()
        self._here("cuModuleGetFunction", ctypes.byref(function), module, f"hetal_{entry}".encode())
        self._functions[entry, log2] = function
        return function

    # -- graphs -------------------------------------------------------------------------------------------------------

    def begin_capture(self, stream: Any) -> None:
        self._here("cuStreamBeginCapture_v2", stream, _RELAXED)

    def end_capture(self, stream: Any) -> Any:
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        self._here("cuStreamEndCapture", stream, ctypes.byref(graph))
        try:
            self._here("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, 0)
        finally:
            self._here("cuGraphDestroy", graph)
        return executable

    def replay(self, graph: Any, stream: Any) -> None:
        self._here("cuGraphLaunch", graph, stream)

    def destroy(self, graph: Any) -> None:
        self._here("cuGraphExecDestroy", graph)

    def close(self) -> None:
        for stream in self._streams:
            self._here("cuStreamDestroy_v2", stream)
        self._closed = True
        self._call("cuDevicePrimaryCtxRelease_v2", self._device)
        _current.context = None


class _Event:
    """A handle that is destroyed with the object."""

    def __init__(self) -> None:
        self.handle = ctypes.c_void_p()
