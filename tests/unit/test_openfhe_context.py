"""Several threads that need the same context of OpenFHE's at once, such as trainings of one client."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import threading
from concurrent.futures import ThreadPoolExecutor
from hetal.ckks import openfhe
from hetal.ckks.presets import preset

barrier = threading.Barrier(8)

def build(_):
    barrier.wait()
    return openfhe.build_context(preset("insecure-test"))

with ThreadPoolExecutor(8) as pool:
    first, *others = pool.map(build, range(8))
assert all(context is first for context in others)
assert openfhe._context.cache_info().misses == 1, openfhe._context.cache_info()
"""


def test_a_context_is_made_once() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
