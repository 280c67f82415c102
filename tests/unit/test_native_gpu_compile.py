"""The GPU's entry points compile, with nvcc and with NVRTC, without spills and within 128 registers a thread."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import hetal
from hetal.errors import DeviceError
from hetal.native.cuda import nvrtc

KERNELS = Path(hetal.__file__).parent / "native" / "kernels"
ENTRY = KERNELS / "gpu_entry.cu"
NVCC = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
REGISTERS_MAX = 128

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
    names = re.findall(
        r"^(?:COLUMNS|ROWS|WORDS)\((\w+),|^ENTRY\(\(.*\), (\w+), [\w:<>]+, ", ENTRY.read_text(), re.MULTILINE
    )
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
    command = [str(NVCC), *nvrtc.OPTIONS, *target, f"-DHETAL_LOG2_N={log2_dimension}", str(ENTRY)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    log = done.stdout + done.stderr
    assert done.returncode == 0, log
    assert "warning" not in log.lower()
    check_log(log, log2_dimension)


@pytest.mark.skipif(nvrtc.find() is None, reason="needs the wheel nvidia-cuda-nvrtc")
@pytest.mark.parametrize("architecture", nvrtc.ARCHITECTURES)
@dimensions
def test_nvrtc_compiles_from_the_headers_alone(architecture: str, log2_dimension: int) -> None:
    compiler = nvrtc.find()
    assert compiler is not None
    code, log = compiler.compile(architecture, log2_dimension, ("--ptxas-options=-v",))
    check_log(log, log2_dimension)
    assert code.startswith(b"\x7fELF")


@pytest.mark.skipif(nvrtc.find() is None, reason="needs the wheel nvidia-cuda-nvrtc")
def test_devices_get_code_that_runs_on_them() -> None:
    compiler = nvrtc.find()
    assert compiler is not None
    assert [compiler.architecture_for(name) for name in nvrtc.ARCHITECTURES] == list(nvrtc.ARCHITECTURES)
    # A device that is newer than the compiler, of a family that it knows.
    assert compiler.architecture_for("sm_99") == "sm_90"
    with pytest.raises(DeviceError, match="does not compile for sm_200"):
        compiler.architecture_for("sm_200")
    with pytest.raises(DeviceError, match="do not compile for sm_1"):
        compiler.compile("sm_1", 10)
