"""Polynomials of ciphertexts in the least depth."""

from __future__ import annotations

from collections.abc import Sequence

from hetal.kernels.evaluator import Ciphertext, Evaluator


def depth(degree: int) -> int:
    """Levels that :func:`evaluate` consumes for a polynomial of this degree: ceil(log2(degree + 1))."""
    return degree.bit_length()


def evaluate(ev: Evaluator, x: Ciphertext, coefficients: Sequence[float]) -> Ciphertext:
    """sum_i coefficients[i] x^i by recursive halving at powers of two.

    p = r + x^(2^k) q with deg r < 2^k: every product joins operands of nearly equal depth, so the depth is
    ceil(log2(degree + 1)). Zero coefficients cost nothing, and each sum of products is relinearised once.
    """
    terms = list(coefficients)
    while len(terms) > 1 and terms[-1] == 0.0:
        terms.pop()
    powers = [x]
    while 2 ** len(powers) < len(terms):
        powers.append(ev.square(powers[-1]))
    value, constant = _split(ev, powers, terms)
    if value is None:
        raise ValueError("a constant polynomial needs no ciphertext")
    value = ev.relinearize(value)
    return ev.add_scalar(value, constant) if constant else value


def _split(ev: Evaluator, powers: list[Ciphertext], terms: list[float]) -> tuple[Ciphertext | None, float]:
    """The polynomial as (ciphertext or None, constant term); the ciphertext may have three parts."""
    if not any(terms[1:]):
        return None, terms[0] if terms else 0.0
    if len(terms) == 2:
        return ev.mul_scalar(powers[0], terms[1]), terms[0]
    half = 1 << ((len(terms) - 1).bit_length() - 1)
    low, low_constant = _split(ev, powers, terms[:half])
    high, high_constant = _split(ev, powers, terms[half:])
    power = powers[half.bit_length() - 1]
    if high is None:
        upper = ev.mul_scalar(power, high_constant)
    else:
        high = ev.relinearize(high)
        upper = ev.mul_no_relin(ev.add_scalar(high, high_constant) if high_constant else high, power)
    return (upper if low is None else ev.add(low, upper)), low_constant
