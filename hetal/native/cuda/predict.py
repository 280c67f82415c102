"""What launches should cost on a device that is not here: each the larger of its bytes at the memory's bandwidth and
its operations at the processor's peak (as :mod:`hetal.native.roofline` has it), and a gap between two launches.

Every operand of a launch comes from memory and every result goes there: what stays in caches from one launch to the
next makes a device faster than this, and that no kernel reaches a peak makes it slower.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from hetal.native.cuda.device import Launch


@dataclass(frozen=True, slots=True)
class Machine:
    """A device by its data sheet.

    Attributes:
        bytes_per_s: of its memory.
        operations_per_s: on doubles; a fused multiply-add is one, where data sheets count two.
        gap_s: between launches of a graph, or of a stream that is never empty.
        source: of the figures.
    """

    name: str
    architecture: str
    bytes_per_s: float
    operations_per_s: float
    gap_s: float
    source: str


_SHEET: Final = "NVIDIA's data sheet; the gap is an assumption"
MACHINES: Final[dict[str, Machine]] = {
    "a100": Machine("A100 SXM 80 GB", "sm_80", 2.04e12, 4.85e12, 1.5e-6, _SHEET),
    "h100": Machine("H100 SXM 80 GB", "sm_90", 3.35e12, 17e12, 1.5e-6, _SHEET),
    "h200": Machine("H200 SXM 141 GB", "sm_90", 4.8e12, 17e12, 1.5e-6, _SHEET),
}


def predicted(launches: Iterable[Launch], machine: Machine) -> dict[str, Any]:
    """Seconds, and what they are made of.

    Returns:
        ``seconds``; ``floor_s``, the whole at once without gaps; ``launches``, ``bytes`` and ``operations``; and
        ``by_entry``, seconds by entry point.
    """
    all_of = list(launches)
    by_entry: dict[str, float] = {}
    for launch in all_of:
        seconds = max(launch.nbytes / machine.bytes_per_s, launch.operations / machine.operations_per_s)
        by_entry[launch.entry] = by_entry.get(launch.entry, 0.0) + seconds + machine.gap_s
    nbytes, operations = sum(one.nbytes for one in all_of), sum(one.operations for one in all_of)
    return {
        "seconds": sum(by_entry.values()),
        "floor_s": max(nbytes / machine.bytes_per_s, operations / machine.operations_per_s),
        "launches": len(all_of),
        "bytes": nbytes,
        "operations": operations,
        "by_entry": dict(sorted(by_entry.items(), key=lambda item: -item[1])),
    }
