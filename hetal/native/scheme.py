"""CKKS on an engine's polynomials: ciphertexts with scales and levels, and the operations on them.

Scales are those of OpenFHE's FLEXIBLEAUTO (Kim-Papadimitriou-Polyakov, CT-RSA 2022, section 4): each number of limbs
has a canonical scale; a product has the square of its operands' scale and degree 2 until it is rescaled, which happens
as late as possible. The level is the number of limbs less the degree. Operands of different levels meet at the lower
one, after a product with the ratio of their scales that makes the scale of the higher one canonical there.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hetal.ckks.chain import Chain
from hetal.errors import LevelError, MissingKeyError, NotFiniteError, ScaleError
from hetal.native.plaintexts import PlaintextCache

# Relative difference of scales that addition takes for equal: below any noise of the scheme.
SCALE_TOLERANCE: Final = 2.0**-34
# Of one sum of products in the engine, and of its smallest compact polynomial.
TERMS_MAX: Final = 64
COMPACT_WORDS: Final = 64
PAIRS_MAX: Final = TERMS_MAX // 2

Poly = Any
Key = Any


@dataclass(frozen=True, slots=True)
class Ct:
    """A ciphertext (c_0, c_1[, c_2]) with c_0 + c_1 s + c_2 s^2 = scale * message + noise.

    Attributes:
        parts: 2 polynomials, or 3 before relinearisation.
        scale: of the message.
        degree: 1, or 2 while a rescaling is pending.
    """

    parts: tuple[Poly, ...]
    scale: float
    degree: int = 1

    @property
    def limbs(self) -> int:
        return int(self.parts[0].q_limbs)

    @property
    def level(self) -> int:
        """Rescalings left."""
        return self.limbs - self.degree


class Scheme:
    """Operations under one chain of moduli, and the keys for them.

    Args:
        ring: an engine's Ring over the chain.
        chain: of the parameters.

    Attributes:
        relinearization: key from s^2 to s; None until it is set.
        automorphisms: keys by automorphism index (5^k mod 2N for a rotation by k slots, 2N-1 for the conjugation); of
            several the one that serves the most limbs. At 2N-2, where the secret is encapsulated, the key from the
            sparse ephemeral secret back.
        reduced: further keys, for fewer limbs, ascending.
        encapsulation: the key to that secret, with its ring over the first modulus and auxiliary primes.
    """

    def __init__(self, ring: Any, chain: Chain) -> None:
        self.ring = ring
        self.chain = chain
        self.moduli = chain.moduli
        self.slots = chain.ring_dimension // 2
        self.relinearization: Key | None = None
        self.automorphisms: dict[int, Key] = {}
        self.reduced: dict[int, list[Key]] = {}
        self.encapsulation: tuple[Any, Key] | None = None
        self.plaintexts = PlaintextCache(ring, self.moduli)

    # -- scales -------------------------------------------------------------------------------------------------------

    def canonical_scale(self, limbs: int, degree: int = 1) -> float:
        """The scale of a ciphertext of that many limbs."""
        scale = self.chain.scales[len(self.moduli) - limbs]
        return scale if degree == 1 else scale * scale

    def settle(self, a: Ct) -> Ct:
        """With the pending rescaling done: of degree 1, at the same level."""
        if a.degree == 1:
            return a
        scale = a.scale / float(self.moduli[a.limbs - 1])
        return Ct(self.each("rescale", a.parts), scale, 1)

    def drop(self, a: Ct, level: int) -> Ct:
        """At a lower level, with the canonical scale there and a rescaling pending.

        Raises:
            LevelError: ``level`` is not below the ciphertext's.
        """
        if not 0 <= level < a.level:
            raise LevelError(f"a ciphertext at level {a.level} cannot drop to level {level}")
        limbs = level + 2
        target = self.canonical_scale(limbs, 2)
        # Of a pending rescaling and this product one is done, after limbs that nobody needs are gone.
        product = limbs + a.degree - 1
        divisor = float(self.moduli[product - 1]) if a.degree == 2 else 1.0
        factor = round(target * divisor / a.scale)
        parts = self._times([self.ring.truncate(part, product) for part in a.parts], factor)
        return Ct(self.each("rescale", parts) if a.degree == 2 else parts, target, 2)

    def align(self, a: Ct, b: Ct) -> tuple[Ct, Ct]:
        """Both at the lower of their levels, with the same limbs, degree and scale.

        Raises:
            ScaleError: they have different scales at the same level.
        """
        if a.level > b.level:
            a = self.drop(a, b.level)
        elif b.level > a.level:
            b = self.drop(b, a.level)
        if a.degree != b.degree:
            a, b = self.settle(a), self.settle(b)
        if abs(a.scale / b.scale - 1.0) > SCALE_TOLERANCE:
            raise ScaleError(f"scales {a.scale!r} and {b.scale!r} of operands at level {a.level}")
        return a, b

    # -- free operations ----------------------------------------------------------------------------------------------

    def add(self, a: Ct, b: Ct) -> Ct:
        a, b = self.align(a, b)
        shared = self.each("add", a.parts, b.parts)
        longer = a if len(a.parts) > len(b.parts) else b
        return Ct((*shared, *longer.parts[len(shared) :]), a.scale, a.degree)

    def subtract(self, a: Ct, b: Ct) -> Ct:
        a, b = self.align(a, b)
        shared = self.each("subtract", a.parts, b.parts)
        rest = a.parts[len(shared) :] or self.each("negate", b.parts[len(shared) :])
        return Ct((*shared, *rest), a.scale, a.degree)

    def negate(self, a: Ct) -> Ct:
        return Ct(self.each("negate", a.parts), a.scale, a.degree)

    def add_plain(self, a: Ct, vector: NDArray[Any]) -> Ct:
        """Adds a vector of slots."""
        encoded = self.plaintexts.encode(vector, a.limbs, a.scale, compact=False)
        return Ct((self.ring.add(a.parts[0], encoded), *a.parts[1:]), a.scale, a.degree)

    def add_constant(self, a: Ct, value: float) -> Ct:
        """Adds a real number to all slots."""
        added = self.ring.add_constants(a.parts[0], self._residues(_integer(value * a.scale), a.limbs))
        return Ct((added, *a.parts[1:]), a.scale, a.degree)

    def multiply_integer(self, a: Ct, factor: int) -> Ct:
        """The scale stays."""
        return Ct(self._times(a.parts, factor), a.scale, a.degree)

    def multiply_monomial(self, a: Ct, exponent: int) -> Ct:
        """Times X^exponent, 0 <= exponent < 2N: slot j times zeta^(exponent * 5^j)."""
        return Ct(self.each("multiply_monomial", a.parts, [exponent] * len(a.parts)), a.scale, a.degree)

    # -- products: one level ------------------------------------------------------------------------------------------

    def tensor(self, a: Ct, b: Ct) -> Ct:
        """The product of two-part ciphertexts, of three parts, rescaling pending."""
        if a.level > b.level:
            a = self.drop(a, b.level)
        elif b.level > a.level:
            b = self.drop(b, a.level)
        a, b = self._spendable(a), self._spendable(b)
        first, second = (a.parts[0], a.parts[1]), (b.parts[0], b.parts[1])
        return Ct(tuple(self.ring.tensor(first, second)), a.scale * b.scale, 2)

    def inner_product(self, a: Sequence[Ct], b: Sequence[Ct]) -> Ct:
        """The sum of products of two-part ciphertexts, of three parts, rescaling pending, in one pass over them.

        Raises:
            LevelError: an operand has no level left.
        """
        level = min(ct.level for ct in (*a, *b))
        xs, ys = ([self._spendable(self.drop(ct, level) if ct.level > level else ct) for ct in cts] for cts in (a, b))
        sums = [self._products(xs[at : at + PAIRS_MAX], ys[at : at + PAIRS_MAX]) for at in range(0, len(xs), PAIRS_MAX)]
        parts = tuple(functools.reduce(self.ring.add, part) for part in zip(*sums, strict=True))
        return Ct(parts, xs[0].scale * ys[0].scale, 2)

    def _products(self, a: Sequence[Ct], b: Sequence[Ct]) -> tuple[Poly, Poly, Poly]:
        (a0, a1), (b0, b1) = ([[ct.parts[i] for ct in cts] for i in (0, 1)] for cts in (a, b))
        dot = self.ring.dot
        return dot(a0, b0), dot([*a0, *a1], [*b1, *b0]), dot(a1, b1)

    def relinearize(self, a: Ct) -> Ct:
        """Two parts of three, with a pending rescaling merged into the division by P.

        Raises:
            MissingKeyError: there is no relinearisation key.
        """
        if len(a.parts) == 2:
            return a
        if self.relinearization is None:
            raise MissingKeyError("no relinearisation key")
        key = self.relinearization
        sums = self.ring.switch(a.parts[2], [key], [1], a.parts[:2])[0]
        if a.degree == 1:
            return Ct(tuple(self.ring.mod_down_pair(sums)), a.scale, 1)
        return Ct(tuple(self.ring.mod_down_pair(sums, 1)), a.scale / float(self.moduli[a.limbs - 1]), 1)

    def multiply(self, a: Ct, b: Ct) -> Ct:
        return self.relinearize(self.tensor(a, b))

    def multiply_plain(self, a: Ct, vector: NDArray[Any]) -> Ct:
        """Times a vector of slots, encoded at the canonical scale."""
        a = self._spendable(a)
        scale = self.canonical_scale(a.limbs)
        encoded = self.plaintexts.encode(vector, a.limbs, scale)
        return Ct(self.each("multiply", a.parts, [encoded] * len(a.parts)), a.scale * scale, 2)

    def multiply_constant(self, a: Ct, value: float) -> Ct:
        """Times a real number in all slots."""
        a = self._spendable(a)
        scale = self.canonical_scale(a.limbs)
        factor = _integer(value * scale)
        return Ct(self._times(a.parts, factor), a.scale * scale, 2)

    def combine(self, terms: Sequence[tuple[Ct, float | NDArray[Any]]]) -> Ct:
        """The sum of ciphertexts, of as many parts each, times numbers or plain vectors, in one pass over them.

        Factors carry whatever brings a term to the canonical scale of the lowest level: nothing is dropped first.

        Raises:
            LevelError: a term has no level left.
        """
        operands = [self._spendable(a) for a, _ in terms]
        limbs = min(a.limbs for a in operands)
        scale = self.canonical_scale(limbs, 2)
        factors = [
            self._constant(factor * scale / a.scale, limbs)
            if isinstance(factor, float)
            else self.plaintexts.encode(factor, limbs, scale / a.scale)
            for a, (_, factor) in zip(operands, terms, strict=True)
        ]
        parts = []
        for part in range(len(operands[0].parts)):
            polys = [self.ring.truncate(a.parts[part], limbs) for a in operands]
            sums = [
                self.ring.dot(polys[at : at + TERMS_MAX], factors[at : at + TERMS_MAX])
                for at in range(0, len(polys), TERMS_MAX)
            ]
            parts.append(functools.reduce(self.ring.add, sums))
        return Ct(tuple(parts), scale, 2)

    def _constant(self, value: float, limbs: int) -> Poly:
        """A polynomial that is the integer nearest to ``value``, in compact form."""
        coefficients = np.zeros(COMPACT_WORDS)
        coefficients[0] = _integer(value)
        return self.ring.from_coefficients(coefficients, limbs)

    # -- key switches: no level ---------------------------------------------------------------------------------------

    def rotate(self, a: Ct, steps: int) -> Ct:
        """Slot j + steps to slot j.

        Raises:
            MissingKeyError, LevelError: there is no key for it, or one for lower levels only.
        """
        return self.rotate_many(a, [steps])[0]

    def rotate_many(self, a: Ct, steps: Sequence[int]) -> list[Ct]:
        """Several rotations of one ciphertext, decomposed once (hoisting; Halevi-Shoup 2018, section 4.2)."""
        a = self.settle(a)
        indices = [self.rotation_index(count) for count in steps]
        keys = [self.rotation_key(count, a.limbs) for count in steps]
        return self._apply(a, keys, indices)

    def conjugate(self, a: Ct) -> Ct:
        a = self.settle(a)
        index = 4 * self.slots - 1
        return self._apply(a, [self.automorphism_key(index, a.limbs, "the conjugation")], [index])[0]

    def rotation_index(self, steps: int) -> int:
        """The automorphism X -> X^(5^steps)."""
        return pow(5, steps % self.slots, 4 * self.slots)

    def rotation_key(self, steps: int, limbs: int) -> Key:
        """The key for a rotation of a polynomial of that many limbs; errors as :meth:`automorphism_key`."""
        return self.automorphism_key(self.rotation_index(steps), limbs, f"rotation by {steps} slots")

    def automorphism_key(self, index: int, limbs: int, what: str) -> Key:
        """The smallest key that serves polynomials of that many limbs.

        Args:
            what: it is for, in the error.

        Raises:
            MissingKeyError: there is none at all.
            LevelError: there are keys for fewer limbs only.
        """
        largest = self.automorphisms.get(index)
        if largest is None:
            raise MissingKeyError(f"no key for {what}")
        for key in (*self.reduced.get(index, ()), largest):
            if key.q_limbs >= limbs:
                return key
        raise LevelError(f"the key for {what} serves up to level {largest.q_limbs - 1}, not level {limbs - 1}")

    def keys_at(self, limbs: int) -> dict[int, Key]:
        """For each automorphism the smallest key that serves polynomials of that many limbs, where there is one."""
        found = {}
        for index, largest in self.automorphisms.items():
            fitting = [key for key in (*self.reduced.get(index, ()), largest) if key.q_limbs >= limbs]
            if fitting:
                found[index] = fitting[0]
        return found

    def _apply(self, a: Ct, keys: Sequence[Key], indices: Sequence[int]) -> list[Ct]:
        results: dict[int, Ct] = {}
        # One decomposition serves keys over the same special primes.
        for p_limbs in sorted({key.p_limbs for key in keys}):
            chosen = [i for i, key in enumerate(keys) if key.p_limbs == p_limbs]
            wanted = [keys[i] for i in chosen], [indices[i] for i in chosen]
            switched = self.ring.switch(a.parts[1], *wanted, (a.parts[0], None))
            for i, pair in zip(chosen, self._divided(switched), strict=True):
                results[i] = Ct(pair, a.scale, a.degree)
        return [results[i] for i in range(len(keys))]

    # -- helpers ------------------------------------------------------------------------------------------------------

    def _spendable(self, a: Ct) -> Ct:
        if a.level < 1:
            raise LevelError(f"a product needs a level, and the ciphertext is at level {a.level}")
        return self.settle(a)

    def each(self, operation: str, *operands: Sequence[Any]) -> tuple[Poly, ...]:
        """An operation of the ring for each of several polynomials of one shape: at once where the ring can."""
        together = getattr(self.ring, "together", None)
        if together is not None:
            return tuple(together(operation, *operands))
        return tuple(map(getattr(self.ring, operation), *operands))

    def _times(self, parts: Sequence[Poly], factor: int) -> tuple[Poly, ...]:
        residues = self._residues(factor, parts[0].q_limbs)
        return self.each("multiply_constants", parts, [residues] * len(parts))

    def _divided(self, pairs: Sequence[tuple[Poly, Poly]]) -> list[tuple[Poly, Poly]]:
        """Pairs divided by P."""
        if getattr(self.ring, "together", None) is None:
            return [self.ring.mod_down_pair(pair) for pair in pairs]
        halves = self.each("mod_down", [part for pair in pairs for part in pair])
        return list(zip(halves[::2], halves[1::2], strict=True))

    def _residues(self, value: int, limbs: int) -> list[int]:
        return [value % modulus for modulus in self.moduli[:limbs]]


def _integer(value: float) -> int:
    """The nearest integer.

    Raises:
        NotFiniteError: there is none.
    """
    if not math.isfinite(value):
        raise NotFiniteError("a plain operand is NaN or infinite")
    return round(value)
