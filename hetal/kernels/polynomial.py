"""Real polynomials of ciphertexts in the least depth."""

from __future__ import annotations

from collections.abc import Sequence

from hetal.errors import InputError
from hetal.kernels.evaluator import Ciphertext, Evaluator, Vector


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
    plan = _Halving(ev, x, mask)
    value, constant = plan.split(coefficients)
    if value is None:
        raise InputError("a constant polynomial needs no ciphertext")
    return plan.shift(ev.relinearize(value), constant)


class _Halving:
    """One evaluation: the powers x^(2^k) made so far, and the mask that all coefficients carry."""

    def __init__(self, ev: Evaluator, x: Ciphertext, mask: Vector | None) -> None:
        self.ev = ev
        self.powers = [x]
        self.mask = mask

    def power(self, k: int) -> Ciphertext:
        """x^(2^k)."""
        while len(self.powers) <= k:
            self.powers.append(self.ev.square(self.powers[-1]))
        return self.powers[k]

    def scale(self, ct: Ciphertext, factor: float) -> Ciphertext:
        return self.ev.mul_scalar(ct, factor) if self.mask is None else self.ev.mul_plain(ct, factor * self.mask)

    def shift(self, ct: Ciphertext, constant: float) -> Ciphertext:
        if not constant:
            return ct
        return self.ev.add_scalar(ct, constant) if self.mask is None else self.ev.add_plain(ct, constant * self.mask)

    def split(self, coefficients: Sequence[float]) -> tuple[Ciphertext | None, float]:
        """The polynomial as (ciphertext or None, constant term); the ciphertext may have three parts."""
        terms = list(coefficients)
        while terms and terms[-1] == 0.0:
            terms.pop()
        if len(terms) < 2:
            return None, terms[0] if terms else 0.0
        if len(terms) == 2:
            return self.scale(self.power(0), terms[1]), terms[0]
        k = (len(terms) - 1).bit_length() - 1
        low, low_constant = self.split(terms[: 1 << k])
        high, high_constant = self.split(terms[1 << k :])
        if high is None:
            # c x^(2^k) as (c h) h with h = x^(2^(k-1)): the factor rides on a product that is due anyway.
            half = self.power(k - 1)
            upper = self.ev.mul_no_relin(self.scale(half, high_constant), half)
        else:
            upper = self.ev.mul_no_relin(self.shift(self.ev.relinearize(high), high_constant), self.power(k))
        return (upper if low is None else self.ev.add(low, upper)), low_constant
