"""The slow twin of the compiled engine, on NumPy: what the engine's kernels must compute, in a few lines each.

Same classes, methods and meanings as ``_engine.pyi``. Limb arithmetic, transforms, automorphisms, base conversion and
key switching agree with the compiled engine to the bit. Divisions round exactly here and in doubles there, so that
results may differ by one unit where a fraction is within 2^-40 of a half.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hetal.native.residues import Basis, Integers, Words, bit_reversal, convert, divide

Prime = tuple[int, int]
Buffer = bytes | bytearray | memoryview

MODULUS_BITS_MAX: Final = 60
TERMS_MAX: Final = 64
COMPACT_WORDS_MIN: Final = 64
COEFFICIENT_MAX: Final = 2.0**62


class Poly:
    """One polynomial; an array (limbs, N / run) of residues in evaluation form."""

    __slots__ = ("p_limbs", "q_limbs", "run", "words")

    def __init__(self, words: Words, q_limbs: int, p_limbs: int, run: int = 1) -> None:
        self.words = words
        self.q_limbs = q_limbs
        self.p_limbs = p_limbs
        self.run = run

    @property
    def nbytes(self) -> int:
        return 8 * self.words.shape[0] * self.words.shape[1]


class Key:
    """A key-switching key: arrays (digits, limbs, N) of its halves b and a."""

    __slots__ = ("a", "b", "p_limbs", "q_limbs")

    def __init__(self, b: Words, a: Words, q_limbs: int, p_limbs: int) -> None:
        self.b = b
        self.a = a
        self.q_limbs = q_limbs
        self.p_limbs = p_limbs

    @property
    def digits(self) -> int:
        return self.b.shape[0]

    @property
    def nbytes(self) -> int:
        return self.b.nbytes + self.a.nbytes


class Ring:
    """See ``_engine.pyi``. ``threads`` and ``variant`` are accepted and change nothing."""

    def __init__(
        self,
        log2_dimension: int,
        q: Sequence[Prime],
        p: Sequence[Prime],
        wire_p: Sequence[Prime],
        digit_limbs: int,
        threads: int = 1,
        variant: str = "auto",
    ) -> None:
        _require(10 <= log2_dimension <= 17, "log2 of the ring dimension must be 10 to 17")
        _require(1 <= len(q) <= TERMS_MAX and digit_limbs >= 1 and threads >= 1, "no such chain, digit or thread count")
        _require(variant in ("auto", *variants()), f"there is no instruction set {variant!r}")
        self.dimension = 1 << log2_dimension
        self.threads = threads
        self.variant = variants()[0]
        self._q_count, self._p_count, self._wire_count = len(q), len(p), len(wire_p)
        self._digit_limbs = digit_limbs
        self._order = bit_reversal(log2_dimension)
        primes = [*q, *p, *wire_p]
        moduli = [m for m, _ in primes]
        for modulus, root in primes:
            fits = 2 < modulus < 1 << MODULUS_BITS_MAX and pow(root, self.dimension, modulus) == modulus - 1
            _require(fits, f"modulus {modulus} with root {root} has no transform of size {self.dimension} below 2^60")
        powers: Words = np.ones((len(primes), 2 * self.dimension), dtype=np.uint64)
        self._all = Basis(moduli, powers, self._order)
        length = 1
        while length < 2 * self.dimension:
            step = self._all.constants([pow(root, length, m) for m, root in primes])
            powers[:, length : 2 * length] = self._all.multiply(powers[:, :length], step)
            length *= 2
        self._bases: dict[tuple[int, ...], Basis] = {}

    @property
    def pool_bytes(self) -> int:
        """None is held."""
        return 0

    # -- in and out ---------------------------------------------------------------------------------------------------

    def zeros(self, q_limbs: int, p_limbs: int = 0) -> Poly:
        self._counts(q_limbs, p_limbs)
        return Poly(np.zeros((q_limbs + p_limbs, self.dimension), dtype=np.uint64), q_limbs, p_limbs)

    def from_residues(self, residues: Words, p_limbs: int = 0) -> Poly:
        q_limbs = residues.shape[0] - p_limbs
        self._counts(q_limbs, p_limbs)
        _require(residues.shape[1] == self.dimension, "a limb has N residues")
        _require(bool((residues < self._basis(q_limbs, p_limbs).column).all()), "a residue is not below its modulus")
        return Poly(residues.astype(np.uint64), q_limbs, p_limbs)

    def residues(self, a: Poly) -> Words:
        _require(a.run == 1, "a compact polynomial cannot be written")
        return a.words.copy()

    def from_coefficients(self, coefficients: NDArray[np.float64], q_limbs: int, p_limbs: int = 0) -> Poly:
        size = coefficients.size
        power = COMPACT_WORDS_MIN <= size <= self.dimension and size & (size - 1) == 0
        _require(power, f"{size} coefficients; a power of two from {COMPACT_WORDS_MIN} to {self.dimension} is due")
        _require(bool((np.abs(coefficients) < COEFFICIENT_MAX).all()), "a coefficient is not below 2^62")
        self._counts(q_limbs, p_limbs)
        basis = self._basis(q_limbs, p_limbs)
        words = basis.forward(basis.reduce(np.rint(coefficients).astype(np.int64)))
        return Poly(words, q_limbs, p_limbs, self.dimension // size)

    def read(self, data: Buffer, offsets: Sequence[int], q_limbs: int) -> Poly:
        _require(len(offsets) == q_limbs, "one offset for each limb is needed")
        return self.from_residues(self._gather(data, offsets))

    def write(self, a: Poly, out: bytearray | memoryview, offsets: Sequence[int]) -> None:
        _require(a.run == 1, "a compact polynomial cannot be written")
        _require(len(offsets) == a.words.shape[0], "one offset for each limb is needed")
        view = memoryview(out)
        for offset, row in zip(offsets, a.words, strict=True):
            _require(0 <= offset <= len(view) - 8 * self.dimension, "a limb lies outside the buffer")
            view[offset : offset + 8 * self.dimension] = row.astype("<u8").tobytes()

    def read_key(self, data: Buffer, offsets: Sequence[Sequence[Sequence[int]]], q_limbs: int, p_limbs: int) -> Key:
        _require(1 <= q_limbs <= self._q_count and 1 <= p_limbs <= self._p_count, f"a key of {q_limbs} + {p_limbs}")
        digits = -(-q_limbs // self._digit_limbs)
        wires = self._wire_count or self._p_count
        _require(len(offsets) == 2 and all(len(half) >= digits for half in offsets), "the key has too few digits")
        # Positions among all moduli of what is kept, and of what arrived.
        special = [self._q_count + i for i in range(p_limbs)]
        start = self._q_count + (self._p_count if self._wire_count else 0)
        arrived = [*range(self._q_count), *range(start, start + wires)]
        halves = []
        for half in offsets:
            polys = []
            for digit in half[:digits]:
                _require(len(digit) == len(arrived), "a digit of the key has another number of limbs than its chain")
                words = self._gather(data, digit)
                _require(bool((words < self._select(arrived).column).all()), "a residue is not below its modulus")
                polys.append(self._switch_special(words, arrived, q_limbs, special))
            halves.append(np.stack(polys))
        return Key(halves[0], halves[1], q_limbs, p_limbs)

    def _switch_special(self, words: Words, arrived: list[int], q_limbs: int, special: list[int]) -> Words:
        """round(x * P / O) of x over Q * O, where what P and O share counts in neither."""
        place = {position: row for row, position in enumerate(arrived)}
        kept = [*range(q_limbs), *special]
        dropped = [i for i in arrived[self._q_count :] if i not in special]
        if not dropped:
            return words[[place[i] for i in kept]]
        factor = math.prod(self._all.moduli[i] for i in special if i not in place)
        divisor = math.prod(self._all.moduli[i] for i in dropped)
        sources, targets = self._select(dropped), self._select(kept)
        old = sources.multiply(
            sources.inverse(words[[place[i] for i in dropped]]), sources.constants([factor] * len(dropped))
        )
        value: Words = np.zeros((len(kept), self.dimension), dtype=np.uint64)
        for row, i in enumerate(kept):
            if i in place:
                value[row] = words[place[i]]
        value = targets.multiply(value, targets.constants([factor] * len(kept)))
        return divide(targets, value, targets.forward(convert(sources, old, targets, exact=True)), divisor)

    def _gather(self, data: Buffer, offsets: Sequence[int]) -> Words:
        view = memoryview(data)
        size = 8 * self.dimension
        _require(all(0 <= o <= len(view) - size for o in offsets), "a limb lies outside the object")
        return np.stack([np.frombuffer(view[o : o + size], dtype="<u8") for o in offsets]).astype(np.uint64)

    # -- limb by limb -------------------------------------------------------------------------------------------------

    def add(self, a: Poly, b: Poly) -> Poly:
        return self._like(a, self._same(a, b).add(a.words, b.words))

    def subtract(self, a: Poly, b: Poly) -> Poly:
        return self._like(a, self._same(a, b).subtract(a.words, b.words))

    def negate(self, a: Poly) -> Poly:
        basis = self._same(a)
        return self._like(a, basis.subtract(np.zeros_like(a.words), a.words))

    def multiply(self, a: Poly, b: Poly) -> Poly:
        return self._like(a, self._same(a).multiply(a.words, self._operand(a, b)))

    def dot(self, a: Sequence[Poly], b: Sequence[Poly]) -> Poly:
        _require(1 <= len(a) <= TERMS_MAX and len(a) == len(b), f"1 to {TERMS_MAX} pairs")
        basis = self._same(*a)
        total = np.zeros_like(a[0].words)
        for x, y in zip(a, b, strict=True):
            total = basis.add(total, basis.multiply(x.words, self._operand(x, y)))
        return self._like(a[0], total)

    def tensor(self, a: tuple[Poly, Poly], b: tuple[Poly, Poly]) -> tuple[Poly, Poly, Poly]:
        self._same(*a, *b)
        return self.multiply(a[0], b[0]), self.dot(a, b[::-1]), self.multiply(a[1], b[1])

    def multiply_constants(self, a: Poly, constants: Sequence[int]) -> Poly:
        return self._like(a, self._same(a).multiply(a.words, self._residues(a, constants)))

    def add_constants(self, a: Poly, constants: Sequence[int]) -> Poly:
        return self._like(a, self._same(a).add(a.words, self._residues(a, constants)))

    def multiply_monomial(self, a: Poly, exponent: int) -> Poly:
        _require(0 <= exponent < 2 * self.dimension, "an exponent below 2N is due")
        basis = self._same(a)
        return self._like(a, basis.multiply(a.words, basis.monomial(exponent)))

    def automorphism(self, a: Poly, index: int) -> Poly:
        self._same(a)
        return self._like(a, a.words[:, self._permutation(index)])

    def truncate(self, a: Poly, q_limbs: int) -> Poly:
        _require(1 <= q_limbs <= a.q_limbs, f"{q_limbs} limbs of {a.q_limbs}")
        return Poly(a.words[:q_limbs], q_limbs, 0, a.run)

    def extend(self, a: Poly, p_limbs: int) -> Poly:
        _require(a.p_limbs == 0 and p_limbs >= 1, "the polynomial must have no special limbs")
        self._counts(a.q_limbs, p_limbs)
        factor = math.prod(self._basis(0, p_limbs).moduli)
        basis = self._same(a)
        words = np.zeros((a.q_limbs + p_limbs, self.dimension), dtype=np.uint64)
        words[: a.q_limbs] = basis.multiply(a.words, basis.constants([factor] * a.q_limbs))
        return Poly(words, a.q_limbs, p_limbs)

    def adopt(self, a: Poly, source: Ring) -> Poly:
        shared = a.q_limbs == 1 and a.p_limbs == 0 and a.run == 1
        same = self._all.moduli[0] == source._all.moduli[0] and self.dimension == source.dimension
        same = same and bool((self._all._powers[0] == source._all._powers[0]).all())
        _require(shared and same, "one limb modulo the first prime of both rings is due")
        return a

    # -- between bases ------------------------------------------------------------------------------------------------

    def rescale(self, a: Poly) -> Poly:
        _require(a.p_limbs == 0, "rescale takes a polynomial without special limbs")
        return self._divided(a, 1)

    def mod_down(self, a: Poly, drop: int = 0) -> Poly:
        _require(a.p_limbs > 0, "mod_down takes a polynomial with special limbs")
        return self._divided(a, drop)

    def mod_down_pair(self, pair: tuple[Poly, Poly], drop: int = 0) -> tuple[Poly, Poly]:
        self._same(*pair)
        return self.mod_down(pair[0], drop), self.mod_down(pair[1], drop)

    def _divided(self, a: Poly, drop: int) -> Poly:
        left = a.q_limbs - drop
        _require(left >= 1 and drop in (0, 1), f"a polynomial of {a.q_limbs} limbs cannot drop {drop}")
        whole = self._same(a)
        sources = whole.select(range(left, a.q_limbs + a.p_limbs))
        targets = self._basis(left, 0)
        rest = convert(sources, sources.inverse(a.words[left:]), targets, exact=True)
        words = divide(targets, a.words[:left], targets.forward(rest), math.prod(sources.moduli))
        return Poly(words, left, 0)

    def raise_modulus(self, a: Poly, q_limbs: int) -> Poly:
        basis = self._same(a)
        _require(a.q_limbs == 1 and a.p_limbs == 0, "the modulus is raised from one limb")
        self._counts(q_limbs, 0)
        targets = self._basis(q_limbs, 0)
        return Poly(targets.forward(targets.reduce(basis.centred(basis.inverse(a.words)))), q_limbs, 0)

    def switch(
        self,
        a: Poly,
        keys: Sequence[Key],
        indices: Sequence[int],
        before: tuple[Poly | None, Poly | None] | None = None,
        after: Sequence[tuple[Poly, Poly]] | None = None,
    ) -> list[tuple[Poly, Poly]]:
        _require(a.p_limbs == 0, "the polynomial must have no special limbs")
        _require(len(keys) == len(indices), "one automorphism for each key is needed")
        basis = self._same(a)
        if not keys:
            return []
        p_limbs = keys[0].p_limbs
        for key in keys:
            fits = key.p_limbs == p_limbs and key.q_limbs >= a.q_limbs
            _require(fits, f"a key of {key.q_limbs} + {key.p_limbs} limbs for a polynomial of {a.q_limbs}")
        targets = self._basis(a.q_limbs, p_limbs)
        coefficients = basis.inverse(a.words)
        digits = []
        for begin in range(0, a.q_limbs, self._digit_limbs):
            own = range(begin, min(a.q_limbs, begin + self._digit_limbs))
            digit = targets.forward(convert(basis.select(own), coefficients[own], targets, exact=False))
            digit[own] = a.words[own]
            digits.append(digit)
        _require(after is None or len(after) == len(keys), "one addend for each key is needed")
        addends = [self._extended(x, a.q_limbs, p_limbs) for x in before or (None, None)]
        results = []
        for number, (key, index) in enumerate(zip(keys, indices, strict=True)):
            rows = [*range(a.q_limbs), *range(key.q_limbs, key.q_limbs + p_limbs)]
            pair = []
            for part, half in enumerate((key.b, key.a)):
                total = np.zeros_like(digits[0])
                for digit, words in zip(digits, half, strict=False):
                    total = targets.add(total, targets.multiply(digit, words[rows]))
                addend = addends[part]
                if addend is not None:
                    total = targets.add(total, addend.words)
                moved = Poly(total[:, self._permutation(index)], a.q_limbs, p_limbs)
                pair.append(self.add(moved, after[number][part]) if after is not None else moved)
            results.append((pair[0], pair[1]))
        return results

    def _extended(self, a: Poly | None, q_limbs: int, p_limbs: int) -> Poly | None:
        """Over Q and P: as it is, or P times a polynomial over Q alone."""
        if a is None:
            return None
        _require(a.q_limbs == q_limbs and a.p_limbs in (0, p_limbs), f"an addend of {a.q_limbs} + {a.p_limbs} limbs")
        return a if a.p_limbs else self.extend(a, p_limbs)

    def transform(
        self, parts: Sequence[tuple[Poly, Poly]], diagonals: Sequence[Sequence[Poly | None]]
    ) -> list[tuple[Poly, Poly]]:
        _require(1 <= len(parts) <= TERMS_MAX, f"1 to {TERMS_MAX} terms are possible")
        self._same(*(half for pair in parts for half in pair))
        results = []
        for row in diagonals:
            _require(len(row) == len(parts), "a row of diagonals has another length than there are parts")
            terms = [(pair, d) for pair, d in zip(parts, row, strict=True) if d is not None]
            if not terms:
                first = parts[0][0]
                results.append((self.zeros(first.q_limbs, first.p_limbs), self.zeros(first.q_limbs, first.p_limbs)))
                continue
            factors = [d for _, d in terms]
            results.append(
                (self.dot([x for (x, _), _ in terms], factors), self.dot([y for (_, y), _ in terms], factors))
            )
        return results

    # -- shapes -------------------------------------------------------------------------------------------------------

    def _counts(self, q_limbs: int, p_limbs: int) -> None:
        fits = 0 <= q_limbs <= self._q_count and 0 <= p_limbs <= self._p_count and q_limbs + p_limbs >= 1
        _require(fits, f"{q_limbs} + {p_limbs} limbs where the chain has {self._q_count} + {self._p_count}")

    def _select(self, positions: Sequence[int]) -> Basis:
        key = tuple(positions)
        if key not in self._bases:
            self._bases[key] = self._all.select(positions)
        return self._bases[key]

    def _basis(self, q_limbs: int, p_limbs: int) -> Basis:
        return self._select([*range(q_limbs), *range(self._q_count, self._q_count + p_limbs)])

    def _same(self, *polys: Poly) -> Basis:
        """The basis of polynomials of one shape, none of them compact."""
        first = polys[0]
        for a in polys:
            same = (a.q_limbs, a.p_limbs, a.run) == (first.q_limbs, first.p_limbs, 1)
            _require(same, f"operands of {first.q_limbs} + {first.p_limbs} and {a.q_limbs} + {a.p_limbs} limbs")
        return self._basis(first.q_limbs, first.p_limbs)

    def _operand(self, a: Poly, b: Poly) -> Words:
        """The residues of b that are multiplied with a's."""
        fits = b.q_limbs >= a.q_limbs and b.p_limbs >= a.p_limbs
        _require(fits, f"a factor of {b.q_limbs} + {b.p_limbs} limbs for a polynomial of {a.q_limbs} + {a.p_limbs}")
        rows = [*range(a.q_limbs), *range(b.q_limbs, b.q_limbs + a.p_limbs)]
        return np.repeat(b.words[rows], b.run, axis=1)

    def _residues(self, a: Poly, constants: Sequence[int]) -> Words:
        basis = self._same(a)
        _require(len(constants) == len(basis.moduli), "one constant for each limb is needed")
        below = all(0 <= c < m for c, m in zip(constants, basis.moduli, strict=True))
        _require(below, "a constant is not below its modulus")
        return basis.constants(constants)

    @staticmethod
    def _like(a: Poly, words: Words) -> Poly:
        return Poly(words, a.q_limbs, a.p_limbs)

    def _permutation(self, index: int) -> Integers:
        _require(0 < index < 2 * self.dimension and index % 2 == 1, f"automorphism {index}")
        places: Integers = self._order[((2 * self._order + 1) * index % (2 * self.dimension)) >> 1]
        return places


def variants() -> list[str]:
    return ["reference"]


def set_sequential(on: bool) -> None:
    """No operation here has threads."""


def forward_ntt(ring: Ring, coefficients: Words, limb: int) -> Words:
    """One limb from coefficients to evaluation form (limb counts Q, then P)."""
    values: Words = ring._select([limb]).forward(coefficients.reshape(1, -1))[0]
    return values


def inverse_ntt(ring: Ring, values: Words, limb: int) -> Words:
    coefficients: Words = ring._select([limb]).inverse(values.reshape(1, -1))[0]
    return coefficients


def _require(condition: Any, message: str) -> None:
    if not condition:
        raise ValueError(message)
