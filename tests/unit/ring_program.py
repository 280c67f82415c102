"""One program of every operation of a ring, on the same operands: rings that agree give the same residues."""

from __future__ import annotations

import functools
import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hetal.ckks.primes import least_root, prime_below

Array = NDArray[Any]
Prime = tuple[int, int]

# Bits of the first prime of Q, of the others, of the special primes, of those under which keys arrive (0: the same).
CHAINS = {
    "narrow": (49, 45, 49, 60),
    "tight": (50, 50, 50, 60),
    "wide": (60, 55, 60, 0),
    "mixed": (50, 45, 60, 0),
    "wide, narrow specials": (55, 55, 49, 60),
}


@functools.cache
def primes(bits: int, count: int, log2_dimension: int, skip: int) -> list[Prime]:
    order = 2 << log2_dimension
    found: list[Prime] = []
    at = (1 << bits) + 1
    for _ in range(skip + count):
        at = prime_below(at, order)
        found.append((at, least_root(at, order)))
    return found[skip:]


def chain(name: str, log2_dimension: int, q_limbs: int, p_limbs: int) -> tuple[list[Prime], list[Prime], list[Prime]]:
    first, others, special, wire = CHAINS[name]
    q = primes(first, 1, log2_dimension, 0) + primes(others, q_limbs - 1, log2_dimension, 1)
    p = primes(special, p_limbs, log2_dimension, q_limbs)
    return q, p, primes(wire, p_limbs, log2_dimension, q_limbs + p_limbs) if wire else []


def uniform(moduli: list[int], dimension: int, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    rows = [rng.integers(0, m, dimension, dtype=np.uint64) for m in moduli]
    for row, m in zip(rows, moduli, strict=True):
        # The ends of both signs, in runs, where lazy sums grow longest.
        row[:8] = m - 1
        row[8:16] = m // 2
        row[16:24] = m // 2 + 1
        row[24:32] = 0
    return np.stack(rows)


def wire_key(moduli: list[int], dimension: int, digits: int) -> tuple[bytes, list[list[list[int]]]]:
    """Some key: which residues it has does not matter to kernels. Limbs lie at odd addresses."""
    data, offsets = bytearray(b"k"), []
    for half in range(2):
        rows = []
        for digit in range(digits):
            rows.append([len(data) + 8 * dimension * i for i in range(len(moduli))])
            data += uniform(moduli, dimension, 100 + 2 * digit + half).tobytes()
        offsets.append(rows)
    return bytes(data), offsets


class Program:
    """Every operation of a ring, on the same operands."""

    def __init__(self, name: str, log2_dimension: int, q_limbs: int, p_limbs: int, digit_limbs: int) -> None:
        self.log2_dimension, self.digit_limbs = log2_dimension, digit_limbs
        self.q, self.p, self.wire = chain(name, log2_dimension, q_limbs, p_limbs)
        self.dimension = 1 << log2_dimension
        self.moduli = [m for m, _ in self.q + self.p]
        self.operands = [uniform(self.moduli, self.dimension, seed) for seed in range(4)]
        on_wire = [m for m, _ in self.q + (self.wire or self.p)]
        self.key = wire_key(on_wire, self.dimension, -(-q_limbs // digit_limbs))

    def ring(self, engine: Any, variant: str = "auto") -> Any:
        return engine.Ring(self.log2_dimension, self.q, self.p, self.wire, self.digit_limbs, 1, variant)

    def run(self, ring: Any) -> dict[str, Array]:
        q_limbs, p_limbs = len(self.q), len(self.p)
        a, b, c, d = (ring.from_residues(v, p_limbs) for v in self.operands)
        low = ring.truncate(a, q_limbs)
        rng = np.random.default_rng(9)
        sizes = (64, self.dimension // 2, self.dimension)
        small, run2, whole = (rng.integers(-(2**52), 2**52, size).astype(float) for size in sizes)
        compact, paired, plain = (ring.from_coefficients(v, q_limbs, p_limbs) for v in (small, run2, whole))
        key = ring.read_key(*self.key, q_limbs, p_limbs)
        first = ring.read_key(*self.key, 1, max(1, p_limbs - 1))
        constants = [int(v) for v in self.operands[3][:, -1]]
        n = self.dimension
        polys: dict[str, list[Any]] = {
            "in and out": [a, plain, ring.zeros(2, 1)],
            "add": [ring.add(a, b), ring.subtract(a, b), ring.negate(a)],
            "multiply": [ring.multiply(a, b), ring.multiply(a, compact), ring.multiply(a, paired)],
            "dot": [ring.dot([a, b, c], [d, compact, plain])],
            "tensor": [*ring.tensor((a, b), (c, d))],
            "constants": [ring.multiply_constants(a, constants), ring.add_constants(a, constants)],
            "monomial": [ring.multiply_monomial(a, e) for e in (1, n // 2 + 3, 2 * n - 1)],
            "automorphism": [ring.automorphism(a, k) for k in (5, 25, 2 * n - 1)],
            "extend": [ring.extend(low, p_limbs)],
            "rescale": [ring.rescale(low)],
            "raise_modulus": [ring.raise_modulus(ring.truncate(a, 1), q_limbs)],
            "mod_down": [ring.mod_down(a), *ring.mod_down_pair((a, b), 1)],
        }
        switched = ring.switch(low, [key, key, key], [1, 5, 2 * n - 1])
        polys["switch"] = [part for pair in switched for part in (*pair, *ring.mod_down_pair(pair))]
        more = ring.switch(low, [key, key], [5, 1], (low, None), [(a, b), (c, d)])
        polys["switch and add"] = [part for pair in more for part in pair]
        polys["small switch"] = [*ring.switch(ring.truncate(a, 1), [first], [5])[0]]
        rows = ring.transform([(a, b), (c, d)], [[c, None], [compact, plain], [paired, b]])
        polys["transform"] = [part for pair in rows for part in pair]
        return {f"{name} {i}": ring.residues(p) for name, list_ in polys.items() for i, p in enumerate(list_)}


# -- for devices that have no CPU engine beside them -------------------------------------------------------------------

# By program and result: the first half of the SHA-256 of the residues that the CPU gives, as little-endian words.
RESIDUES = Path(__file__).with_name("device_residues.json")


def programs() -> Iterator[tuple[str, Program]]:
    """Small ones on all kinds of moduli, sums and digits of all sizes; then the shape of the default preset."""
    for log2_dimension in (10, 11, 13):
        for name in sorted(CHAINS):
            yield f"{name}, 2^{log2_dimension}", Program(name, log2_dimension, 4, 3, 2)
    for name in sorted(CHAINS):
        yield f"{name}, long sums", Program(name, 10, 20, 19, 18)
        yield f"{name}, many digits", Program(name, 10, 18, 2, 1)
    for log2_dimension in (12, 14, 15, 17):
        yield f"mixed, 2^{log2_dimension}", Program("mixed", log2_dimension, 2, 2, 1)
    for name in ("mixed", "narrow", "tight"):
        yield f"{name}, 2^16", Program(name, 16, 3, 2, 2)
    yield "as the default preset", Program("narrow", 16, 27, 8, 7)


def digests(results: dict[str, Array]) -> dict[str, str]:
    return {name: hashlib.sha256(words.astype("<u8").tobytes()).hexdigest()[:32] for name, words in results.items()}


def main() -> int:
    """Writes what :data:`RESIDUES` holds, from the CPU."""
    from hetal.native import load_engine

    engine = load_engine()
    found = {name: digests(program.run(program.ring(engine))) for name, program in programs()}
    RESIDUES.write_text(json.dumps(found, indent=0) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
