"""The native CKKS engine: a compiled module for polynomials, and the scheme above it in Python."""

from __future__ import annotations

import importlib
from typing import Any

from hetal.errors import BackendError

_HINT = "Install hetal where a C++ compiler (g++ 11 or newer) is found, or choose --backend openfhe."


def available() -> bool:
    """Whether this install has the compiled engine."""
    try:
        load_engine()
    except BackendError:
        return False
    return True


def load_engine(device: str = "cpu") -> Any:
    """The compiled module, as ``_engine.pyi`` describes it; or what has the same class Ring on another device.

    Args:
        device: "cpu", "cuda:N", or "emulated" (a GPU's launches on the CPU, for tests).

    Raises:
        BackendError: the install found no compiler, or the module does not load.
        DeviceError: there is no such device.
    """
    if device != "cpu":
        from hetal.native.cuda.engine import open_engine

        return open_engine(device)
    try:
        return importlib.import_module("hetal.native._engine")
    except ImportError as error:
        raise BackendError(f"the native engine is not built: {error}", hint=_HINT) from error
