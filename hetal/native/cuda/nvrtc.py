"""NVIDIA's run-time compiler, of the wheel ``nvidia-cuda-nvrtc`` or the system's. It needs no device and no driver."""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.metadata
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

from hetal.errors import DeviceError
from hetal.native.cuda.code import ENTRY, compiled, sources

# Every fused operation is written out: the compiler must not make others.
OPTIONS: Final = ("-std=c++17", "-fmad=false")
# That cubins are made for where no device is asked: what ships is compiled on the user's machine.
ARCHITECTURES: Final = ("sm_80", "sm_89", "sm_90", "sm_100")
_HINT: Final = "Install hetal[gpu], which brings NVIDIA's run-time compiler."


class Nvrtc:
    """The compiler.

    Attributes:
        version: e.g. "13.0".
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._check(library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)), "nvrtcVersion")
        self.version = f"{major.value}.{minor.value}"

    def architecture_for(self, device: str) -> str:
        """The newest architecture that the compiler knows and whose code runs on a device of another one."""
        count = ctypes.c_int()
        self._check(self._library.nvrtcGetNumSupportedArchs(ctypes.byref(count)), "nvrtcGetNumSupportedArchs")
        known = (ctypes.c_int * count.value)()
        self._check(self._library.nvrtcGetSupportedArchs(known), "nvrtcGetSupportedArchs")
        wanted = int(device.removeprefix("sm_"))
        fitting = [one for one in known if one // 10 == wanted // 10 and one <= wanted]
        if not fitting:
            raise DeviceError(f"NVRTC {self.version} does not compile for {device}", hint=_HINT)
        return f"sm_{max(fitting)}"

    def compile(self, architecture: str, log2: int, options: Sequence[str] = ()) -> tuple[bytes, str]:
        """A cubin of the entry points for limbs of 2^log2 words, and the log."""
        library, program = self._library, ctypes.c_void_p()
        headers = {name: text for name, text in sources().items() if name != ENTRY}
        status = library.nvrtcCreateProgram(
            ctypes.byref(program),
            sources()[ENTRY],
            ENTRY.encode(),
            len(headers),
            _strings(headers.values()),
            _strings(name.encode() for name in headers),
        )
        self._check(status, "nvrtcCreateProgram")
        try:
            texts = (*OPTIONS, f"--gpu-architecture={architecture}", f"-DHETAL_LOG2_N={log2}", *options)
            status = library.nvrtcCompileProgram(program, len(texts), _strings(text.encode() for text in texts))
            log = self._text(program, "ProgramLog").decode(errors="replace")
            if status:
                raise DeviceError(f"the kernels do not compile for {architecture}: {log[:2000]}")
            return self._text(program, "CUBIN"), log
        finally:
            library.nvrtcDestroyProgram(ctypes.byref(program))

    def _text(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        self._check(getattr(self._library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)), what)
        text = ctypes.create_string_buffer(size.value)
        self._check(getattr(self._library, f"nvrtcGet{what}")(program, text), what)
        # Logs end in a zero byte; cubins may end in anything.
        return text.raw if what == "CUBIN" else text.value

    def _check(self, status: int, what: str) -> None:
        if status:
            raise DeviceError(f"{what}: {self._library.nvrtcGetErrorString(status).decode()}")


def _strings(values: Any) -> ctypes.Array[ctypes.c_char_p]:
    texts = list(values)
    return (ctypes.c_char_p * len(texts))(*texts)


@lru_cache(maxsize=1)
def find() -> Nvrtc | None:
    """The compiler of the wheel, or else the system's; None where there is none."""
    for distribution in importlib.metadata.distributions():
        if not (distribution.metadata["Name"] or "").startswith("nvidia-cuda-nvrtc"):
            continue
        for file in distribution.files or []:
            if re.fullmatch(r"libnvrtc\.so\.\d+", file.name):
                return Nvrtc(ctypes.CDLL(str(file.locate())))
    found = ctypes.util.find_library("nvrtc")
    return Nvrtc(ctypes.CDLL(found)) if found else None


def cubin(device: str, log2: int) -> bytes:
    """Code for a device's architecture, from the cache where it is there.

    Without a compiler on this machine, what another one left in the cache serves.

    Raises:
        DeviceError: there is neither.
    """
    compiler = find()
    if compiler is None:
        code = compiled(device, log2, None, None)
        if code is None:
            raise DeviceError(f"there is no compiler for {device}, and no compiled kernels", hint=_HINT)
        return code
    architecture = compiler.architecture_for(device)
    made = compiled(
        device,
        log2,
        f"nvrtc {compiler.version} {architecture} {OPTIONS}",
        lambda: compiler.compile(architecture, log2)[0],
    )
    assert made is not None  # noqa: S101 - for the type checker
    return made
