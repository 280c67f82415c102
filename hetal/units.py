"""Quantities as people read them."""

from __future__ import annotations


def size(count: float) -> str:
    """``2_500_000`` -> ``2.5 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        # From here on three digits would round to a thousand.
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
