"""Chebyshev series on ciphertexts against NumPy's, levels and scales."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from native_client import Client, small_parameters
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

from hetal.errors import LevelError
from hetal.native import reference
from hetal.native.chebyshev import chebyshev_series, depth, evaluate, exponential_series
from hetal.native.scheme import Ct

LEVEL = 8


@pytest.fixture(scope="module")
def client() -> Client:
    client = Client(reference, small_parameters())
    client.make_keys([])
    return client


@pytest.fixture(scope="module")
def slots(client: Client) -> NDArray[np.float64]:
    x = client.rng.uniform(-1, 1, client.params.slots)
    x[:3] = (-1.0, 1.0, 0.0)
    return x


@pytest.fixture(scope="module")
def x(client: Client, slots: NDArray[np.float64]) -> Ct:
    return client.encrypt(slots, LEVEL)


def check_error(client: Client, error: NDArray[Any], series: NDArray[np.float64]) -> None:
    """The rounding of rescalings, as the recurrences of T_k let it grow: by k^2 at most, by about k on average."""
    size = client.params.ring_dimension
    one = math.sqrt(size * (2 * size / 3 + 1) / 12) / 2.0**client.params.spec.scale_bits
    k = np.arange(len(series))
    assert np.abs(error).max() < 6 * one * float(np.sum(np.abs(series) * (1 + k**2)))
    assert np.sqrt(np.mean(np.abs(error) ** 2)) < 2 * one * float(np.sum(np.abs(series) * (1 + k)))


def random_series(degree: int) -> NDArray[np.float64]:
    return np.random.default_rng(degree).uniform(-1, 1, degree + 1)


@pytest.mark.parametrize("degree", [1, 2, 3, 4, 5, 7, 8, 12, 15, 16, 23, 31, 32, 47, 63])
def test_a_series_equals_numpys_at_the_least_depth(client: Client, x: Ct, slots: Any, degree: int) -> None:
    series = random_series(degree)
    scale = 1.25 * client.scheme.canonical_scale(LEVEL + 1 - depth(degree))
    result = evaluate(client.scheme, x, series, scale)
    assert (len(result.parts), result.degree, result.level) == (2, 1, LEVEL - math.ceil(math.log2(degree + 1)))
    assert result.scale == pytest.approx(scale, rel=1e-12)
    check_error(client, client.decrypt(result) - chebyshev.chebval(slots, series), series)


def test_places_without_a_term(client: Client, x: Ct, slots: Any) -> None:
    for places in ([16], [0, 31], [1, 8, 20], [2]):
        series = np.zeros(max(places) + 1)
        series[places] = 0.5
        result = evaluate(client.scheme, x, series, client.scheme.canonical_scale(3))
        check_error(client, client.decrypt(result) - chebyshev.chebval(slots, series), series)


def test_odd_terms_times_i(client: Client, x: Ct, slots: Any) -> None:
    series = random_series(11)
    result = evaluate(client.scheme, x, series, client.scheme.canonical_scale(5), imaginary_odd=True)
    even, odd = series * (np.arange(12) % 2 == 0), series * (np.arange(12) % 2)
    expected = chebyshev.chebval(slots, even) + 1j * chebyshev.chebval(slots, odd)
    check_error(client, client.decrypt(result) - expected, series)


@pytest.mark.parametrize("frequency", [3.0, 11.0])
def test_the_exponential(client: Client, x: Ct, slots: Any, frequency: float) -> None:
    series = exponential_series(frequency, 31)
    result = evaluate(client.scheme, x, series, client.scheme.canonical_scale(4), imaginary_odd=True)
    check_error(client, client.decrypt(result) - np.exp(1j * frequency * slots), series)


def test_the_argument_may_have_twice_the_scale(client: Client, slots: Any) -> None:
    series = exponential_series(11.0, 31)
    a = client.encrypt(slots, LEVEL)
    doubled = Ct(client.scheme.add(a, a).parts, 2 * a.scale)
    result = evaluate(client.scheme, doubled, series, client.scheme.canonical_scale(4), imaginary_odd=True)
    check_error(client, client.decrypt(result) - np.exp(11j * slots), series)


def test_series_of_functions() -> None:
    points = np.linspace(-1, 1, 1001)
    series = chebyshev_series(lambda x: np.exp(x) * x, 20)
    assert np.abs(chebyshev.chebval(points, series) - points * np.exp(points)).max() < 1e-14
    both = exponential_series(11.0, 31).astype(complex)
    both[1::2] *= 1j
    assert np.abs(chebyshev.chebval(points, both) - np.exp(11j * points)).max() < 2.0**-38


def test_too_few_levels_are_refused(client: Client, slots: Any) -> None:
    a = client.encrypt(slots, 3)
    with pytest.raises(LevelError, match="degree 15 needs 4 levels above 0, x has level 3"):
        evaluate(client.scheme, a, random_series(15), a.scale)
    pending = client.scheme.tensor(a, a)
    with pytest.raises(LevelError):
        evaluate(client.scheme, pending, random_series(1), a.scale)
