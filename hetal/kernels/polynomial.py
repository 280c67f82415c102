"""Real polynomials of ciphertexts in the least depth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hetal.errors import InputError
from hetal.kernels.evaluator import Ciphertext, Evaluator, Vector

Array = NDArray[np.float64]


def depth(degree: int) -> int:
    """Levels that :func:`evaluate` consumes for a polynomial of this degree: ceil(log2(degree + 1))."""
    return degree.bit_length()


def evaluate(ev: Evaluator, x: Ciphertext, coefficients: Sequence[float], mask: Vector | None = None) -> Ciphertext:
    """sum_i coefficients[i] x^i by recursive halving at powers of two.

    p = r + x^(2^k) q with deg r < 2^k: every product joins operands of nearly equal depth. Coefficients multiply before
    the last product, where a level is idle; zero coefficients cost nothing; each sum of products is relinearised once.

    Args:
        coefficients: power basis, constant term first; at least one other than the constant is not zero.
        mask: slots of zeros and ones; where it is zero, so is the result. It multiplies the coefficients and costs no
            level.

    Levels: ceil(log2(degree + 1)); an odd polynomial of degree 7 takes 3 levels, 5 products and 4 relinearisations, a
    full one of degree 8 takes 4, 5 and 4.

    Raises:
        InputError: the polynomial is constant.
    """
    return _Halving(ev, x, mask).evaluate(coefficients)


def evaluate_chebyshev(
    ev: Evaluator, x: Ciphertext, coefficients: Sequence[float], mask: Vector | None = None
) -> Ciphertext:
    """sum_i coefficients[i] T_i(x), as :func:`evaluate` does it: higher degrees lose no precision for x in [-1, 1].

    Levels: ceil(log2(degree + 1)).

    Raises:
        InputError: the polynomial is constant.
    """
    return _ChebyshevHalving(ev, x, mask).evaluate(coefficients)


def divide_chebyshev(coefficients: Array, k: int) -> tuple[Array, Array]:
    """(low, high) with p = low + high T_k, by 2 T_k T_i = T_(k+i) + T_(k-i); the degree is from k to 2 k."""
    low, high = coefficients[:k].copy(), 2.0 * coefficients[k:]
    high[0] = coefficients[k]
    for i in range(1, len(high)):
        low[k - i] -= coefficients[k + i]
    return low, high


class _Halving:
    """One evaluation: the powers x^(2^k) made so far, and the mask that all coefficients carry."""

    def __init__(self, ev: Evaluator, x: Ciphertext, mask: Vector | None) -> None:
        self.ev = ev
        self.powers = [x]
        self.mask = mask

    def evaluate(self, coefficients: Sequence[float]) -> Ciphertext:
        value, constant = self.split(np.asarray(coefficients, dtype=np.float64))
        if value is None:
            raise InputError("a constant polynomial needs no ciphertext")
        return self.shift(self.ev.relinearize(value), constant)

    def power(self, k: int) -> Ciphertext:
        """x^(2^k)."""
        while len(self.powers) <= k:
            self.powers.append(self.next_power())
        return self.powers[k]

    def next_power(self) -> Ciphertext:
        return self.ev.square(self.powers[-1])

    def divide(self, coefficients: Array, k: int) -> tuple[Array, Array]:
        return coefficients[:k], coefficients[k:]

    def multiple(self, factor: float, k: int) -> tuple[Ciphertext, float]:
        """factor x^(2^k), k > 0, less a constant: the factor rides on a product that is due anyway."""
        half = self.power(k - 1)
        return self.ev.mul_no_relin(self.scale(half, factor), half), 0.0

    def scale(self, ct: Ciphertext, factor: float) -> Ciphertext:
        return self.ev.mul_scalar(ct, factor) if self.mask is None else self.ev.mul_plain(ct, factor * self.mask)

    def shift(self, ct: Ciphertext, constant: float) -> Ciphertext:
        if not constant:
            return ct
        return self.ev.add_scalar(ct, constant) if self.mask is None else self.ev.add_plain(ct, constant * self.mask)

    def split(self, coefficients: Array) -> tuple[Ciphertext | None, float]:
        """The polynomial as (ciphertext or None, constant term); the ciphertext may have three parts."""
        terms = np.trim_zeros(coefficients, "b")
        if len(terms) < 2:
            return None, float(terms.sum())
        if len(terms) == 2:
            return self.scale(self.power(0), float(terms[1])), float(terms[0])
        k = (len(terms) - 1).bit_length() - 1
        below, above = self.divide(terms, 1 << k)
        low, constant = self.split(below)
        high, high_constant = self.split(above)
        if high is None:
            upper, shift = self.multiple(high_constant, k)
            constant += shift
        else:
            upper = self.ev.mul_no_relin(self.shift(self.ev.relinearize(high), high_constant), self.power(k))
        return (upper if low is None else self.ev.add(low, upper)), constant


class _ChebyshevHalving(_Halving):
    """The same with T_(2^k) instead of x^(2^k)."""

    def next_power(self) -> Ciphertext:
        return self.ev.add_scalar(self.ev.mul_integer(super().next_power(), 2), -1.0)

    def divide(self, coefficients: Array, k: int) -> tuple[Array, Array]:
        return divide_chebyshev(coefficients, k)

    def multiple(self, factor: float, k: int) -> tuple[Ciphertext, float]:
        twice, _ = super().multiple(2.0 * factor, k)
        return twice, -factor
