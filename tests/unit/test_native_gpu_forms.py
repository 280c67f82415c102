"""The GPU form of every kernel, run lane by lane on the CPU, against the CPU's own kernels: the same residues."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hetal.ckks.primes import least_root, prime_below
from hetal.native import load_engine

engine = load_engine()
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

    def run(self, variant: str) -> dict[str, Array]:
        q_limbs, p_limbs = len(self.q), len(self.p)
        ring = engine.Ring(self.log2_dimension, self.q, self.p, self.wire, self.digit_limbs, 1, variant)
        assert ring.variant == variant
        a, b, c, d = (ring.from_residues(v, p_limbs) for v in self.operands)
        low = ring.truncate(a, q_limbs)
        rng = np.random.default_rng(9)
        small, run2, whole = (np.round(rng.normal(size=n) * 2.0**50) for n in (64, self.dimension // 2, self.dimension))
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
        results = {f"{name} {i}": ring.residues(p) for name, list_ in polys.items() for i, p in enumerate(list_)}
        for limb in range(q_limbs + p_limbs):
            results[f"forward {limb}"] = engine.forward_ntt(ring, self.operands[0][limb], limb)
            results[f"inverse {limb}"] = engine.inverse_ntt(ring, self.operands[0][limb], limb)
        return results


def assert_same(program: Program, variants: list[str]) -> None:
    emulated = program.run("emulated")
    for variant in variants:
        due = program.run(variant)
        different = [name for name in due if not (due[name] == emulated[name]).all()]
        assert not different, variant


@pytest.mark.parametrize("name", sorted(CHAINS))
@pytest.mark.parametrize("log2_dimension", [10, 11, 13])
def test_every_operation_gives_the_residues_of_every_instruction_set(name: str, log2_dimension: int) -> None:
    assert_same(Program(name, log2_dimension, 4, 3, 2), engine.variants())


@pytest.mark.parametrize("name", ["mixed", "narrow", "tight"])
def test_at_the_dimension_of_the_presets_too(name: str) -> None:
    assert_same(Program(name, 16, 3, 2, 2), engine.variants()[:1])


@pytest.mark.parametrize("log2_dimension", [12, 14, 15, 17])
def test_transforms_of_every_other_size(log2_dimension: int) -> None:
    moduli = [primes(bits, 1, log2_dimension, 0)[0] for bits in (49, 50, 60)]
    operands = uniform([m for m, _ in moduli], 1 << log2_dimension, 1)
    rings = [engine.Ring(log2_dimension, moduli, [], [], 1, 1, v) for v in ("emulated", engine.variants()[0])]
    for limb, residues in enumerate(operands):
        forward, inverse = (
            [f(ring, residues, limb) for ring in rings] for f in (engine.forward_ntt, engine.inverse_ntt)
        )
        assert (forward[0] == forward[1]).all()
        assert (inverse[0] == inverse[1]).all()


@pytest.mark.parametrize("name", sorted(CHAINS))
def test_sums_longer_than_an_accumulator(name: str) -> None:
    """19 sources and a rounded quotient make two or three groups; 40 terms of a transform make three or five."""
    assert_same(Program(name, 10, 20, 19, 18), engine.variants()[:1])
    q, _, _ = chain(name, 10, 3, 1)
    residues = [uniform([m for m, _ in q], 1024, seed) for seed in range(6)]
    results = []
    for variant in ("emulated", engine.variants()[0]):
        ring = engine.Ring(10, q, [], [], 1, 1, variant)
        polys = [ring.from_residues(v) for v in residues]
        terms = [polys[k % 5] for k in range(40)]
        factors = [[None if (k + g) % 7 == 0 else polys[(k + g) % 6] for k in range(40)] for g in range(3)]
        rows = ring.transform([(x, polys[5]) for x in terms], factors)
        results.append([ring.residues(p) for p in (*(p for row in rows for p in row), ring.dot(terms, terms))])
    assert all((x == y).all() for x, y in zip(*results, strict=True))


def test_a_residue_that_is_not_below_its_modulus_is_refused() -> None:
    q, _, _ = chain("mixed", 10, 2, 1)
    ring = engine.Ring(10, q, [], [], 1, 1, "emulated")
    residues = uniform([m for m, _ in q], 1024, 0)
    residues[1, 700] = q[1][0]
    with pytest.raises(ValueError, match="limb 1"):
        ring.from_residues(residues)


def test_it_is_not_offered_as_an_instruction_set() -> None:
    assert "emulated" not in engine.variants()
    q, _, _ = chain("narrow", 10, 1, 1)
    assert engine.Ring(10, q, [], [], 1).variant != "emulated"
