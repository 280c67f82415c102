"""The canonical embedding against its definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hetal.errors import ShapeError
from hetal.native.encoding import decode, encode, periodic


def slots_of(coefficients: NDArray[np.float64]) -> NDArray[np.complex128]:
    """p(zeta^(5^j)) by the definition."""
    n = len(coefficients)
    exponents = np.array([pow(5, j, 2 * n) for j in range(n // 2)])
    angles = np.outer(exponents, np.arange(n)) % (2 * n)
    return np.exp(1j * np.pi * angles / n) @ coefficients


def random_slots(count: int, seed: int) -> NDArray[np.complex128]:
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, count) + 1j * rng.uniform(-1, 1, count)


@given(bits=st.integers(0, 9), seed=st.integers(0, 1000))
def test_the_slots_of_what_is_encoded(bits: int, seed: int) -> None:
    values = random_slots(1 << bits, seed)
    coefficients = encode(values, 2.0**40)
    assert coefficients.shape == (2 << bits,)
    assert (coefficients == np.rint(coefficients)).all()
    # Rounding moves a slot by half the number of coefficients at most.
    assert np.abs(slots_of(coefficients) / 2.0**40 - values).max() < (1 << bits) * 2.0**-39
    assert np.abs(decode(coefficients, 2.0**40) - slots_of(coefficients) / 2.0**40).max() < 1e-12


def test_the_imaginary_unit_and_constants_are_monomials() -> None:
    due = np.zeros(128)
    due[64] = 1000
    assert (encode(np.full(64, 1j), 1000.0) == due).all()
    assert (encode(np.full(64, 2.0), 1000.0) == 2 * np.roll(due, 64)).all()


@pytest.mark.parametrize("period", [32, 64, 256, 512])
def test_vectors_with_a_period_have_few_coefficients(period: int) -> None:
    values = np.tile(random_slots(period, 1), 512 // period)
    short = periodic(values)
    assert len(short) == period
    small, whole = encode(short, 2.0**30), encode(values, 2.0**30)
    assert (whole[:: 512 // period] == small).all()
    assert np.count_nonzero(whole) == np.count_nonzero(small)


def test_what_has_no_shorter_period_stays_whole() -> None:
    values: Any = np.tile(random_slots(64, 2), 4)
    values[-1] += 1e-9
    assert len(periodic(values)) == 256
    assert len(periodic(np.zeros(4096))) == 32
    assert len(periodic(np.zeros(16))) == 16


def test_other_sizes_are_refused() -> None:
    for size in (0, 3, 100):
        with pytest.raises(ShapeError):
            encode(np.zeros(size), 1.0)
    with pytest.raises(ShapeError):
        decode(np.zeros(6), 1.0)
