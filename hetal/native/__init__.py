"""The native CKKS engine: a compiled module for polynomials, and the scheme above it in Python."""

from __future__ import annotations

import importlib
from types import ModuleType

from hetal.errors import BackendError

_HINT = "Install hetal where a C++ compiler (g++ 11 or newer) is found, or choose --backend openfhe."


def available() -> bool:
    """Whether this install has the compiled engine."""
    try:
        load_engine()
    except BackendError:
        return False
    return True


def load_engine() -> ModuleType:
    """The compiled module, as ``_engine.pyi`` describes it.

    Raises:
        BackendError: the install found no compiler, or the module does not load.
    """
    try:
        return importlib.import_module("hetal.native._engine")
    except ImportError as error:
        raise BackendError(f"the native engine is not built: {error}", hint=_HINT) from error
