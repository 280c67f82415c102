"""Residues modulo several primes at once, on NumPy: products, transforms, base conversion.

All is exact: a product's quotient comes from a long double and is corrected by one where it is off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
Integers = NDArray[np.int64]

if np.finfo(np.longdouble).nmant < 63:
    raise ImportError("the reference engine needs a long double of 64 bits of precision or more")


class Basis:
    """Some moduli with the tables of their transforms: columns that broadcast over (limbs, N)."""

    def __init__(self, moduli: Sequence[int], powers: Words, order: Integers) -> None:
        self.moduli = list(moduli)
        self.column: Words = np.array(self.moduli, dtype=np.uint64).reshape(-1, 1)
        self._long = self.column.astype(np.longdouble)
        self._powers = powers
        self._order = order

    def select(self, indices: Sequence[int]) -> Basis:
        return Basis([self.moduli[i] for i in indices], self._powers[list(indices)], self._order)

    def constants(self, values: Sequence[int]) -> Words:
        """A column of one integer for each modulus, reduced."""
        return np.array([v % m for v, m in zip(values, self.moduli, strict=True)], dtype=np.uint64).reshape(-1, 1)

    def multiply(self, x: Words, y: Words, shape: tuple[int, ...] = (-1, 1)) -> Words:
        """x * y; ``shape`` is that of the moduli in the broadcast."""
        modulus = self.column.reshape(shape)
        # The product has at most 120 bits and the long double 64: the quotient is right up to one.
        quotient = (x.astype(np.longdouble) * y.astype(np.longdouble) / self._long.reshape(shape)).astype(np.uint64)
        rest = x * y - quotient * modulus
        rest = np.where(rest >> np.uint64(63), rest + modulus, rest)
        return np.where(rest >= modulus, rest - modulus, rest)

    def add(self, x: Words, y: Words) -> Words:
        total = x + y
        return np.where(total >= self.column, total - self.column, total)

    def subtract(self, x: Words, y: Words) -> Words:
        return self.add(x, self.column - y)

    def reduce(self, integers: Integers) -> Words:
        """Signed integers modulo each modulus."""
        return (integers % self.column.astype(np.int64)).astype(np.uint64)

    def centred(self, x: Words) -> Integers:
        return np.where(x > self.column >> np.uint64(1), x - self.column, x).astype(np.int64)

    def forward(self, x: Words) -> Words:
        """Coefficients to values; a row of n < N words is a polynomial in X^(N/n)."""
        limbs, size = x.shape
        nodes = self._powers[:, self._order[:size]]
        blocks = 1
        while blocks < size:
            pairs = x.reshape(limbs, blocks, 2, size // (2 * blocks))
            roots = nodes[:, blocks : 2 * blocks, None]
            low, high = pairs[:, :, 0], self.multiply(pairs[:, :, 1], roots, (-1, 1, 1))
            modulus = self.column[:, :, None]
            total, rest = low + high, low + (modulus - high)
            out = np.stack([total, rest], axis=2)
            x = np.where(out >= modulus[:, :, None], out - modulus[:, :, None], out).reshape(limbs, size)
            blocks *= 2
        return x

    def inverse(self, x: Words) -> Words:
        """Values to coefficients."""
        limbs, size = x.shape
        # psi^-k is -psi^(N-k).
        inverses = (self.column - self._powers[:, (size - self._order[:size]) % (2 * size)]) % self.column
        inverses[:, 0] = 1
        blocks = size // 2
        while blocks:
            pairs = x.reshape(limbs, blocks, 2, size // (2 * blocks))
            modulus = self.column[:, :, None]
            low, high = pairs[:, :, 0], pairs[:, :, 1]
            total, rest = low + high, low + (modulus - high)
            total = np.where(total >= modulus, total - modulus, total)
            rest = np.where(rest >= modulus, rest - modulus, rest)
            rest = self.multiply(rest, inverses[:, blocks : 2 * blocks, None], (-1, 1, 1))
            x = np.stack([total, rest], axis=2).reshape(limbs, size)
            blocks //= 2
        return self.multiply(x, self.constants([pow(size, -1, m) for m in self.moduli]))

    def monomial(self, exponent: int) -> Words:
        """X^exponent."""
        size = self._order.size
        return self._powers[:, (2 * self._order + 1) * exponent % (2 * size)]


def convert(sources: Basis, coefficients: Words, targets: Basis, *, exact: bool) -> Words:
    """A polynomial's coefficients modulo other primes.

    Args:
        coefficients: modulo the sources.
        exact: the centred representative; else that plus a small multiple of the product of the sources (fast base
            conversion, Halevi-Polyakov-Shoup 2018, section 2).
    """
    product = math.prod(sources.moduli)
    others = [product // m for m in sources.moduli]
    inverses = sources.constants([pow(o, -1, m) for o, m in zip(others, sources.moduli, strict=True)])
    y = sources.centred(sources.multiply(coefficients, inverses))
    total: Words = np.zeros((len(targets.moduli), coefficients.shape[1]), dtype=np.uint64)
    for row, other in zip(y, others, strict=True):
        constants = targets.constants([other] * len(targets.moduli))
        total = targets.add(total, targets.multiply(targets.reduce(row), constants))
    if exact:
        overflow = targets.reduce(_overflow(y, sources.moduli, others, product))
        excess = targets.constants([product] * len(targets.moduli))
        total = targets.subtract(total, targets.multiply(overflow, excess))
    return total


def _overflow(y: Integers, moduli: list[int], others: list[int], product: int) -> Integers:
    """round(sum y_k / m_k): multiples of the product by which the sum exceeds the centred representative."""
    fraction = np.zeros(y.shape[1], dtype=np.longdouble)
    for row, modulus in zip(y, moduli, strict=True):
        fraction += row.astype(np.longdouble) / modulus
    rounded = np.rint(fraction)
    result = rounded.astype(np.int64)
    # Where the long double cannot tell which side of a half it is on, integers do. There is no tie: moduli are odd.
    for i in np.flatnonzero(np.abs(np.abs(fraction - rounded) - 0.5) < 2.0**-50):
        value = sum(int(v) * other for v, other in zip(y[:, i], others, strict=True))
        result[i] = (2 * value + product) // (2 * product)
    return result


def divide(basis: Basis, value: Words, rest: Words, divisor: int) -> Words:
    """(value - rest) / divisor."""
    inverse = basis.constants([pow(divisor, -1, m) for m in basis.moduli])
    return basis.multiply(basis.subtract(value, rest), inverse)


def bit_reversal(bits: int) -> Integers:
    index: Integers = np.arange(1 << bits, dtype=np.int64)
    result: Integers = np.zeros_like(index)
    for _ in range(bits):
        result = (result << 1) | (index & 1)
        index >>= 1
    return result
