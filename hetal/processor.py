"""What processor this machine has: a fact of every measurement."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def processor_name() -> str:
    """The model, as the kernel names it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def core_count() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))
