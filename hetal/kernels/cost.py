"""Seconds of operations by their level: a model of fixed numbers, by which layouts are compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from hetal.kernels.circuit import Circuit
from hetal.protocol.job import JobSpec

# Milliseconds as constant + slope * limbs, of the native engine at N = 2^16 on four cores with a ciphertext each
# (docs/engine.md): what an operation adds to a batch of them.
_LINES: Final[dict[str, tuple[float, float]]] = {
    "mul": (0.0, 0.05),
    "relin": (0.5, 0.6),
    "rotate": (0.5, 0.6),
    "rotate_hoisted": (0.5, 0.4),
    "conjugate": (0.5, 0.6),
    "mul_plain": (0.1, 0.05),
    "mul_scalar": (0.05, 0.02),
    "add": (0.0, 0.03),
    "phase": (850.0, 0.0),
    "bootstrap": (950.0, 0.0),
}
# Of a ciphertext read from its blob, and of one made and sent by a client: milliseconds a limb.
_READ_MS: Final = 0.4
_SEND_MS: Final = 6.0


def seconds(counts: Mapping[tuple[str, int], int]) -> float:
    """Of operations counted by name and level of the result."""
    total = 0.0
    for (name, level), count in counts.items():
        constant, slope = _LINES[name]
        total += count * (constant + slope * (level + 1))
    return total / 1e3


def reading(circuit: Circuit, rows: int) -> float:
    """Of one mini-batch."""
    levels = circuit.levels
    limbs = circuit.features_count(rows) * (levels.features + 1) + circuit.labels_count(rows) * (levels.labels + 1)
    return _READ_MS * limbs / 1e3


def sending(circuit: Circuit, job: JobSpec) -> float:
    """Of all training features of a job, by a client of the same kind."""
    each = _SEND_MS * (circuit.levels.features + 1) / 1e3
    return each * sum(circuit.features_count(job.batch_rows(batch)) for batch in range(job.batches))
