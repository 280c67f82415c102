"""Calls of NVIDIA's driver: against the header's prototypes, and against a driver that pretends (``fake_cuda.cpp``)."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
from ring_program import Program, uniform

from hetal.errors import DeviceError, DeviceMemoryError
from hetal.native import load_engine
from hetal.native.cuda import emulated, nvidia
from hetal.native.cuda.device import Device
from hetal.native.cuda.engine import Engine, open_engine

SOURCE = Path(__file__).with_name("fake_cuda.cpp")
HEADER = Path("/usr/local/cuda/include/cuda.h")
# Types of 8 bytes: pointers, and handles, which are pointers.
WIDE = r"\*|CUdeviceptr|size_t|long long|CU(stream|event|module|function|graph|graphExec|context)\b"
engine = load_engine()
needs_compiler = pytest.mark.skipif(emulated.compiler() is None, reason="needs a C++ compiler")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fake") / "libcuda.so.1"
    options = ["-std=c++17", "-O1", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([str(emulated.compiler()), *options, str(SOURCE), "-o", str(path)], check=True)
    return path


@pytest.fixture
def pretended(library: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ctypes.CDLL]:
    monkeypatch.setattr(nvidia, "_LIBRARY", str(library))
    monkeypatch.setattr(nvidia, "cubin", lambda device, log2: emulated.library(log2))
    nvidia._library.cache_clear()
    loaded = ctypes.CDLL(str(library))
    loaded.pretended_bytes_held.restype = ctypes.c_size_t
    yield loaded
    nvidia._library.cache_clear()


@pytest.mark.skipif(not HEADER.exists(), reason="needs cuda.h")
def test_arguments_have_the_sizes_of_the_header() -> None:
    text = re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.DOTALL)
    # Prototypes have names that macros replace.
    plain = {new: old for old, new in re.findall(r"#define (cu\w+)\s+(cu\w+)\s*$", text, re.MULTILINE)}
    for name, signature in nvidia._SIGNATURES.items():
        found = re.search(rf"CUresult CUDAAPI\s+{plain.get(name, name)}\s*\((.*?)\);", text, re.DOTALL)
        assert found, name
        sizes = []
        for parameter in found[1].split(","):
            wide = re.search(
                r"\*|CUdeviceptr|size_t|long long|CU(stream|event|module|function|graph|graphExec|context)\b", parameter
            )
            sizes.append(8 if wide else 1 if "unsigned char" in parameter else 4)
        assert sizes == [ctypes.sizeof(one) for one in signature], name


@needs_compiler
@pytest.mark.parametrize("name", ["mixed", "narrow"])
def test_every_operation_gives_the_residues_of_the_cpu(name: str, pretended: ctypes.CDLL) -> None:
    program = Program(name, 10, 4, 3, 2)
    device = Device("cuda:0", nvidia.CudaDriver(0))
    facts = device.driver.facts
    assert (facts.name, facts.architecture, facts.version) == ("pretended device", "sm_90", "13.1")
    assert not device.integers
    due, got = program.run(program.ring(engine)), program.run(program.ring(Engine(device)))
    assert [what for what in due if not (due[what] == got[what]).all()] == []
    device.close()
    assert pretended.pretended_bytes_held() == 0
    assert pretended.pretended_open_handles() == 0


@needs_compiler
def test_graphs_keys_and_threads(pretended: ctypes.CDLL) -> None:
    program = Program("narrow", 10, 4, 3, 2)
    device = Device("cuda:0", nvidia.CudaDriver(0))
    made = Engine(device, key_bytes=6 * 7 * 8192)
    ring, cpu = program.ring(made), program.ring(engine)
    # One of two keys fits.
    keys = [ring.read_key(*program.key, 4, 3) for _ in range(2)]
    other = cpu.read_key(*program.key, 4, 3)
    failures: list[str] = []

    def work() -> None:
        for seed in range(5):
            residues = uniform([m for m, _ in program.q], 1024, seed)
            a, b = ring.from_residues(residues), cpu.from_residues(residues)
            first, _ = ring.replayed("sum", [a], lambda parts: ([ring.add(parts[0], parts[0])], None))
            if not (ring.residues(first[0]) == cpu.residues(cpu.add(b, b))).all():
                failures.append("sum")
            for key in keys:
                for x, y in zip(ring.switch(a, [key], [5])[0], cpu.switch(b, [other], [5])[0], strict=True):
                    if not (ring.residues(x) == cpu.residues(y)).all():
                        failures.append("switch")

    thread = Thread(target=work)
    thread.start()
    thread.join()
    work()
    assert failures == []
    assert device.counts["replays"] == 9 and device.counts["key_misses"] >= 19
    start, end = device.driver.event(), device.driver.event()
    for event in (start, end):
        device.driver.record(event, device.compute)
    device.synchronize()
    assert device.driver.elapsed_s(start, end) == pytest.approx(1.5e-3)
    ring.forget_recordings()
    device.close()


@needs_compiler
def test_out_of_memory_and_unknown_devices(pretended: ctypes.CDLL) -> None:
    with pytest.raises(DeviceError, match="no cuda:1; this machine has 1 devices"):
        open_engine("cuda:1")
    with pytest.raises(DeviceError, match="no device 'rocm'"):
        open_engine("rocm")
    program = Program("narrow", 10, 4, 3, 2)
    ring = program.ring(open_engine("cuda"))
    held = []
    with pytest.raises(DeviceMemoryError, match=r"\d+ bytes are needed on cuda, and \d+ are free"):
        while True:
            held.append(ring.device.take(1 << 26))
    del held
    assert (ring.residues(ring.zeros(4)) == 0).all()
    ring.device.close()


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine has a driver")
def test_without_a_driver_the_error_says_so() -> None:
    nvidia._library.cache_clear()
    with pytest.raises(DeviceError, match="no driver"):
        open_engine("cuda")
