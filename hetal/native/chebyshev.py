"""Chebyshev series of a ciphertext (Paterson-Stockmeyer in the Chebyshev basis; Bossuat-Mouchet-Troncoso-Hubaux 2021,
section 5).

A series of degree below 2^d costs d levels. Scales go from the result to the leaves: the constants of each leaf are
chosen so that all terms of a sum have the same scale exactly, and none is adjusted. Sums of three-part products are
relinearised once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hetal.errors import LevelError
from hetal.native.encoding import COEFFICIENTS_MIN
from hetal.native.scheme import Ct, Scheme

# Leaves have a degree below this power of two: fewest relinearisations at degree 31.
LEAF_TERMS: Final = 4
# Nodes at which a function is sampled for its series; far above any degree of ours.
NODES: Final = 512

Series = NDArray[np.float64]


def chebyshev_series(function: Callable[[NDArray[np.float64]], NDArray[Any]], degree: int) -> NDArray[Any]:
    """Coefficients 0 to ``degree`` of the interpolation of ``function`` on [-1, 1] at many nodes, cut off."""
    angles = np.pi * (np.arange(NODES) + 0.5) / NODES
    values = function(np.cos(angles))
    terms = np.array([2.0 / NODES * np.sum(values * np.cos(k * angles)) for k in range(degree + 1)])
    terms[0] /= 2
    return terms


def exponential_series(frequency: float, degree: int) -> Series:
    """The series of exp(i * frequency * x), real: of the cosine at even places, of the sine at odd ones."""
    both = chebyshev_series(lambda x: np.exp(1j * frequency * x), degree)
    return np.where(np.arange(degree + 1) % 2 == 0, both.real, both.imag)


def depth(degree: int) -> int:
    """Levels that a series of this degree consumes."""
    return max(1, degree.bit_length())


def evaluate(scheme: Scheme, x: Ct, series: Series, scale: float, *, imaginary_odd: bool = False) -> Ct:
    """sum_k series[k] T_k(x), with :func:`depth` levels consumed.

    Args:
        scheme: with its relinearisation key set.
        x: two parts, degree 1, slots real in [-1, 1]; of the canonical scale or, a little more precise, twice that.
        series: Chebyshev coefficients, at least two.
        scale: that the result shall have.
        imaginary_odd: terms of odd k are multiplied by the imaginary unit.

    Raises:
        LevelError: ``x`` has too few levels.
    """
    degree = len(series) - 1
    if x.degree != 1 or x.limbs <= depth(degree):
        raise LevelError(f"a series of degree {degree} needs {depth(degree)} levels above 0, x has level {x.level}")
    return _Evaluation(scheme, x, imaginary_odd).run(series, x.limbs - depth(degree), scale)


class _Evaluation:
    """One evaluation, with the Chebyshev polynomials of x found so far (those of odd index times i if asked for)."""

    def __init__(self, scheme: Scheme, x: Ct, imaginary_odd: bool) -> None:
        self.scheme = scheme
        self.ring = scheme.ring
        self.x = x
        self.top = x.limbs
        self.polynomials = {1: scheme.multiply_monomial(x, scheme.slots) if imaginary_odd else x}

    def run(self, series: Series, limbs: int, scale: float) -> Ct:
        """The series at ``limbs`` limbs."""
        return self.finish(self.node(np.asarray(series, dtype=np.float64), limbs, scale * self.modulus(limbs)))

    def node(self, series: Series, limbs: int, scale: float) -> Ct:
        """The series at ``limbs`` limbs and scale ``scale`` over the next modulus, before its rescaling: of one limb
        more, and of two or three parts."""
        degree = len(series) - 1
        needed = [k for k in range(1, degree + 1) if series[k] != 0.0]
        if degree < LEAF_TERMS and all(self.limbs_of(k) > limbs for k in needed):
            return self.leaf(series, needed, limbs + 1, scale)
        half = 1 << (degree.bit_length() - 1)
        quotient, rest = _divide(series, half)
        power = self.cut(self.polynomial(half), limbs + 1)
        if len(quotient) == 1:
            alone = np.zeros(half + 1)
            alone[half] = quotient[0]
            product = self.leaf(alone, [half], limbs + 1, scale)
        else:
            factor = self.run(quotient, limbs + 1, scale / power.scale)
            product = self.tensor(factor, power)
        return self.sum(product, self.node(rest, limbs, scale))

    def leaf(self, series: Series, needed: Sequence[int], limbs: int, scale: float) -> Ct:
        """A sum of multiples of polynomials that are there."""
        if not needed:
            empty = self.ring.zeros(limbs)
            return self.shifted(Ct((empty, empty), scale, 2), series[0])
        terms = [self.cut(self.polynomial(k), limbs) for k in needed]
        factors = [self.constant(float(series[k]) * scale / t.scale, limbs) for k, t in zip(needed, terms, strict=True)]
        parts = tuple(self.ring.dot([t.parts[half] for t in terms], factors) for half in (0, 1))
        return self.shifted(Ct(parts, scale, 2), series[0])

    def polynomial(self, k: int) -> Ct:
        """T_k(x), by T_(a+b) = 2 T_a T_b - T_(a-b)."""
        if k not in self.polynomials:
            a = 1 << ((k - 1).bit_length() - 1)
            b = k - a
            if a == b:
                half = self.x if a == 1 else self.polynomial(a)
                product = self.shifted(self.twice(half, half), -1.0)
            else:
                first, second = self.polynomial(a), self.polynomial(b)
                limbs = min(first.limbs, second.limbs)
                product = self.twice(self.cut(first, limbs), self.cut(second, limbs))
                less = np.zeros(a - b + 1)
                less[a - b] = -1.0
                product = self.sum(product, self.leaf(less, [a - b], limbs, product.scale))
            self.polynomials[k] = self.finish(product)
        return self.polynomials[k]

    def twice(self, a: Ct, b: Ct) -> Ct:
        """2ab: as the product of a and b, of half its scale, where that leaves scale enough; a bit is won by it."""
        scale = a.scale * b.scale / 2.0
        if scale > self.scheme.canonical_scale(a.limbs) * self.modulus(a.limbs - 1):
            return Ct(self.tensor(a, b).parts, scale, 2)
        return self.tensor(Ct(tuple(self.ring.add(part, part) for part in a.parts), a.scale, a.degree), b)

    def limbs_of(self, k: int) -> int:
        """Of T_k(x), whether it is there or not."""
        return self.top - (k - 1).bit_length()

    # -- on ciphertexts -----------------------------------------------------------------------------------------------

    def modulus(self, limbs: int) -> float:
        """What a rescaling to ``limbs`` limbs divides by."""
        return float(self.scheme.moduli[limbs])

    def finish(self, a: Ct) -> Ct:
        """Relinearised and rescaled."""
        return self.scheme.relinearize(a) if len(a.parts) == 3 else self.scheme.settle(a)

    def cut(self, a: Ct, limbs: int) -> Ct:
        """With fewer limbs and the same scale."""
        if a.limbs == limbs:
            return a
        return Ct(tuple(self.ring.truncate(part, limbs) for part in a.parts), a.scale, a.degree)

    def tensor(self, a: Ct, b: Ct) -> Ct:
        parts = self.ring.tensor((a.parts[0], a.parts[1]), (b.parts[0], b.parts[1]))
        return Ct(tuple(parts), a.scale * b.scale, 2)

    def sum(self, a: Ct, b: Ct) -> Ct:
        shared = [self.ring.add(p, q) for p, q in zip(a.parts, b.parts, strict=False)]
        longer = a if len(a.parts) > len(b.parts) else b
        return Ct((*shared, *longer.parts[len(shared) :]), a.scale, a.degree)

    def shifted(self, a: Ct, value: float) -> Ct:
        return self.scheme.add_constant(a, value) if value != 0.0 else a

    def constant(self, value: float, limbs: int) -> Any:
        """A whole number as a compact polynomial: sums of multiples then take one pass over memory."""
        coefficients = np.zeros(COEFFICIENTS_MIN)
        coefficients[0] = np.rint(value)
        return self.ring.from_coefficients(coefficients, limbs)


def _divide(series: Series, half: int) -> tuple[Series, Series]:
    """(q, r) with series = q * T_half + r, for a degree below twice ``half``, which is even or 1."""
    quotient = np.zeros(len(series) - half)
    rest = series[:half].copy()
    quotient[0] = series[half]
    for k in range(half + 1, len(series)):
        quotient[k - half] = 2.0 * series[k]
        rest[2 * half - k] -= series[k]
    return quotient, rest
