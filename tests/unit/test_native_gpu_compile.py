"""The GPU's entry points compile, with nvcc and with NVRTC, without spills and within 128 registers a thread."""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import hetal

KERNELS = Path(hetal.__file__).parent / "native" / "kernels"
ENTRY = KERNELS / "gpu_entry.cu"
NVCC = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
REGISTERS_MAX = 128
# Every fused operation is written out: the compiler must not make others.
OPTIONS = ["-std=c++17", "-fmad=false"]

architectures = pytest.mark.parametrize(
    "architecture",
    [90, *(pytest.param(other, marks=pytest.mark.full) for other in (80, 89, 100))],
)
dimensions = pytest.mark.parametrize(
    "log2_dimension",
    [10, 16, *(pytest.param(other, marks=pytest.mark.full) for other in (6, 9, 11, 12, 13, 14, 15, 17))],
)


def entry_points(log2_dimension: int) -> set[str]:
    """All of them; of the sizes of compact plaintexts alone, those that make such plaintexts."""
    if log2_dimension < 10:
        return {"hetal_forward_rows", "hetal_from_integers"}
    names = re.findall(r"^(?:COLUMNS|ROWS|WORDS)\((\w+),|^ENTRY\(\(\w+\), (\w+),", ENTRY.read_text(), re.MULTILINE)
    return {f"hetal_{first or second}" for first, second in names}


def check_log(log: str, log2_dimension: int) -> None:
    resources: dict[str, tuple[int, int, int]] = {}
    pattern = (
        r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
        r".*?Used (\d+) registers"
    )
    for name, stack, stores, loads, registers in re.findall(pattern, log, re.DOTALL):
        resources[name] = (int(registers), int(stores) + int(loads), int(stack))
    assert set(resources) == entry_points(log2_dimension)
    for name, (registers, spilled, stack) in resources.items():
        assert registers <= REGISTERS_MAX and spilled == 0 and stack == 0, name


@pytest.mark.skipif(NVCC is None, reason="needs nvcc")
@architectures
@dimensions
def test_nvcc_compiles_without_spills(architecture: int, log2_dimension: int, tmp_path: Path) -> None:
    known = subprocess.run([str(NVCC), "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout
    if f"compute_{architecture}\n" not in known:
        pytest.skip(f"this nvcc does not know sm_{architecture}")
    target = [f"-arch=sm_{architecture}", "-cubin", "-Xptxas", "-v", "-o", str(tmp_path / "entry.cubin")]
    command = [str(NVCC), *OPTIONS, *target, f"-DHETAL_LOG2_N={log2_dimension}", str(ENTRY)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    log = done.stdout + done.stderr
    assert done.returncode == 0, log
    assert "warning" not in log.lower()
    check_log(log, log2_dimension)


@functools.cache
def nvrtc() -> ctypes.CDLL | None:
    """The library of the wheel nvidia-cuda-nvrtc, which needs neither a GPU nor a driver."""
    for distribution in importlib.metadata.distributions():
        if not (distribution.metadata["Name"] or "").startswith("nvidia-cuda-nvrtc"):
            continue
        for file in distribution.files or []:
            if re.fullmatch(r"libnvrtc\.so\.\d+", file.name):
                return ctypes.CDLL(str(file.locate()))
    return None


def strings(values: list[bytes]) -> ctypes.Array[ctypes.c_char_p]:
    return (ctypes.c_char_p * len(values))(*values)


@pytest.mark.skipif(nvrtc() is None, reason="needs the wheel nvidia-cuda-nvrtc")
@architectures
@dimensions
def test_nvrtc_compiles_from_the_headers_alone(architecture: int, log2_dimension: int) -> None:
    library = nvrtc()
    assert library is not None
    headers = sorted(KERNELS.glob("*.h"))
    program = ctypes.c_void_p()
    sources = strings([header.read_bytes() for header in headers])
    names = strings([header.name.encode() for header in headers])
    status = library.nvrtcCreateProgram(
        ctypes.byref(program), ENTRY.read_bytes(), b"gpu_entry.cu", len(headers), sources, names
    )
    assert status == 0
    target = [f"--gpu-architecture=sm_{architecture}", "--ptxas-options=-v", f"-DHETAL_LOG2_N={log2_dimension}"]
    options = strings([option.encode() for option in (*OPTIONS, *target)])
    status = library.nvrtcCompileProgram(program, len(options), options)
    size = ctypes.c_size_t()
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, text)
    assert status == 0, text.value.decode()
    check_log(text.value.decode(), log2_dimension)
    library.nvrtcGetCUBINSize(program, ctypes.byref(size))
    assert size.value > 0
    library.nvrtcDestroyProgram(ctypes.byref(program))
