"""What an operation must cost at least: floating-point operations and bytes counted, against the machine's limits.

The floor of an operation is the larger of its operations at the processor's peak and its bytes at the memory's
bandwidth (Williams, Waterman, Patterson, "Roofline", CACM 2009). Bytes count every operand and result once, as if all
inside the operation stayed in caches; operations are those of a narrow modulus.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any, Final

# Operations on doubles for one coefficient: a butterfly has 8, for two coefficients.
BUTTERFLY: Final = 8 / 2
MULTIPLY_ADD: Final = 4
MULTIPLY_REDUCE: Final = 7
ADD_REDUCE: Final = 4

Counts = Counter[str]


def counting(engine: ModuleType) -> Any:
    """An engine whose rings count what passes through them.

    Counted are ``ntt`` limbs transformed, ``convert`` (source, target) pairs of limbs, ``mac`` limbs multiplied and
    added to a sum, ``multiply`` and ``add`` limbs, and ``bytes`` read and written.
    """
    base: Any = engine.Ring

    def counted(name: str) -> Callable[..., Any]:
        method = getattr(base, name)
        count = getattr(_Counts, name)

        def call(ring: Any, *args: Any) -> Any:
            count(ring.counted, *args)
            return method(ring, *args)

        return call

    def start(ring: Any, log2_dimension: int, *args: Any) -> None:
        base.__init__(ring, log2_dimension, *args)
        # Arguments after the dimension: Q, P, P of the wire, limbs of a digit.
        ring.counted = _Counts(1 << log2_dimension, args[3])

    members = {name: counted(name) for name in vars(_Counts) if not name.startswith("_")}
    return SimpleNamespace(Ring=type("Ring", (base,), {"__init__": start, **members}))


class _Counts:
    """The counts of one ring; a method for each counted operation, with the operation's arguments."""

    def __init__(self, dimension: int, digit_limbs: int) -> None:
        self._dimension = dimension
        self._digit_limbs = digit_limbs
        self._counts: Counts = Counter()

    def _bytes(self, *limbs: int) -> None:
        self._counts["bytes"] += 8 * self._dimension * sum(limbs)

    def switch(
        self, a: Any, keys: Sequence[Any], indices: Sequence[int], before: Any = None, after: Any = None
    ) -> None:
        if not keys:
            return
        limbs, special = a.q_limbs, keys[0].p_limbs
        sizes = [min(self._digit_limbs, limbs - at) for at in range(0, limbs, self._digit_limbs)]
        targets = limbs + special
        self._counts["ntt"] += limbs + len(sizes) * targets - limbs
        self._counts["convert"] += sum(size * (targets - size) for size in sizes)
        self._counts["mac"] += len(keys) * len(sizes) * targets * 2
        self._bytes(limbs, len(keys) * len(sizes) * targets * 2, len(keys) * targets * 2)
        addends = [x for x in before or () if x is not None] * len(keys) + [x for pair in after or () for x in pair]
        self._counts["add"] += sum(x.q_limbs + x.p_limbs for x in addends)
        self._bytes(*(x.q_limbs + x.p_limbs for x in addends))

    def mod_down(self, a: Any, drop: int = 0) -> None:
        sources, targets = a.p_limbs + drop, a.q_limbs - drop
        self._counts["ntt"] += sources + targets
        self._counts["convert"] += sources * targets
        self._counts["multiply"] += targets
        self._bytes(a.q_limbs + a.p_limbs, targets)

    def mod_down_pair(self, pair: tuple[Any, Any], drop: int = 0) -> None:
        for part in pair:
            self.mod_down(part, drop)

    def rescale(self, a: Any) -> None:
        self.mod_down(a, 1)

    def raise_modulus(self, a: Any, q_limbs: int) -> None:
        self._counts["ntt"] += q_limbs
        self._counts["convert"] += q_limbs - 1
        self._bytes(1, q_limbs)

    def transform(self, parts: Sequence[tuple[Any, Any]], diagonals: Sequence[Sequence[Any]]) -> None:
        limbs = parts[0][0].q_limbs + parts[0][0].p_limbs
        present = [d for row in diagonals for d in row if d is not None]
        self._counts["mac"] += 2 * limbs * len(present)
        self._bytes(2 * limbs * len(parts), 2 * limbs * len(diagonals))
        self._counts["bytes"] += sum(d.nbytes * limbs // (d.q_limbs + d.p_limbs) for d in present)

    def dot(self, a: Sequence[Any], b: Sequence[Any]) -> None:
        limbs = a[0].q_limbs + a[0].p_limbs
        self._counts["mac"] += limbs * len(a)
        self._bytes(limbs * (2 * len(a) + 1))

    def tensor(self, a: tuple[Any, Any], b: tuple[Any, Any]) -> None:
        self._counts["multiply"] += 4 * a[0].q_limbs
        self._bytes(7 * a[0].q_limbs)

    def multiply(self, a: Any, b: Any) -> None:
        self._counts["multiply"] += a.q_limbs + a.p_limbs
        self._bytes(3 * (a.q_limbs + a.p_limbs))

    def multiply_constants(self, a: Any, constants: Sequence[int]) -> None:
        self._counts["multiply"] += a.q_limbs + a.p_limbs
        self._bytes(2 * (a.q_limbs + a.p_limbs))

    def multiply_monomial(self, a: Any, exponent: int) -> None:
        self.multiply_constants(a, ())

    def extend(self, a: Any, p_limbs: int) -> None:
        self._counts["multiply"] += a.q_limbs
        self._bytes(2 * a.q_limbs + p_limbs)

    def automorphism(self, a: Any, index: int) -> None:
        self._bytes(2 * (a.q_limbs + a.p_limbs))

    def add(self, a: Any, b: Any) -> None:
        self._counts["add"] += a.q_limbs + a.p_limbs
        self._bytes(3 * (a.q_limbs + a.p_limbs))

    subtract = add


def operations(counts: Counts, dimension: int) -> float:
    """Operations on doubles that the counted limbs take."""
    log2 = dimension.bit_length() - 1
    return dimension * (
        counts["ntt"] * log2 * BUTTERFLY
        + (counts["convert"] + counts["mac"]) * MULTIPLY_ADD
        + counts["multiply"] * MULTIPLY_REDUCE
        + counts["add"] * ADD_REDUCE
    )


def report(counts: Counts, dimension: int, limits: dict[str, float], seconds: float) -> dict[str, Any]:
    """Counts, both floors in seconds, and the share of the higher one in the seconds measured.

    Args:
        limits: ``peak`` and ``read`` of ``_engine.measure``.
        seconds: measured.
    """
    done = operations(counts, dimension)
    compute, memory = done / limits["peak"], counts["bytes"] / limits["read"]
    return {
        "counts": dict(counts),
        "operations": done,
        "compute_floor_s": compute,
        "memory_floor_s": memory,
        "bound": "compute" if compute > memory else "memory",
        "share_of_peak": max(compute, memory) / seconds,
    }


def counts_of(ring: Any, work: Callable[[], object]) -> Counts:
    """What one call of ``work`` passes through a counting ring."""
    before = Counter(ring.counted._counts)
    work()
    return Counter({name: count - before[name] for name, count in ring.counted._counts.items()})
