"""Facts about this machine that every measurement carries. No names, no addresses."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import psutil

from hetal._version import __version__
from hetal.processor import core_count, processor_name


def machine_facts() -> dict[str, Any]:
    """Processor, cores, memory and versions."""
    return {
        "processor": processor_name(),
        "cores": core_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "hetal": __version__,
        **{package: _version(package) for package in ("openfhe", "numpy", "grpcio")},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
