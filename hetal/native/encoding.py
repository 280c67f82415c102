"""Slots to coefficients and back: the canonical embedding of CKKS (Cheon-Kim-Kim-Song 2017, section 3.2).

Slot j of a polynomial p of dimension N is p(zeta^(5^j)), zeta = exp(i pi / N), for j < N/2. The exponents 5^j are the
numbers 4t + 1 below 2N, so one complex transform of N/2 points reaches all slots.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hetal.errors import ShapeError

# The fewest coefficients that the engine takes of a compact polynomial.
COEFFICIENTS_MIN: Final = 64

Slots = NDArray[np.complex128]
Coefficients = NDArray[np.float64]
Places = NDArray[np.int64]


def encode(values: NDArray[Any], scale: float) -> Coefficients:
    """Integers (as doubles) that are the coefficients of a polynomial with these slots, times ``scale``.

    Args:
        values: m slots, real or complex, m a power of two. With m = N/2 the 2m = N coefficients are the polynomial's.
            With fewer the polynomial of dimension N with these coefficients at X^(k*N/(2m)) has the slots ``values``
            over and over.
        scale: what slots are multiplied by before rounding.

    Raises:
        ShapeError: the number of slots is no power of two.
    """
    size = len(values)
    places, twist = _tables(size)
    points: Slots = np.empty(size, dtype=np.complex128)
    points[places] = values
    packed = np.fft.fft(points, norm="forward") * twist.conj() * scale
    rounded: Coefficients = np.rint(np.concatenate([packed.real, packed.imag]))
    return rounded


def decode(coefficients: Coefficients, scale: float) -> Slots:
    """The slots, divided by ``scale``, of a polynomial: the inverse of :func:`encode`.

    Raises:
        ShapeError: the number of coefficients is no power of two.
    """
    size = len(coefficients) // 2
    places, twist = _tables(size)
    points = np.fft.ifft((coefficients[:size] + 1j * coefficients[size:]) * twist, norm="forward")
    return points[places] / scale


def periodic(values: NDArray[Any]) -> NDArray[Any]:
    """The shortest beginning of ``values`` that repeated gives all, of a power of two slots and at least 32."""
    size = len(values)
    while size > COEFFICIENTS_MIN // 2 and (values[: size // 2] == values[size // 2 : size]).all():
        size //= 2
    return values[:size]


@lru_cache(maxsize=16)
def _tables(slots: int) -> tuple[Places, Slots]:
    """Where slot j lies among the points 4t + 1, and zeta^k."""
    if slots < 1 or slots & (slots - 1):
        raise ShapeError(f"{slots} slots are no power of two")
    places: Places = np.empty(slots, dtype=np.int64)
    power = 1
    for j in range(slots):
        places[j] = power >> 2
        power = power * 5 % (4 * slots)
    return places, np.exp(1j * np.pi * np.arange(slots) / (2 * slots))
