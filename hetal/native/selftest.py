"""A second's worth of proof that the compiled engine computes right on this machine's processor."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from hetal.ckks.primes import least_root, prime_below
from hetal.errors import BackendError
from hetal.native import load_engine, reference

LOG2_DIMENSION: Final = 10
MODULUS_BITS: Final = (49, 45, 44, 60)
SPECIAL: Final = 1


def self_test() -> tuple[str, ...]:
    """Compare the operations that must agree to the bit with :mod:`hetal.native.reference`, for every instruction set.

    Returns:
        The instruction sets that this processor runs, best first.

    Raises:
        BackendError: the engine is not built, or an operation gives another residue than its twin.
    """
    engine = load_engine()
    expected = _results(reference, "auto")
    variants = tuple(engine.variants())
    for variant in variants:
        for name, residues in _results(engine, variant).items():
            if not np.array_equal(residues, expected[name]):
                raise BackendError(
                    f"the native engine's {name} is wrong on this processor ({variant})",
                    hint="Build the engine again on this machine (make native); until then choose --backend openfhe.",
                )
    return variants


def _results(engine: Any, variant: str) -> dict[str, Any]:
    """Residues of each operation on the same random operands."""
    order = 2 << LOG2_DIMENSION
    moduli = [prime_below((1 << bits) + 1, order) for bits in MODULUS_BITS]
    primes = [(modulus, least_root(modulus, order)) for modulus in moduli]
    ring = engine.Ring(LOG2_DIMENSION, primes[:-SPECIAL], primes[-SPECIAL:], [], 1, 1, variant)
    rng = np.random.default_rng(0)
    size, limbs = 1 << LOG2_DIMENSION, len(primes) - SPECIAL
    a, b = (ring.from_coefficients(np.rint(rng.normal(0, 1e8, size)), limbs) for _ in range(2))
    results = {
        "transform": a,
        "addition": ring.add(a, b),
        "multiplication": ring.multiply(a, b),
        "automorphism": ring.automorphism(a, 5),
        "base conversion": ring.extend(a, SPECIAL),
    }
    return {name: ring.residues(poly) for name, poly in results.items()}
