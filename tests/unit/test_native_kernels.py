"""The engine's kernels against big integers: transforms, limb arithmetic, divisions, base conversion, key switching."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hetal.ckks.primes import least_root, prime_below
from hetal.native import load_engine

engine = load_engine()
Array = NDArray[Any]
Prime = tuple[int, int]


@functools.cache
def primes(bits: int, count: int, log2_dimension: int, skip: int = 0) -> tuple[Prime, ...]:
    """The largest primes of that many bits, after the first ``skip``, with roots."""
    order = 2 << log2_dimension
    found: list[Prime] = []
    at = (1 << bits) + 1
    for _ in range(skip + count):
        at = prime_below(at, order)
        found.append((at, least_root(at, order)))
    return tuple(found[skip:])


def reversed_bits(log2_dimension: int) -> Array:
    index = np.arange(1 << log2_dimension)
    result = np.zeros_like(index)
    for _ in range(log2_dimension):
        result = (result << 1) | (index & 1)
        index >>= 1
    return result


def evaluate(coefficients: Array, prime: Prime, positions: Array, log2_dimension: int) -> Array:
    """Values of the polynomial at psi^(2 bitrev(i) + 1), by Horner's rule in Python's integers."""
    modulus, root = prime
    points = [pow(root, 2 * int(r) + 1, modulus) for r in reversed_bits(log2_dimension)[positions]]
    values = []
    for point in points:
        value = 0
        for c in reversed(coefficients.tolist()):
            value = (value * point + c) % modulus
        values.append(value)
    return np.array(values, dtype=np.uint64)


def uniform(moduli: list[int], dimension: int, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(0, m, dimension, dtype=np.uint64) for m in moduli])


def exact(residues: Array) -> Array:
    return residues.astype(object)


@pytest.fixture(params=engine.variants())
def variant(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("bits", [20, 45, 49, 50, 51, 60])
@pytest.mark.parametrize("log2_dimension", [10, 11, 13, 14, 16])
def test_a_transform_evaluates_at_the_roots_in_openfhes_order(variant: str, bits: int, log2_dimension: int) -> None:
    if bits == 20 and log2_dimension > 13:
        pytest.skip("there is no such prime")
    prime = primes(bits, 1, log2_dimension)[0]
    ring = engine.Ring(log2_dimension, [prime], [], [], 1, 1, variant)
    coefficients = uniform([prime[0]], 1 << log2_dimension)[0]
    values = engine.forward_ntt(ring, coefficients, 0)
    positions = np.random.default_rng(1).integers(0, 1 << log2_dimension, 3)
    assert (values[positions] == evaluate(coefficients, prime, positions, log2_dimension)).all()
    assert (engine.inverse_ntt(ring, values, 0) == coefficients).all()


@pytest.mark.parametrize("bits", [49, 50, 60])
def test_a_transform_of_extreme_residues_is_exact(variant: str, bits: int) -> None:
    """Constant sign and size drive the lazy sums to their bounds."""
    log2_dimension = 16
    prime = primes(bits, 1, log2_dimension)[0]
    ring = engine.Ring(log2_dimension, [prime], [], [], 1, 1, variant)
    half = prime[0] // 2
    for word in (half, half + 1, prime[0] - 1):
        coefficients = np.full(1 << log2_dimension, word, dtype=np.uint64)
        values = engine.forward_ntt(ring, coefficients, 0)
        assert (engine.inverse_ntt(ring, values, 0) == coefficients).all()
        # A constant sequence c has the value c * (1 - x^N) / (1 - x) = 2c / (1 - x) at every root x.
        points = [pow(prime[1], 2 * int(r) + 1, prime[0]) for r in reversed_bits(log2_dimension)[:50]]
        due = [2 * word * pow(1 - x, -1, prime[0]) % prime[0] for x in points]
        assert values[:50].tolist() == due


CHAINS = {"narrow": (45, 49), "tight": (50, 49), "wide": (55, 49), "wide specials": (45, 60)}


def chain(name: str, log2_dimension: int = 10) -> tuple[list[Prime], list[Prime]]:
    q_bits, p_bits = CHAINS[name]
    first = primes(51 if name == "narrow" else q_bits, 1, log2_dimension, skip=9)
    q = [*(first if name == "wide" else primes(49, 1, log2_dimension)), *primes(q_bits, 4, log2_dimension)]
    return q, list(primes(p_bits, 4, log2_dimension, skip=1))


@settings(max_examples=30, deadline=None)
@given(name=st.sampled_from(sorted(CHAINS)), variant=st.sampled_from(engine.variants()), seed=st.integers(0, 2**32))
def test_limb_arithmetic_is_that_of_integers(name: str, variant: str, seed: int) -> None:
    q, p = chain(name)
    moduli = [m for m, _ in q + p]
    ring = engine.Ring(10, q, p, [], 2, 2, variant)
    x, y, z, w = (uniform(moduli, 1024, seed + i) for i in range(4))
    a, b, c, d = (ring.from_residues(v, len(p)) for v in (x, y, z, w))
    column = np.array(moduli, dtype=object)[:, None]

    def check(poly: Any, due: Array) -> None:
        assert (exact(ring.residues(poly)) == due % column).all()

    check(a, exact(x))
    check(ring.add(a, b), exact(x) + exact(y))
    check(ring.subtract(a, b), exact(x) - exact(y))
    check(ring.negate(a), -exact(x))
    check(ring.multiply(a, b), exact(x) * exact(y))
    check(ring.dot([a, b, a], [c, d, d]), exact(x) * exact(z) + exact(y) * exact(w) + exact(x) * exact(w))
    constants = [int(v) for v in z[:, 0]]
    check(ring.multiply_constants(a, constants), exact(x) * exact(z[:, :1]))
    check(ring.add_constants(a, constants), exact(x) + exact(z[:, :1]))
    products = ring.tensor((a, b), (c, d))
    check(products[0], exact(x) * exact(z))
    check(products[1], exact(x) * exact(w) + exact(y) * exact(z))
    check(products[2], exact(y) * exact(w))
    rows = ring.transform([(a, b), (c, d)], [[b, None], [a, c]])
    check(rows[0][0], exact(x) * exact(y))
    check(rows[0][1], exact(y) * exact(y))
    check(rows[1][0], exact(x) * exact(x) + exact(z) * exact(z))
    check(rows[1][1], exact(y) * exact(x) + exact(w) * exact(z))


@pytest.mark.parametrize("name", sorted(CHAINS))
def test_monomials_and_automorphisms_act_on_coefficients(variant: str, name: str) -> None:
    q, _ = chain(name)
    n = 1024
    ring = engine.Ring(10, q, [], [], 2, 1, variant)
    rng = np.random.default_rng(2)
    coefficients = np.round(rng.normal(size=n) * 2.0**44)
    a = ring.from_coefficients(coefficients, len(q))
    for exponent in (0, 1, 512, 1023, 1024, 1500, 2047):
        sign = np.where(np.arange(n) < exponent % n, -1, 1) * (-1 if exponent >= n else 1)
        due = ring.from_coefficients(np.roll(coefficients, exponent % n) * sign, len(q))
        assert (ring.residues(ring.multiply_monomial(a, exponent)) == ring.residues(due)).all()
    for index in (1, 5, 25, 2047, 1025):
        image = np.zeros(n)
        power = np.arange(n) * index % (2 * n)
        image[power % n] = coefficients * np.where(power < n, 1, -1)
        due = ring.from_coefficients(image, len(q))
        assert (ring.residues(ring.automorphism(a, index)) == ring.residues(due)).all()


@pytest.mark.parametrize("name", sorted(CHAINS))
@pytest.mark.parametrize("size", [64, 128, 512])
def test_compact_polynomials_are_the_whole_ones(variant: str, name: str, size: int) -> None:
    q, p = chain(name)
    ring = engine.Ring(10, q, p, [], 2, 1, variant)
    small = np.round(np.random.default_rng(3).normal(size=size) * 2.0**40)
    whole = np.zeros(1024)
    whole[:: 1024 // size] = small
    compact = ring.from_coefficients(small, len(q), len(p))
    full = ring.from_coefficients(whole, len(q), len(p))
    assert compact.run == 1024 // size and compact.nbytes * compact.run == full.nbytes
    a = ring.from_residues(uniform([m for m, _ in q + p], 1024), len(p))
    assert (ring.residues(ring.multiply(a, compact)) == ring.residues(ring.multiply(a, full))).all()
    pair = [(a, a)]
    got, due = ring.transform(pair, [[compact]])[0][0], ring.transform(pair, [[full]])[0][0]
    assert (ring.residues(got) == ring.residues(due)).all()


def coefficients_of(ring: Any, poly: Any, moduli: list[int]) -> list[int]:
    """Centred coefficients of a polynomial, by the Chinese remainder theorem."""
    residues = ring.residues(poly)
    product = math.prod(moduli)
    total = np.zeros(ring.dimension, dtype=object)
    for i, modulus in enumerate(moduli):
        rest = product // modulus
        column = exact(engine.inverse_ntt(ring, residues[i], i))
        total = (total + column * (rest * pow(rest, -1, modulus))) % product
    return [int(v) - product if v > product // 2 else int(v) for v in total]


@pytest.mark.parametrize("name", sorted(CHAINS))
@pytest.mark.parametrize("drop", [0, 1])
def test_a_division_rounds_exactly(variant: str, name: str, drop: int) -> None:
    q, p = chain(name)
    ring = engine.Ring(10, q, p, [], 2, 2, variant)
    moduli = [m for m, _ in q + p]
    a = ring.from_residues(uniform(moduli, 1024, 7), len(p))
    divisor = math.prod(m for m, _ in p) * (q[-1][0] if drop else 1)
    kept = [m for m, _ in q[: len(q) - drop]]
    before = coefficients_of(ring, a, moduli)
    after = coefficients_of(ring, ring.mod_down(a, drop), kept)
    modulus = math.prod(kept)
    # Rounding happens in doubles: where the fraction is within 2^-45 of a half, either neighbour may come out.
    for x, y in zip(before, after, strict=True):
        assert abs((x - y * divisor + divisor * modulus // 2) % (divisor * modulus) - divisor * modulus // 2) <= (
            divisor // 2 + (divisor >> 40)
        )
    pair = ring.mod_down_pair((a, a), drop)
    assert (ring.residues(pair[1]) == ring.residues(ring.mod_down(a, drop))).all()


@pytest.mark.parametrize("name", sorted(CHAINS))
def test_rescaling_and_raising(variant: str, name: str) -> None:
    q, _ = chain(name)
    ring = engine.Ring(10, q, [], [], 2, 1, variant)
    moduli = [m for m, _ in q]
    a = ring.from_residues(uniform(moduli, 1024, 8))
    last, modulus = moduli[-1], math.prod(moduli[:-1])
    for x, y in zip(coefficients_of(ring, a, moduli), coefficients_of(ring, ring.rescale(a), moduli[:-1]), strict=True):
        assert (y * last - x + last // 2) % (modulus * last) <= last
    low = ring.truncate(a, 1)
    raised = ring.raise_modulus(low, len(q))
    assert coefficients_of(ring, raised, moduli) == coefficients_of(ring, low, moduli[:1])


# -- key switching -----------------------------------------------------------------------------------------------------


class SwitchCase:
    """Secrets, and a key from one to the other as wire bytes, over ``wire`` special primes."""

    def __init__(self, q: list[Prime], wire: list[Prime], digit_limbs: int) -> None:
        self.q, self.digit_limbs = q, digit_limbs
        self.ring = engine.Ring(10, [*q, *wire], [], [], digit_limbs, 1)
        moduli = [m for m, _ in (*q, *wire)]
        special = math.prod(m for m, _ in wire)
        rng = np.random.default_rng(11)
        self.old, self.new = rng.integers(-1, 2, (2, 1024))
        old, new = self.values(self.old, len(moduli)), self.values(self.new, len(moduli))
        column = np.array(moduli, dtype=object)[:, None]
        self.data = bytearray()
        self.offsets: list[list[list[int]]] = [[], []]
        for digit in range(-(-len(q) // digit_limbs)):
            a = exact(uniform(moduli, 1024, 100 + digit))
            b = (self.values(rng.integers(-9, 10, 1024), len(moduli)) - a * new) % column
            limbs = range(digit * digit_limbs, min(len(q), (digit + 1) * digit_limbs))
            for i in limbs:
                b[i] = (b[i] + special * old[i]) % moduli[i]
            for half, part in ((0, b), (1, a)):
                self.offsets[half].append([len(self.data) + 1 + 8 * 1024 * i for i in range(len(moduli))])
                # An odd address, as in a serialised object.
                self.data += b"x" + part.astype(np.uint64).tobytes() + b"y" * (digit % 3)

    def values(self, coefficients: Array, limbs: int) -> Array:
        poly = self.ring.from_coefficients(coefficients.astype(np.float64), limbs)
        return exact(self.ring.residues(poly))

    def noise(self, ring: Any, key: Any, q_limbs: int, index: int) -> tuple[int, bool]:
        """Largest coefficient of the switched polynomial's error, and whether all limbs agree on it."""
        moduli = [m for m, _ in self.q[:q_limbs]]
        a = ring.from_residues(uniform(moduli, 1024, 5))
        (pair,) = ring.switch(a, [key], [index])
        b, x = (exact(ring.residues(part)) for part in ring.mod_down_pair(pair))
        image = exact(ring.residues(ring.automorphism(a, index)))
        power = np.arange(1024) * index % 2048
        moved = np.zeros((2, 1024))
        moved[:, power % 1024] = np.stack([self.old, self.new]) * np.where(power < 1024, 1, -1)
        old, new = (self.values(row, q_limbs) for row in moved)
        column = np.array(moduli, dtype=object)[:, None]
        error = (b + x * new - image * old) % column
        rows = [
            [v - m if v > m // 2 else v for v in map(int, engine.inverse_ntt(ring, error[i].astype(np.uint64), i))]
            for i, m in enumerate(moduli)
        ]
        return max(map(abs, rows[0])), all(row == rows[0] for row in rows)


@functools.cache
def switch_case(name: str, wire_bits: int) -> SwitchCase:
    q, _ = chain(name)
    return SwitchCase(q, list(primes(wire_bits, 4, 10, skip=20)), 2)


# Rounding to integers leaves |e| < 30 with a uniformly ternary secret of 1024 coefficients; the key's own noise less.
NOISE_MAX = 60


@pytest.mark.parametrize("name", ["narrow", "tight", "wide"])
@pytest.mark.parametrize("index", [1, 5, 2047])
def test_a_key_switch_adds_rounding_noise_alone(variant: str, name: str, index: int) -> None:
    case = switch_case(name, 60)
    p = list(primes(49, 3, 10, skip=1))
    ring = engine.Ring(10, case.q, p, list(primes(60, 4, 10, skip=20)), 2, 2, variant)
    key = ring.read_key(case.data, case.offsets, 5, 3)
    assert (key.q_limbs, key.p_limbs, key.digits) == (5, 3, 3)
    for q_limbs in (5, 4, 1):
        noise, consistent = case.noise(ring, key, q_limbs, index)
        assert consistent and noise <= NOISE_MAX


@pytest.mark.parametrize(("q_limbs", "p_limbs"), [(5, 3), (2, 3), (1, 2)])
def test_a_key_may_be_kept_for_few_limbs(variant: str, q_limbs: int, p_limbs: int) -> None:
    for wire, p in (
        (list(primes(60, 4, 10, skip=20)), list(primes(49, 3, 10, skip=1))),
        ([], list(primes(49, 4, 10, skip=20))),
    ):
        case = switch_case("narrow", 60 if wire else 49)
        ring = engine.Ring(10, case.q, p, wire, 2, 2, variant)
        key = ring.read_key(case.data, case.offsets, q_limbs, p_limbs)
        assert key.digits == -(-q_limbs // 2)
        noise, consistent = case.noise(ring, key, q_limbs, 5)
        assert consistent and noise <= NOISE_MAX


def test_wide_special_primes_work_without_a_switch_of_keys(variant: str) -> None:
    case = switch_case("narrow", 60)
    ring = engine.Ring(10, case.q, list(primes(60, 4, 10, skip=20)), [], 2, 2, variant)
    noise, consistent = case.noise(ring, ring.read_key(case.data, case.offsets, 5, 4), 5, 5)
    assert consistent and noise <= NOISE_MAX


def test_hoisted_switches_are_single_ones(variant: str) -> None:
    case = switch_case("narrow", 60)
    ring = engine.Ring(10, case.q, list(primes(49, 3, 10, skip=1)), list(primes(60, 4, 10, skip=20)), 2, 2, variant)
    key = ring.read_key(case.data, case.offsets, 5, 3)
    a = ring.from_residues(uniform([m for m, _ in case.q], 1024))
    together = ring.switch(a, [key] * 3, [1, 5, 25])
    for pair, index in zip(together, (1, 5, 25), strict=True):
        (alone,) = ring.switch(a, [key], [index])
        for x, y in zip(pair, alone, strict=True):
            assert (ring.residues(x) == ring.residues(y)).all()


def test_all_instruction_sets_and_thread_counts_give_the_same_residues() -> None:
    results = []
    for name in ("narrow", "tight", "wide"):
        case = switch_case(name, 60)
        for variant in engine.variants():
            for threads in (1, 3):
                wire = list(primes(60, 4, 10, skip=20))
                ring = engine.Ring(10, case.q, list(primes(49, 3, 10, skip=1)), wire, 2, threads, variant)
                key = ring.read_key(case.data, case.offsets, 5, 3)
                a = ring.from_residues(uniform([m for m, _ in case.q], 1024))
                (pair,) = ring.switch(a, [key], [5])
                down = ring.mod_down_pair(pair, 1)
                results.append((name, [ring.residues(part) for part in (*pair, *down)]))
    for name, residues in results:
        first = next(r for n, r in results if n == name)
        assert all((x == y).all() for x, y in zip(residues, first, strict=True))


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused() -> None:
    q, p = chain("narrow")
    ring = engine.Ring(10, q, p, [], 2)
    a = ring.zeros(3)
    full = 8 * 1024
    for refused in (
        lambda: engine.Ring(9, q, p, [], 2),
        lambda: engine.Ring(10, [(15, 2)], p, [], 2),
        lambda: engine.Ring(10, [(q[0][0], 3)], p, [], 2),
        lambda: engine.Ring(10, q, p, [], 0),
        lambda: engine.Ring(10, q, p, [], 2, 0),
        lambda: engine.Ring(10, q, p, [], 2, 1, "sse9"),
        lambda: ring.zeros(6),
        lambda: ring.add(a, ring.zeros(2)),
        lambda: ring.add_constants(a, [0, 0, q[2][0]]),
        lambda: ring.multiply(a, ring.zeros(2)),
        lambda: ring.truncate(a, 4),
        lambda: ring.mod_down(a),
        lambda: ring.rescale(ring.zeros(1)),
        lambda: ring.automorphism(a, 2),
        lambda: ring.multiply_monomial(a, 2048),
        lambda: ring.from_coefficients(np.zeros(100), 1),
        lambda: ring.from_coefficients(np.full(1024, np.nan), 1),
        lambda: ring.from_coefficients(np.full(1024, 2.0**62), 1),
        lambda: ring.read(b"", [0], 1),
        lambda: ring.read(b"\0" * full, [1], 1),
        lambda: ring.read(b"\xff" * full, [0], 1),
        lambda: ring.from_residues(np.full((1, 1024), q[0][0], dtype=np.uint64)),
        lambda: ring.read_key(b"", [[], []], 5, 4),
        lambda: ring.transform([], []),
        lambda: ring.dot([a], []),
    ):
        with pytest.raises(ValueError, match=r"."):
            refused()
