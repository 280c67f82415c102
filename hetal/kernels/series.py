"""Long Fourier and Chebyshev series of a ciphertext: baby steps, giant steps, and one relinearisation a sum.

A series of degree d is cut into leaves of ``BABY`` terms, p = sum_j leaf_j * G_j with G_j the basis function of index
8 j. From the largest power of two k below the number of leaves on, G_k is factored out, p = low + high * G_k, so that
operands of a product are of nearly equal depth. Scalars multiply the leaves, where a level is idle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hetal.errors import InputError
from hetal.kernels.evaluator import Ciphertext, Evaluator, Vector
from hetal.kernels.polynomial import divide_chebyshev

Array = NDArray[np.float64]
BABY: Final = 8


@dataclass(frozen=True, slots=True)
class Fourier:
    """constant + sum_k cosines[k-1] cos(2 pi k v / period) + sines[k-1] sin(2 pi k v / period)."""

    period: float
    constant: float
    cosines: tuple[float, ...]
    sines: tuple[float, ...]

    @property
    def degree(self) -> int:
        return len(self.cosines)

    def scaled(self, factor: float) -> Fourier:
        """The same series times ``factor``."""
        return Fourier(
            self.period,
            factor * self.constant,
            tuple(factor * c for c in self.cosines),
            tuple(factor * s for s in self.sines),
        )

    def __call__(self, v: Array) -> Array:
        """Values in the clear."""
        z = np.exp(2j * np.pi * np.asarray(v, dtype=np.float64) / self.period)
        terms = np.asarray(self.cosines) - 1j * np.asarray(self.sines)
        total = np.zeros(z.shape, dtype=np.complex128)
        for term in terms[::-1]:
            total = (total + term) * z
        return np.asarray(total.real + self.constant)


def depth(degree: int, *, masked: bool = False) -> int:
    """Levels of a series: 6 for a degree of 55, 7 for 95, with masks or without; 6 for 39 with masks."""
    leaf, count = _power_depth(min(degree, BABY - 1)) + 1 + masked, degree // BABY + 1
    if count == 1:
        return leaf
    split = _split(count)
    high = leaf if count - split == 1 else max(leaf, _power_depth(BABY * (count - split - 1))) + 1
    return max(leaf, high, _power_depth(BABY * split)) + 1


def chebyshev(ev: Evaluator, x: Ciphertext, coefficients: Sequence[float]) -> Ciphertext:
    """sum_k coefficients[k] T_k(x), x real in [-1, 1].

    Levels: ``depth(degree)``. Degree 55: 6 levels, 16 products, 12 relinearisations.

    Raises:
        InputError: the series is constant.
    """
    if len(coefficients) < 2:
        raise InputError("a constant series needs no ciphertext")
    basis = _Basis(ev, x, _chebyshev_product).prepare(len(coefficients) - 1)
    constant, *rest = coefficients
    leaves = [_leaf(ev, basis, part) for part in _chebyshev_leaves(np.array([0.0, *rest]))]
    return ev.add_scalar(_combine(ev, leaves, basis), constant)


class FourierSum:
    """sum_k c_k z^k, c_0 = constant / 2, c_k = (cosines - i sines) / 2: half of a series at z = exp(2 pi i v / period).

    The result and its complex conjugate add up to the series. The powers of z and the leaves serve :meth:`at` and
    :meth:`at_negative` together. Where z is 0 both are c_0; where z is bounded by 1 they are no larger than sum |c_k|.

    Levels: ``depth(degree)``. Degree 95: 7 levels, 14 relinearisations, and 2 more per call.
    """

    def __init__(self, ev: Evaluator, z: Ciphertext, series: Fourier) -> None:
        self.ev = ev
        self.constant = series.constant / 2
        self._basis = _Basis(ev, z, _power_product).prepare(series.degree)
        parts = [np.array([0.0, *values]) / 2 for values in (series.cosines, series.sines)]
        self._cosines, self._sines = ([_leaf(ev, self._basis, cut) for cut in _cut(part)] for part in parts)

    def at(self, mask: Vector | None = None) -> Ciphertext:
        """The half at v, times ``mask``."""
        return self._sum(self.ev.sub, mask)

    def at_negative(self, mask: Vector | None = None) -> Ciphertext:
        """The half at -v, times ``mask``."""
        return self._sum(self.ev.add, mask)

    def _sum(self, join: Callable[[Ciphertext, Ciphertext], Ciphertext], mask: Vector | None) -> Ciphertext:
        ev = self.ev
        leaves: list[Ciphertext | None] = []
        for cosines, sines in zip(self._cosines, self._sines, strict=True):
            turned = None if sines is None else ev.mul_i(sines)
            if turned is None:
                leaf = cosines
            elif cosines is None:
                leaf = turned if join == ev.add else ev.negate(turned)
            else:
                leaf = join(cosines, turned)
            leaves.append(leaf if mask is None or leaf is None else ev.mul_plain(leaf, mask))
        total = _combine(ev, leaves, self._basis)
        if mask is None:
            return ev.add_scalar(total, self.constant)
        return ev.add_plain(total, self.constant * mask)


class _Basis:
    """Basis functions of a ciphertext, each made once: index k from halves of k, in ceil(log2 k) levels."""

    def __init__(
        self,
        ev: Evaluator,
        first: Ciphertext,
        product: Callable[[Evaluator, Callable[[int], Ciphertext], int, int], Ciphertext],
    ) -> None:
        self._ev = ev
        self._product = product
        self._made = {1: first}

    def __call__(self, k: int) -> Ciphertext:
        if k not in self._made:
            self._made[k] = self._make(k)
        return self._made[k]

    def prepare(self, degree: int) -> _Basis:
        """All that a series of this degree takes, those of one depth at once."""
        leaves = degree // BABY + 1
        giants = range(2, _split(leaves) + 1) if leaves > 1 else ()
        wanted = [*range(2, min(degree, BABY) + 1), *(BABY * j for j in giants)]
        for depth in range(1, _power_depth(max(wanted, default=1)) + 1):
            wave = [k for k in wanted if _power_depth(k) == depth and k not in self._made]
            self._made.update(zip(wave, self._ev.map(self._make, wave), strict=True))
        return self

    def _make(self, k: int) -> Ciphertext:
        half = k // 2 if k <= BABY else BABY * (k // (2 * BABY))
        return self._product(self._ev, self, k - half, half)


def _power_product(ev: Evaluator, power: Callable[[int], Ciphertext], a: int, b: int) -> Ciphertext:
    return ev.mul(power(a), power(b))


def _chebyshev_product(ev: Evaluator, power: Callable[[int], Ciphertext], a: int, b: int) -> Ciphertext:
    """T_(a+b) = 2 T_a T_b - T_(a-b)."""
    twice = ev.mul_integer(ev.mul(power(a), power(b)), 2)
    return ev.add_scalar(twice, -1.0) if a == b else ev.sub(twice, power(a - b))


def _leaf(ev: Evaluator, basis: _Basis, coefficients: Array) -> Ciphertext | None:
    """Up to ``BABY`` terms of a series, or None where all of them are 0."""
    if not coefficients.any():
        return None
    used = [k for k in range(1, len(coefficients)) if coefficients[k]]
    if not used:
        return ev.add_scalar(ev.mul_scalar(basis(1), 0.0), float(coefficients[0]))
    total = ev.combine([basis(k) for k in used], [float(coefficients[k]) for k in used])
    return ev.add_scalar(total, float(coefficients[0])) if coefficients[0] else total


def _combine(ev: Evaluator, leaves: Sequence[Ciphertext | None], basis: _Basis) -> Ciphertext:
    total = leaves[0]
    if len(leaves) > 1:
        split = _split(len(leaves))
        total = _giant_steps(ev, [*leaves[:split], _giant_steps(ev, leaves[split:], basis)], basis)
    if total is None:
        raise InputError("a constant series needs no ciphertext")
    return total


def _giant_steps(ev: Evaluator, leaves: Sequence[Ciphertext | None], basis: _Basis) -> Ciphertext | None:
    """sum_j leaves[j] * G_j, where G_0 is 1 and None is 0."""
    first, terms = leaves[0], [(leaf, basis(BABY * j)) for j, leaf in enumerate(leaves) if j and leaf is not None]
    if not terms:
        return first
    total = ev.relinearize(ev.inner_product(*zip(*terms, strict=True)))
    return total if first is None else ev.add(first, total)


def _split(leaves: int) -> int:
    """Largest power of two below the number of leaves."""
    return 1 << ((leaves - 1).bit_length() - 1)


def _cut(coefficients: Array) -> list[Array]:
    return [coefficients[start : start + BABY] for start in range(0, len(coefficients), BABY)]


def _chebyshev_leaves(coefficients: Array) -> list[Array]:
    count = -(-len(coefficients) // BABY)
    if count == 1:
        return [coefficients]
    low, high = divide_chebyshev(coefficients, BABY * _split(count))
    return [leaf for part in (low, high) for leaf in _quotients(part)]


def _quotients(coefficients: Array) -> list[Array]:
    """Leaves with p = sum_j leaf_j T_(8j)."""
    leaves: list[Array] = []
    for j in range((len(coefficients) - 1) // BABY, 0, -1):
        coefficients, leaf = divide_chebyshev(coefficients, BABY * j)
        leaves.append(leaf)
    return [coefficients, *reversed(leaves)]


def _power_depth(k: int) -> int:
    return (k - 1).bit_length()
