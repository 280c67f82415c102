"""Whole grids of the GPU's entry points, run lane by lane: ``gpu_batches.cpp``, compiled here."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

import hetal
from hetal.ckks.primes import least_root, prime_below

COMPILER = shutil.which("g++")
SOURCE = Path(__file__).with_name("gpu_batches.cpp")
NATIVE = Path(hetal.__file__).parent / "native"
LOG2_DIMENSION = 13


def prime(bits: int, skip: int = 0) -> list[str]:
    order = 2 << LOG2_DIMENSION
    at = (1 << bits) + 1
    for _ in range(skip + 1):
        at = prime_below(at, order)
    return [str(at), str(least_root(at, order))]


@pytest.mark.skipif(COMPILER is None, reason="needs g++")
def test_every_entry_point_works_on_the_limbs_it_is_given(tmp_path: Path) -> None:
    program = tmp_path / "gpu_batches"
    options = ["-std=c++17", "-O1", "-ffp-contract=off"]
    defines = ["-DHETAL_GPU_FORM", f"-DHETAL_LOG2_N={LOG2_DIMENSION}"]
    include = [f"-I{NATIVE}", f"-I{NATIVE / 'kernels'}"]
    subprocess.run([str(COMPILER), *options, *defines, *include, str(SOURCE), "-o", str(program)], check=True)
    # Q of all policies, of which polynomials have the first three; then P.
    primes = [(50, 0), (45, 0), (55, 0), (45, 1), (45, 2), (49, 0), (60, 0)]
    moduli = [text for bits, skip in primes for text in prime(bits, skip)]
    done = subprocess.run([str(program), *moduli], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
