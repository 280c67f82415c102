"""What NVIDIA's management library tells, against a pretended one with its real interface."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

COMPILER = shutil.which("c++")
# As nvml.h declares them: two devices, of which the second has no utilisation, and one that fell off the bus.
LIBRARY = """
#include <cstdio>
#include <cstdint>
extern "C" {
struct Memory { unsigned long long total, free, used; };
struct Utilization { unsigned int gpu, memory; };
typedef struct Device* Handle;
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned int* count) { *count = 3; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, Handle* handle) {
  *handle = reinterpret_cast<Handle>(uintptr_t{0x7f0000000000u} + index);
  return 0;
}
unsigned index_of(Handle handle) { return unsigned(reinterpret_cast<uintptr_t>(handle) & 0xff); }
int nvmlDeviceGetName(Handle handle, char* name, unsigned int length) {
  snprintf(name, length, "NVIDIA Model %u", index_of(handle));
  return 0;
}
int nvmlDeviceGetMemoryInfo(Handle handle, Memory* memory) {
  if (index_of(handle) == 2) return 15;
  *memory = Memory{85899345920ull, 80000000000ull, 5899345920ull};
  return 0;
}
int nvmlDeviceGetUtilizationRates(Handle handle, Utilization* use) {
  if (index_of(handle) == 1) return 3;
  *use = Utilization{97, 40};
  return 0;
}
}
"""
LOOK = """
import json
from dataclasses import astuple
from hetal.server.devices import Devices
print(json.dumps([astuple(device) for device in Devices().look()]))
"""


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
def test_devices_of_a_driver(tmp_path: Path) -> None:
    source = tmp_path / "nvml.cpp"
    source.write_text(LIBRARY)
    library = tmp_path / "libnvidia-ml.so.1"
    subprocess.run([str(COMPILER), "-shared", "-fPIC", "-o", str(library), str(source)], check=True, timeout=60)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", LOOK], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    processor, first, second = json.loads(done.stdout)
    assert processor[0] == "cpu"
    assert first == ["gpu0 NVIDIA Model 0", 5_899_345_920, 85_899_345_920, 0.97]
    assert second == ["gpu1 NVIDIA Model 1", 5_899_345_920, 85_899_345_920, None]
