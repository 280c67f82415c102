"""Seconds of operations by their level: from a table that one machine measured, or from a model of fixed numbers.

The model compares layouts (both sides of a job must choose the same one), and predicts where nothing is measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from hetal.ckks.parameters import PARALLEL_RING_DIMENSION_MAX, Parameters
from hetal.errors import InputError
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
    # A ciphertext read from its blob.
    "load": (0.0, 0.4),
}
OPERATIONS: Final = tuple(_LINES)
# Of a ciphertext made and sent by a client: milliseconds a limb.
_SEND_MS: Final = 6.0
_LOG2_DIMENSION: Final = 16
# On small rings an operation has one thread of the model's four, and what Python adds counts.
_SMALL_RING_FACTOR: Final = 4.0
_OVERHEAD_S: Final = 2e-5
LEVELS_PER_OPERATION_MAX: Final = 64
SECONDS_MAX: Final = 1e5
SOURCE_CHARS_MAX: Final = 200

Counts = Mapping[tuple[str, int], int]


@dataclass(frozen=True, slots=True)
class CostTable:
    """Seconds of one operation among many, on the machine and with the threads of :attr:`source`.

    Attributes:
        source: where the numbers come from, for people.
        points: per operation of :data:`OPERATIONS` its seconds at one or more levels of the result.
    """

    source: str
    points: Mapping[str, Mapping[float, float]]

    def __post_init__(self) -> None:
        if not 1 <= len(self.source) <= SOURCE_CHARS_MAX or not self.source.isprintable():
            raise InputError(f"a cost table's source has 1 to {SOURCE_CHARS_MAX} printable characters")
        if set(OPERATIONS) != set(self.points):
            raise InputError(f"a cost table does not have the operations {', '.join(OPERATIONS)}")
        for name, measured in self.points.items():
            if not 1 <= len(measured) <= LEVELS_PER_OPERATION_MAX:
                raise InputError(f"a cost table has {len(measured)} levels of {name[:40]!r}")
            for level, value in measured.items():
                if not 0 <= level <= LEVELS_PER_OPERATION_MAX or not (
                    math.isfinite(value) and 0.0 <= value <= SECONDS_MAX
                ):
                    raise InputError(f"a cost table says {value} s for {name[:40]!r} at level {level}")

    def of(self, name: str, level: int) -> float:
        """Seconds of one operation: linear in the level between the measured ones, and beyond the outermost."""
        measured = sorted(self.points[name].items())
        if len(measured) == 1:
            return measured[0][1]
        above = next((i for i, (at, _) in enumerate(measured) if at >= level), len(measured) - 1)
        (low, first), (high, last) = measured[max(1, above) - 1], measured[max(1, above)]
        return max(0.0, first + (last - first) * (level - low) / (high - low))

    def seconds(self, counts: Counts) -> float:
        """Of operations counted by name and level of the result."""
        return sum(count * self.of(name, level) for (name, level), count in counts.items())

    def reading(self, circuit: Circuit, rows: int) -> float:
        """Of one mini-batch's ciphertexts, from their blobs."""
        levels = circuit.levels
        features = circuit.features_count(rows) * self.of("load", levels.features)
        return features + circuit.labels_count(rows) * self.of("load", levels.labels)


def _line(name: str, dimension_share: float, overhead_s: float) -> dict[float, float]:
    constant, slope = (1e-3 * value * dimension_share for value in _LINES[name])
    return {level: overhead_s + constant + slope * (level + 1) for level in (0.0, float(LEVELS_PER_OPERATION_MAX))}


MODEL: Final = CostTable("the built-in model", {name: _line(name, 1.0, 0.0) for name in OPERATIONS})


def model(params: Parameters) -> CostTable:
    """The built-in model for a ring of this dimension: for predictions alone, layouts are compared by :data:`MODEL`."""
    log2 = params.spec.log2_ring_dimension
    share = 2.0 ** (log2 - _LOG2_DIMENSION) * log2 / _LOG2_DIMENSION
    overhead_s = 0.0
    if params.ring_dimension <= PARALLEL_RING_DIMENSION_MAX:
        share, overhead_s = _SMALL_RING_FACTOR * share, _OVERHEAD_S
    points = {name: _line(name, share, overhead_s) for name in OPERATIONS}
    return CostTable(MODEL.source, points)


def sending(circuit: Circuit, job: JobSpec, params: Parameters | None = None) -> float:
    """Of all training features of a job, by a client; with a ring of 2^16 where ``params`` do not say which."""
    share = 1.0 if params is None else 2.0 ** (params.spec.log2_ring_dimension - _LOG2_DIMENSION)
    each = _SEND_MS * share * (circuit.levels.features + 1) / 1e3
    return each * sum(circuit.features_count(job.batch_rows(batch)) for batch in range(job.batches))
