"""The engine's slow twin: right by Python's integers, and equal to the compiled engine bit by bit."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hetal.ckks.primes import least_root, prime_below
from hetal.native import load_engine, reference
from hetal.native.residues import Basis, bit_reversal, convert

Array = NDArray[Any]
Prime = tuple[int, int]
LOG2 = 10
N = 1 << LOG2


@functools.cache
def primes(bits: int, count: int, skip: int = 0) -> list[Prime]:
    found: list[Prime] = []
    at = (1 << bits) + 1
    for _ in range(skip + count):
        at = prime_below(at, 2 * N)
        found.append((at, least_root(at, 2 * N)))
    return found[skip:]


# Moduli of Q, special ones and those of the wire: all below 2^50, some above, all above.
CHAINS: dict[str, tuple[list[Prime], list[Prime], list[Prime]]] = {
    "narrow": ([*primes(49, 1), *primes(45, 4)], primes(49, 3, 1), primes(60, 3)),
    "mixed": ([*primes(55, 1), *primes(48, 4)], primes(49, 3, 1), primes(60, 3)),
    "wide": ([*primes(58, 1), *primes(55, 4)], primes(60, 3), []),
}


def uniform(moduli: list[Prime], seed: int) -> NDArray[np.uint64]:
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(0, m, N, dtype=np.uint64) for m, _ in moduli])


def basis(moduli: list[int]) -> Basis:
    """Without tables of transforms."""
    return Basis(moduli, np.ones((len(moduli), 2), dtype=np.uint64), bit_reversal(0))


@given(
    modulus=st.sampled_from([m for chain in CHAINS.values() for m, _ in chain[0] + chain[1]]),
    data=st.data(),
)
def test_products_of_residues(modulus: int, data: st.DataObject) -> None:
    residue = st.one_of(st.integers(0, modulus - 1), st.sampled_from([0, 1, modulus // 2, modulus - 1]))
    x = data.draw(st.lists(residue, min_size=8, max_size=8))
    y = data.draw(st.lists(residue, min_size=8, max_size=8))
    words = basis([modulus]).multiply(np.array([x], dtype=np.uint64), np.array([y], dtype=np.uint64))
    assert words[0].tolist() == [a * b % modulus for a, b in zip(x, y, strict=True)]


@given(data=st.data(), name=st.sampled_from(sorted(CHAINS)))
def test_exact_conversion_finds_the_centred_representative(data: st.DataObject, name: str) -> None:
    """Values next to a half of the product are where a rounded sum of fractions errs."""
    q, p, _ = CHAINS[name]
    sources, targets = [m for m, _ in p], [m for m, _ in q]
    product = math.prod(sources)
    middle = st.integers(-(1 << 40), 1 << 40).map(lambda offset: product // 2 + offset)
    values = data.draw(st.lists(st.one_of(st.integers(0, product - 1), middle), min_size=4, max_size=4))
    residues = np.array([[v % m for v in values] for m in sources], dtype=np.uint64)
    found = convert(basis(sources), residues, basis(targets), exact=True)
    centred = [v - product if v > product // 2 else v for v in values]
    assert found.tolist() == [[v % m for v in centred] for m in targets]


@pytest.mark.parametrize("name", CHAINS)
def test_transforms_evaluate_at_the_roots(name: str) -> None:
    q, p, wire = CHAINS[name]
    ring = reference.Ring(LOG2, q, p, wire, 2)
    for limb, (modulus, root) in enumerate(q + p):
        coefficients = uniform([(modulus, root)], limb)[0]
        values = reference.forward_ntt(ring, coefficients, limb)
        for position in (0, 1, 77, N - 1):
            reversed_position = int(f"{position:0{LOG2}b}"[::-1], 2)
            point = pow(root, 2 * reversed_position + 1, modulus)
            value = 0
            for c in reversed(coefficients.tolist()):
                value = (value * point + c) % modulus
            assert values[position] == value
        assert (reference.inverse_ntt(ring, values, limb) == coefficients).all()


def test_divisions_round_to_the_nearest_integer() -> None:
    q, p, wire = CHAINS["narrow"]
    ring = reference.Ring(LOG2, q, p, wire, 2)
    special = math.prod(m for m, _ in p)
    rng = np.random.default_rng(3)
    quotients = rng.integers(-(2**40), 2**40, N)
    rests = [int(r) * special // 2**20 for r in rng.integers(-(2**19), 2**19, N)]
    rests[:4] = [special // 2, -(special // 2), 0, 1]
    values = [int(a) * special + r for a, r in zip(quotients, rests, strict=True)]
    words = np.stack(
        [
            reference.forward_ntt(ring, np.array([v % m for v in values], dtype=np.uint64), limb)
            for limb, (m, _) in enumerate(q + p)
        ]
    )
    divided = ring.residues(ring.mod_down(ring.from_residues(words, len(p))))
    for limb, (m, _) in enumerate(q):
        assert (reference.inverse_ntt(ring, divided[limb], limb) == np.array([int(a) % m for a in quotients])).all()


def key_bytes(chain: tuple[list[Prime], list[Prime], list[Prime]]) -> tuple[bytes, list[list[list[int]]]]:
    """Any key (residues alone matter here) of digits of two limbs, at odd addresses."""
    q, p, wire = chain
    moduli = [*q, *(wire or p)]
    digits = -(-len(q) // 2)
    data, offsets = b"x", []
    for half in range(2):
        rows = []
        for digit in range(digits):
            rows.append([len(data) + 8 * N * limb for limb in range(len(moduli))])
            data += uniform(moduli, 10 * half + digit).tobytes()
        offsets.append(rows)
    return data, offsets


Ring = Any


class Case:
    """Two rings of one chain."""

    def __init__(self, name: str) -> None:
        self.q, self.p, self.wire = CHAINS[name]
        self.key = key_bytes(CHAINS[name])
        self.engine = load_engine().Ring(LOG2, self.q, self.p, self.wire, 2)
        self.twin = reference.Ring(LOG2, self.q, self.p, self.wire, 2)

    def poly(self, ring: Ring, seed: int, q_limbs: int | None = None, p_limbs: int | None = None) -> Any:
        chosen = [*self.q[:q_limbs], *self.p[:p_limbs]]
        return ring.from_residues(uniform(chosen, seed), len(self.p[:p_limbs]))


@functools.cache
def case(name: str) -> Case:
    return Case(name)


def pointwise(c: Case, ring: Ring, seed: int) -> list[Any]:
    x, y, z = (c.poly(ring, seed + i) for i in range(3))
    constants = [(seed * 7919 + 12345678901234567890) % m for m, _ in c.q + c.p]
    small = np.rint(np.random.default_rng(seed).normal(size=128) * 2.0**50)
    compact = ring.from_coefficients(small, len(c.q), len(c.p))
    return [
        ring.add(x, y),
        ring.subtract(x, y),
        ring.negate(x),
        ring.multiply(x, y),
        ring.multiply(x, compact),
        ring.multiply(c.poly(ring, seed, 2, 1), compact),
        ring.dot([x, y, z], [y, compact, z]),
        *ring.tensor((x, y), (z, x)),
        ring.multiply_constants(x, constants),
        ring.add_constants(x, constants),
        ring.multiply_monomial(x, seed % (2 * N)),
        ring.automorphism(x, (2 * seed + 1) % (2 * N)),
        ring.truncate(x, 3),
        ring.extend(ring.truncate(x, 4), 2),
        *(part for pair in ring.transform([(x, y), (y, z)], [[z, None], [compact, x], [None, None]]) for part in pair),
    ]


def between_bases(c: Case, ring: Ring, seed: int) -> list[Any]:
    x, y = c.poly(ring, seed), c.poly(ring, seed + 1)
    low = c.poly(ring, seed, 4, 0)
    coefficients = np.rint(np.random.default_rng(seed).normal(size=N) * 2.0**44)
    return [
        ring.from_coefficients(coefficients, len(c.q), 1),
        ring.rescale(low),
        ring.mod_down(x),
        *ring.mod_down_pair((x, y), 1),
        ring.mod_down(c.poly(ring, seed, 3, 2), 1),
        ring.raise_modulus(ring.truncate(low, 1), len(c.q)),
    ]


def key_switches(c: Case, ring: Ring, seed: int) -> list[Any]:
    x = c.poly(ring, seed, None, 0)
    whole = ring.read_key(*c.key, len(c.q), len(c.p))
    less = ring.read_key(*c.key, 3, 2)
    assert (whole.digits, less.digits, less.q_limbs, less.p_limbs) == (3, 2, 3, 2)
    pairs = ring.switch(x, [whole, whole], [1, 5]) + ring.switch(ring.truncate(x, 3), [whole], [2 * N - 1])
    pairs += ring.switch(ring.truncate(x, 3), [less], [25]) + ring.switch(ring.truncate(x, 1), [less], [1])
    return [part for pair in pairs for part in pair]


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("operations", [pointwise, between_bases, key_switches])
@settings(max_examples=4)
@given(seed=st.integers(1, 2**20))
def test_twin_and_engine_give_the_same_residues(
    name: str, operations: Callable[[Case, Ring, int], list[Any]], seed: int
) -> None:
    c = case(name)
    for ours, theirs in zip(operations(c, c.twin, seed), operations(c, c.engine, seed), strict=True):
        assert (ours.q_limbs, ours.p_limbs, ours.run, ours.nbytes) == (
            theirs.q_limbs,
            theirs.p_limbs,
            theirs.run,
            theirs.nbytes,
        )
        assert (c.twin.residues(ours) == c.engine.residues(theirs)).all()


@pytest.mark.parametrize("name", CHAINS)
def test_both_write_the_same_bytes(name: str) -> None:
    c = case(name)
    written = []
    for ring in (c.twin, c.engine):
        out = bytearray(b"-" * (3 * 8 * N + 5))
        data = uniform(c.q[:2], 9).tobytes()
        ring.write(ring.read(b"abc" + data, [3, 3 + 8 * N], 2), out, [8 * N + 5, 1])
        written.append(bytes(out))
    assert written[0] == written[1]
    assert written[0][8 * N + 5 : 16 * N + 5] == uniform(c.q[:2], 9)[0].tobytes()


@pytest.mark.parametrize("kind", ["engine", "twin"])
def test_both_refuse_what_does_not_fit(kind: str) -> None:
    c = case("narrow")
    ring = getattr(c, kind)
    x = c.poly(ring, 1)
    low = c.poly(ring, 1, 3, 0)
    compact = ring.from_coefficients(np.ones(64), len(c.q), len(c.p))
    too_large = np.full((1, N), c.q[0][0], dtype=np.uint64)
    key = ring.read_key(*c.key, 2, 2)
    data, offsets = c.key
    for refused in (
        lambda: ring.add(x, low),
        lambda: ring.add(compact, compact),
        lambda: ring.multiply(x, low),
        lambda: ring.residues(compact),
        lambda: ring.from_residues(too_large),
        lambda: ring.read(too_large.tobytes(), [0], 1),
        lambda: ring.read(b"0" * 8 * N, [1], 1),
        lambda: ring.from_coefficients(np.ones(96), 1),
        lambda: ring.from_coefficients(np.full(64, 2.0**62), 1),
        lambda: ring.from_coefficients(np.full(64, math.nan), 1),
        lambda: ring.multiply_constants(low, [1, 2]),
        lambda: ring.add_constants(low, [0, 0, c.q[2][0]]),
        lambda: ring.multiply_monomial(low, 2 * N),
        lambda: ring.automorphism(low, 4),
        lambda: ring.truncate(low, 4),
        lambda: ring.extend(x, 1),
        lambda: ring.rescale(x),
        lambda: ring.rescale(ring.truncate(low, 1)),
        lambda: ring.mod_down(low),
        lambda: ring.raise_modulus(low, 2),
        lambda: ring.switch(low, [key], [1]),
        lambda: ring.switch(ring.truncate(low, 2), [key], [1, 5]),
        lambda: ring.transform([(x, x)], [[x, x]]),
        lambda: ring.transform([(x, low)], [[x]]),
        lambda: ring.read_key(data[: 8 * N], offsets, 2, 2),
        lambda: ring.read_key(data, offsets, 6, 2),
        lambda: ring.read_key(data, [offsets[0], offsets[1][:1]], 4, 2),
    ):
        with pytest.raises(ValueError, match=r"."):
            refused()
