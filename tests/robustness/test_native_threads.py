"""One ring used by many Python threads: the tables it makes on demand and the pool of limbs are shared by all."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hetal.ckks.primes import least_root, prime_below
from hetal.native import load_engine

engine = load_engine()
LOG2_DIMENSION = 10
DIMENSION = 1 << LOG2_DIMENSION
WORKERS = 4
ROUNDS = 3


def primes(bits: int, count: int) -> list[tuple[int, int]]:
    order = 2 * DIMENSION
    found = []
    at = (1 << bits) + 1
    for _ in range(count):
        at = prime_below(at, order)
        found.append((at, least_root(at, order)))
    return found


def uniform(moduli: list[int], seed: int) -> NDArray[np.uint64]:
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(0, m, DIMENSION, dtype=np.uint64) for m in moduli])


Q, P = primes(45, 6), primes(49, 3)
Q_MODULI = [modulus for modulus, _ in Q]
MODULI = [modulus for modulus, _ in Q + P]
# A key of random residues: what a switch computes from it means nothing, and is the same every time.
HALVES, DIGITS = 2, 3
KEY_DATA = b"".join(uniform(MODULI, 100 + i).tobytes() for i in range(HALVES * DIGITS))
KEY_OFFSETS = [
    [
        [((half * DIGITS + digit) * len(MODULI) + limb) * 8 * DIMENSION for limb in range(len(MODULI))]
        for digit in range(3)
    ]
    for half in range(HALVES)
]


def work(ring: Any, seed: int) -> list[NDArray[np.uint64]]:
    """Operations with tables made on demand, at many levels and indices, and many limbs taken and given back."""
    key = ring.read_key(KEY_DATA, KEY_OFFSETS, len(Q), len(P))
    a, b = (ring.from_residues(uniform(Q_MODULI, 2 * seed + i)) for i in range(2))
    results = []
    for limbs in range(len(Q), 1, -1):
        a, b = ring.truncate(a, limbs), ring.truncate(b, limbs)
        pairs = ring.switch(a, [key, key], [5, 2 * seed + 1])
        rotated = ring.mod_down_pair(pairs[1])
        product = ring.multiply(ring.automorphism(rotated[0], 25), ring.multiply_monomial(b, seed))
        (row,) = ring.transform([rotated], [[ring.from_coefficients(np.arange(64.0) + seed, limbs)]])
        results += [ring.residues(poly) for poly in (ring.rescale(product), ring.add(row[0], row[1]))]
    return results


@pytest.mark.parametrize("threads", [1, 2])
def test_concurrent_operations_give_what_single_ones_give(threads: int) -> None:
    due = [work(engine.Ring(LOG2_DIMENSION, Q, P, [], 2, 1), seed) for seed in range(WORKERS)]
    for _ in range(ROUNDS):
        # A fresh ring each round, entered by all at once: its tables are then made in the middle of a race.
        ring = engine.Ring(LOG2_DIMENSION, Q, P, [], 2, threads)
        gate = threading.Barrier(WORKERS)

        def enter(seed: int, ring: Any = ring, gate: threading.Barrier = gate) -> list[NDArray[np.uint64]]:
            gate.wait()
            return work(ring, seed)

        with ThreadPoolExecutor(WORKERS) as pool:
            found = list(pool.map(enter, range(WORKERS)))
        for theirs, alone in zip(found, due, strict=True):
            assert all((x == y).all() for x, y in zip(theirs, alone, strict=True))


def test_a_polynomial_may_outlive_its_ring() -> None:
    ring = engine.Ring(LOG2_DIMENSION, Q, P, [], 2, 1)
    values = uniform(Q_MODULI, 1)
    poly = ring.from_residues(values)
    del ring
    again = engine.Ring(LOG2_DIMENSION, Q, P, [], 2, 1)
    assert (again.residues(again.truncate(poly, len(Q))) == values).all()
